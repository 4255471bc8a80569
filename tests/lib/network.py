# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports, and new connections to a guest's services: these return nothing or what is wrong."""

import http.client
import os
import socket
import time

from machine import ECHO, HTTP, Machine

TIMEOUT = 20
TRIES = 3                   # the first packets after an arrival may be lost, as on any network
BYTES = 32768


def free_port(address: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    """Return a port of an address of this machine that nobody has now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as one:
        one.bind((address, 0))
        return one.getsockname()[1]


def echo_fault(machine: Machine, size: int = 4096) -> str | None:
    """Send random bytes to the echo service and compare what comes back."""
    sent = os.urandom(size)
    received = b""
    try:
        with socket.create_connection(machine.address(ECHO), TIMEOUT) as connection:
            connection.sendall(sent)
            while len(received) < size and (block := connection.recv(65536)):
                received += block
    except OSError as error:
        return f"echo: {error or 'failed'}"
    return None if received == sent else f"echo: {len(received)} of {size} bytes came back right"


def get(machine: Machine, path: str) -> bytes:
    """Return the body of an HTTP answer."""
    connection = http.client.HTTPConnection(*machine.address(HTTP), timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}")
        return body
    finally:
        connection.close()


def expected_bytes(count: int) -> bytes:
    """Return what the guest's page /bytes/COUNT holds."""
    words = ((i * 0x9e3779b97f4a7c15 & 0xffffffffffffffff).to_bytes(8, "little")
             for i in range((count + 7) // 8))
    return b"".join(words)[:count]


def http_fault(machine: Machine) -> str | None:
    """Fetch a page whose bytes are known."""
    try:
        body = get(machine, f"/bytes/{BYTES}")
    except (OSError, http.client.HTTPException) as error:
        return f"http: {error or 'failed'}"
    return None if body == expected_bytes(BYTES) else "http: the page came damaged"


def faults(machine: Machine) -> list[str]:
    """Try each service; a fault counts when it stays."""
    found: list[str] = []
    for check in (echo_fault, http_fault):
        for attempt in range(TRIES):
            fault = check(machine)
            if fault is None:
                break
            time.sleep(attempt)
        else:
            found.append(f"{fault} ({TRIES} times)")
    return found
