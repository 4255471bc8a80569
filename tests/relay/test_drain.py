#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay that is drained: what goes on, what does not begin, and for how long."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import guest as g
import pytest
from network import free_port
from relaylib import CTL, Relay, wait_for
from test_control import ctl

MAC = bytes.fromhex("525400000001")
WEB = {"secret": "11" * 32, "mac": "52:54:00:00:00:01"}
DB = {"secret": "22" * 32, "mac": "52:54:00:00:00:02", "address": "10.0.2.16"}


@pytest.fixture()
def relay() -> Iterator[Relay]:
    with Relay({"acme/web": dict(WEB), "acme/db": dict(DB)}) as relay:
        yield relay


def refused(relay: Relay, key: str, **more: object) -> bool:
    with pytest.raises(g.Refused) as no:
        relay.attach(key, **more)
    return no.value.reason == g.R_DRAINING


def test_who_is_there_goes_on_and_nobody_comes(relay: Relay) -> None:
    first = relay.attach("acme/web", epoch=5)
    assert ctl(relay, "drain") == "guests left: 1\n"
    assert refused(relay, "acme/db") and refused(relay, "acme/db", epoch=9)
    assert first.sync() == []
    # The owner comes back after a lost link, and moves on.
    again = relay.attach("acme/web", epoch=5, token=first.token)
    moved = relay.attach("acme/web", epoch=6)
    assert again.wait_closed() == g.R_TAKEN_OVER
    # Whoever left has left.
    moved.send(g.RELEASE)
    assert moved.wait_closed() == g.R_RELEASED
    assert refused(relay, "acme/web") and refused(relay, "acme/web", epoch=7)
    assert "draining     true" in ctl(relay, "status")
    assert "quasar_relay_draining 1\n" in ctl(relay, "metrics")
    # A refusal has taken no epoch.
    ctl(relay, "undrain")
    assert relay.attach("acme/web", epoch=7).epoch == 7
    assert relay.attach("acme/db").epoch == 1
    assert relay.result("status")["draining"] is False  # type: ignore[index]


def test_a_stock_client_is_refused_too() -> None:
    with Relay({}) as relay:
        path = f"{relay.dir}/raw"
        relay.identities = {"acme/web": {"socket": path}}
        relay.write_identities()
        relay.result("reload")
        ctl(relay, "drain")
        assert g.Link(g.connect(path)).wait_closed() == 0
        assert relay.port("acme/web")["state"] == "away"
        ctl(relay, "drain", "--off")
        link = g.Link(g.connect(path))
        wait_for(lambda: relay.port("acme/web")["state"] == "attached")
        link.close()


def test_it_outlives_the_daemon(relay: Relay) -> None:
    link = relay.attach("acme/web")
    ctl(relay, "drain")
    for end in (relay.kill, relay.stop):
        end()
        relay.start()
        assert relay.result("status")["draining"] is True  # type: ignore[index]
        assert refused(relay, "acme/db")
        link = relay.attach("acme/web", epoch=1, token=link.token)
    ctl(relay, "restart")
    wait_for(lambda: relay.log().count("event=ready") == 4)
    assert refused(relay, "acme/db")
    ctl(relay, "undrain")
    relay.kill()
    relay.start()
    relay.attach("acme/db")
    ctl(relay, "undrain")


def test_waiting(relay: Relay) -> None:
    link = relay.attach("acme/web")
    paused = relay.attach("acme/db")
    paused.send(g.PAUSE)
    wait_for(lambda: relay.port("acme/db")["state"] == "paused")
    assert ctl(relay, "drain") == "guests left: 2\n"
    # Nobody goes, and it has failed.
    assert "not every guest" in ctl(relay, "drain", "--wait", "0", code=1)
    waiting = subprocess.Popen([CTL, f"--control={relay.dir}/control", "--json", "drain", "--wait",
                                "100"], stdout=subprocess.PIPE, text=True)
    paused.send(g.RELEASE)
    assert waiting.poll() is None
    link.send(g.RELEASE)
    assert waiting.wait(60) == 0 and waiting.stdout is not None
    assert json.loads(waiting.stdout.read()) == {"left": 0}
    # Ended by somebody else meanwhile.
    relay.result("undrain")
    link = relay.attach("acme/web")
    waiting = subprocess.Popen([CTL, f"--control={relay.dir}/control", "drain", "--wait", "100"],
                               stderr=subprocess.PIPE, text=True)
    wait_for(lambda: relay.result("status")["draining"])  # type: ignore[index]
    relay.result("undrain")
    assert waiting.wait(60) == 1 and waiting.stderr is not None
    assert "meanwhile" in waiting.stderr.read()
    assert link.sync() == []
    for words in (["status", "--wait", "1"], ["undrain", "--off"]):
        assert "alone" in ctl(relay, *words, code=2)


def upper(guest: g.Guest, inside: int) -> threading.Thread:
    """Lets the guest answer twice on one connection."""
    def run() -> None:
        connection = guest.accept(inside)
        for _ in range(2):
            connection.send(connection.receive(5, 60).upper())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def say(sock: socket.socket) -> bytes:
    sock.settimeout(60)
    sock.sendall(b"hello")
    return sock.recv(5)


def test_forwards_take_no_connections() -> None:
    outside, later = free_port(), free_port()
    with Relay({"acme/web": {**WEB, "forward": f"tcp:127.0.0.1:{outside}:80"}}) as relay:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        thread = upper(guest, 80)
        with socket.create_connection(("127.0.0.1", outside), 10) as sock:
            assert say(sock) == b"HELLO"
            ctl(relay, "drain")
            wait_for(lambda: not listens(outside))
            ctl(relay, "forward", "add", "acme/web", f"tcp:127.0.0.1:{later}:81")
            assert not listens(later)
            # What is there goes on.
            assert say(sock) == b"HELLO"
        thread.join(60)
        # So it stays with another daemon, and with another worker.
        relay.kill()
        relay.start()
        guest.link = relay.attach("acme/web", epoch=1, token=guest.link.token)
        assert not listens(outside)
        os.kill(relay.workers()["acme.web"], 9)
        wait_for(lambda: relay.workers() and relay.port("acme/web")["nat"] == "running")
        assert not listens(outside)
        assert relay.result("forward-list", identity="acme/web") == [f"tcp:127.0.0.1:{outside}:80"]
        ctl(relay, "undrain")
        wait_for(lambda: listens(outside))


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except ConnectionRefusedError:
        return False
    return True
