#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Forwards over IPv6, to a guest with the kernel's own stack, through each kind of NAT."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import relaylib
from network import free_port
from relaylib import Relay, wait_for
from tapguest import NAMESPACE, TapGuest, usable
from test_far import exchange

MAC = bytes.fromhex("525400000001")
WEB = {"secret": "11" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true"}
PATIENCE = 60.0
OUTSIDE = "2001:db8::1"
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as sock:
    sock.sendall(b"hello")
    assert sock.recv(100) == b"HELLO"
"""


def why_not() -> str:
    try:
        free_port("::1")
    except OSError:
        return "this host has no IPv6"
    return usable()


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "usable")


@contextlib.contextmanager
def served(*forwards: str, **settings: str) \
        -> Iterator[tuple[Relay, TapGuest, socket.socket, socket.socket]]:
    """A relay with these forwards, its guest, and who listens there over IPv4 and IPv6."""
    identity = {**WEB, **settings, "forward": ";".join(forwards)}
    with Relay({"acme/web": identity}) as relay, TapGuest(MAC) as guest, \
            guest.listen(80) as old, guest.listen(80, socket.AF_INET6) as new:
        guest.attach(relay.attach("acme/web").sock)
        wait_for(lambda: relay.port("acme/web")["nat"] == "running", PATIENCE)
        yield relay, guest, old, new


def wait_known(relay: Relay) -> None:
    """Until the guest has shown its address, which it does when it is asked."""
    wait_for(lambda: " guest6=fec0::5054:ff:fe00:1 " in relay.ask_worker("acme.web", "stat"),
             PATIENCE, "the guest's address")


def call(port: int, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client's end and the guest's."""
    client = socket.create_connection(("::1", port), PATIENCE)
    inner, peer = listener.accept()
    gateway = "fec0::2" if listener.family == socket.AF_INET6 else "10.0.2.2"
    assert peer[:2] == (gateway, client.getsockname()[1])
    inner.settimeout(PATIENCE)
    return client, inner


def taken(port: int) -> bool:
    """Whether somebody listens; connections alone are not in the way."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("::1", port))
        except OSError:
            return True
    return False


def test_clients_over_ipv6() -> None:
    port = free_port("::1")
    with served(f"tcp:[::1]:{port}:80") as (relay, _, _, new):
        wait_known(relay)
        exchange([call(port, new) for _ in range(5)], 200_000)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE)
        # A worker that starts anew knows nothing, and its guest has nothing to say by itself.
        os.kill(relay.workers()["acme.web"], 9)
        wait_for(lambda: relay.workers() and relay.port("acme/web")["nat"] == "running", PATIENCE)
        wait_known(relay)
        exchange([call(port, new)], 100_000)


def test_a_guest_without_ipv6(nat_kind: str) -> None:
    port = free_port("::1")
    with served(f"tcp:[::1]:{port}:80", ipv6="false") as (relay, _, old, _):
        if nat_kind == "scaled":
            exchange([call(port, old)], 100_000)
        else:
            assert f"event=forward-failed name=acme.web forward=tcp:[::1]:{port}:80" in relay.log()
            assert not taken(port)


def test_datagrams() -> None:
    port = free_port("::1", socket.SOCK_DGRAM)
    with served(f"udp:[::1]:{port}:5353") as (relay, guest, _, _), \
            guest.socket(socket.AF_INET6, socket.SOCK_DGRAM) as inner, \
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        wait_known(relay)
        inner.bind(("::", 5353))
        inner.settimeout(1)
        client.settimeout(PATIENCE)
        client.connect(("::1", port))
        found: list[tuple[bytes, tuple[str, int]]] = []

        def asked() -> bool:
            client.send(b"question")
            with contextlib.suppress(TimeoutError):
                found.append(inner.recvfrom(100))
            return bool(found)

        wait_for(asked, PATIENCE, "the question")
        data, peer = found[0]
        assert (data, peer[:2]) == (b"question", ("fec0::2", client.getsockname()[1]))
        inner.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"


def test_at_run_time_through_restarts_and_moves() -> None:
    port = free_port("::1")
    text = f"tcp:[::1]:{port}:80"
    with served() as (relay, guest, _, new):
        # Written in another way it is the same; with another port inside it is in the way.
        for same in (text, f"tcp:[0:0::0:1]:{port}:80"):
            relay.result("forward-add", identity="acme/web", forward=same)
        assert relay.result("forward-list", identity="acme/web") == [text]
        other = relay.ask("forward-add", identity="acme/web", forward=f"tcp:[::]:{port}:81")
        assert not other["ok"] and f"collides with forward {text}" in str(other["error"])
        wait_known(relay)
        pair = call(port, new)
        relay.kill()
        relay.start()
        guest.attach(relay.attach("acme/web", epoch=2).sock)
        assert relay.result("forward-list", identity="acme/web") == [text]
        exchange([pair, call(port, new)], 100_000)
        pair = call(port, new)
        guest.attach(relay.attach("acme/web", epoch=3).sock)
        exchange([pair, call(port, new)], 100_000)
        relay.result("forward-del", identity="acme/web", forward=text)
        assert not taken(port)
        assert relay.result("forward-list", identity="acme/web") == []


def test_draining() -> None:
    port = free_port("::1")
    with served(f"tcp:[::1]:{port}:80") as (relay, _, _, new):
        wait_known(relay)
        pair = call(port, new)
        relay.result("drain")
        wait_for(lambda: not taken(port), PATIENCE)
        exchange([pair], 100_000)
        relay.result("undrain")
        wait_for(lambda: taken(port), PATIENCE)
        exchange([call(port, new)], 100_000)


@pytest.fixture(name="world")
def namespace_of_the_relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A network where there are addresses beside the loopback's; what runs a program there."""
    setup = f"ip link set lo up && ip address add {OUTSIDE}/128 dev lo && echo ready && exec cat"
    with subprocess.Popen([*NAMESPACE, "sh", "-c", setup], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        enter = ["nsenter", "--target", str(holder.pid), "--user", "--net",
                 "--preserve-credentials", "--"]
        monkeypatch.setattr(relaylib, "WRAPPER", enter)
        yield enter


@pytest.mark.skipif("QUASAR_RELAY_WRAPPER" in os.environ, reason="it is wrapped already")
def test_a_client_has_its_own_address(world: list[str]) -> None:
    with served("tcp:[::]:8080:80", "tcp:0.0.0.0:8080:80") as (relay, _, _, new):
        wait_known(relay)
        with subprocess.Popen([*world, sys.executable, "-c", CLIENT, OUTSIDE, "8080"]) as client:
            inner, peer = new.accept()
            with inner:
                inner.settimeout(PATIENCE)
                assert peer[0] == OUTSIDE
                inner.sendall(inner.recv(100).upper())
                assert client.wait(PATIENCE) == 0
