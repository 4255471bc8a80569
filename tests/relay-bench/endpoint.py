#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""One end of a connection that is measured, in a process of its own.

usage: endpoint.py send|receive|ask|answer DESCRIPTOR SECONDS

``send`` sends the pattern for so many seconds and then the end; ``receive`` holds every byte
against the pattern until the end comes; ``ask`` sends a byte and waits for the answer, again and
again; ``answer`` returns each byte as it is.  At the end each says in a line of JSON what it found.
The pattern's length is no multiple of any size that programs move at once, so bytes that were
lost, repeated or exchanged do not fit.
"""

import json
import math
import random
import socket
import sys
import time
from typing import Any

PERIOD = (1 << 20) + 4093
BLOCK = 1 << 18
WARM = 0.25                 # the part of the time that is for slow start and is not counted
PATIENCE = 20.0             # seconds without a byte
ROUNDS = 5000               # of questions, at most


def pattern() -> memoryview:
    """Two periods of it, so that a block may begin anywhere in the first."""
    once = random.Random(1).randbytes(PERIOD)
    return memoryview(once + once)


def send(sock: socket.socket, seconds: float) -> dict[str, Any]:
    data, total = pattern(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        at = total % PERIOD
        total += sock.send(data[at:at + BLOCK])
    sock.shutdown(socket.SHUT_WR)
    return {"bytes": total}


def receive(sock: socket.socket, seconds: float) -> dict[str, Any]:
    """SECONDS is how long the sender sends; the speed is that of all but their first part."""
    data, room = pattern(), memoryview(bytearray(BLOCK))
    total, counted, marked, begin, mark, last = 0, 0, 0, 0.0, 0.0, 0.0
    while size := sock.recv_into(room):
        now = time.monotonic()
        begin = begin or now
        at = total % PERIOD
        if room[:size] != data[at:at + size]:
            return {"bytes": total, "error": f"damaged within {size} bytes after {total}"}
        total += size
        if now <= begin + seconds:
            last, counted = now, total
            if not mark and now >= begin + WARM * seconds:
                mark, marked = now, total
    if not mark or last <= mark:
        return {"bytes": total, "error": "too little arrived to tell a speed"}
    return {"bytes": total, "mbit": (counted - marked) * 8 / (last - mark) / 1e6}


def ask(sock: socket.socket, seconds: float) -> dict[str, Any]:
    times = []
    end = time.monotonic() + seconds
    while len(times) < ROUNDS and (time.monotonic() < end or len(times) < 5):
        byte = bytes([len(times) & 0xFF])
        begin = time.perf_counter()
        sock.sendall(byte)
        if sock.recv(2) != byte:
            return {"error": f"another answer than the question after {len(times)} rounds"}
        times.append(time.perf_counter() - begin)
    sock.shutdown(socket.SHUT_WR)
    return {"rounds": len(times), "median_us": quantile(times, 0.5) * 1e6,
            "p99_us": quantile(times, 0.99) * 1e6}


def answer(sock: socket.socket, _seconds: float) -> dict[str, Any]:
    total = 0
    while data := sock.recv(4096):
        sock.sendall(data)
        total += len(data)
    return {"rounds": total}


def quantile(values: list[float], part: float) -> float:
    """Return the least value that PART of all do not exceed."""
    return sorted(values)[math.ceil(part * len(values)) - 1]


def main() -> None:
    role, descriptor, seconds = sys.argv[1:]
    sock = socket.socket(fileno=int(descriptor))
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    roles = {"send": send, "receive": receive, "ask": ask, "answer": answer}
    try:
        found = roles[role](sock, float(seconds))
    except OSError as error:
        found = {"error": f"{role}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
