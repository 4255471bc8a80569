#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports with a rate: how long things take, who waits and who does not."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import guest as g
import pytest
from relaylib import Relay, Server, wait_for
from test_control import ctl

MAC = bytes.fromhex("525400000001")
MAC2 = bytes.fromhex("525400000002")
SIZE = 1 << 20
RATE = 2000000
# A bucket's fill and what the bound of a test may miss: everything else takes its time.
BURST = 64 * 1024
LEAST = (SIZE - 2 * BURST) * 8 / RATE
IDENTITIES = {
    "acme/slow": {"secret": "11" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true",
                  "rate": "2M"},
    "acme/free": {"secret": "22" * 32, "mac": "52:54:00:00:00:02", "address": "10.0.2.16",
                  "host-loopback": "true"},
}


@pytest.fixture()
def relay() -> Iterator[Relay]:
    with Relay(IDENTITIES) as relay:
        yield relay


def attach(relay: Relay, name: str) -> g.Guest:
    mac, address = (MAC, "10.0.2.15") if name == "acme/slow" else (MAC2, "10.0.2.16")
    guest = g.Guest(relay.attach(name), mac, address)
    guest.resolve(guest.gateway)
    return guest


def pour(sock: socket.socket) -> None:
    sock.sendall(bytes(SIZE))
    sock.recv(1)


def fetch(guest: g.Guest, port: int) -> float:
    """Seconds that a megabyte from the relay's host took."""
    begin = time.monotonic()
    connection = guest.connect("10.0.2.2", port)
    assert connection.receive(SIZE, 120) == bytes(SIZE)
    return time.monotonic() - begin


def test_a_transfer_takes_its_time(relay: Relay) -> None:
    slow, free = attach(relay, "acme/slow"), attach(relay, "acme/free")
    took: dict[str, float] = {}
    with Server(pour) as server:
        thread = threading.Thread(target=lambda: took.update(slow=fetch(slow, server.port)))
        thread.start()
        took["free"] = fetch(free, server.port)
        thread.join(120)
    assert LEAST <= took["slow"] <= 20 * LEAST, took
    assert took["free"] < took["slow"], took
    port = relay.port("acme/slow")
    assert port["rate"] == RATE
    assert port["tx-delayed"] > 0 and port["tx-dropped"] == 0  # type: ignore[operator]
    # Frames that waited are counted when they go.
    assert SIZE < port["tx-bytes"] < 2 * SIZE  # type: ignore[operator]
    port = relay.port("acme/free")
    assert (port["rate"], port["tx-delayed"], port["rx-limited"]) == (0, 0, 0)


def test_what_a_guest_sends_above_its_rate_is_dropped(relay: Relay) -> None:
    slow, free = attach(relay, "acme/slow"), attach(relay, "acme/free")
    begin = time.monotonic()
    for _ in range(SIZE // 1500):
        slow.send_frame(MAC2 + MAC + g.TEST_TYPE + bytes(1486))
    slow.link.sync()
    most = BURST + 1500 + (time.monotonic() - begin) * RATE / 8
    came = len(free.link.sync_test())
    port = relay.port("acme/slow")
    assert 0 < came * 1500 <= most
    assert came + port["rx-limited"] == SIZE // 1500  # type: ignore[operator]
    assert relay.port("acme/free")["rx-limited"] == 0
    # Control records pass, whatever the rate: a guest that moves does not wait.
    slow.link.send(g.PAUSE)
    wait_for(lambda: relay.port("acme/slow")["state"] == "paused")


def test_what_waits_is_bounded_and_kept_for_the_next_owner(relay: Relay) -> None:
    slow, free = attach(relay, "acme/slow"), attach(relay, "acme/free")
    count = 600
    for number in range(count):
        free.send_frame(MAC + MAC2 + g.TEST_TYPE + number.to_bytes(4, "big") + bytes(1482))
    free.link.sync()
    # At so low a rate 128 KiB wait at most; the neighbour's own port is not held up.
    assert relay.port("acme/slow")["held-bytes"] <= 128 * 1024  # type: ignore[operator]
    dropped = relay.port("acme/slow")["tx-dropped"]
    second = relay.attach("acme/slow", epoch=slow.link.epoch + 1)
    first = [f for f in drain(slow.link) if f[12:14] == g.TEST_TYPE]
    rest = []
    while len(first) + len(rest) < count - int(str(dropped)):
        rest.append(second.receive_test(60))
    numbers = [int.from_bytes(f[14:18], "big") for f in first + rest]
    assert numbers == sorted(set(numbers)) and rest


def drain(link: g.Link) -> list[bytes]:
    frames = []
    try:
        while True:
            frames.append(link.receive_frame())
    except g.LinkClosed:
        return frames


def test_reload_changes_the_rate_of_a_transfer(relay: Relay) -> None:
    relay.identities = {**IDENTITIES, "acme/slow": {**IDENTITIES["acme/slow"], "rate": "40k"}}
    relay.write_identities()
    relay.result("reload")
    slow = attach(relay, "acme/slow")
    with Server(pour) as server:
        connection = slow.connect("10.0.2.2", server.port)
        connection.receive(BURST // 2, 60)
        assert relay.port("acme/slow")["rate"] == 40000
        del relay.identities["acme/slow"]["rate"]
        relay.write_identities()
        relay.result("reload")
        # At the rate from before the rest would take more than three minutes.
        assert len(connection.receive(SIZE - BURST // 2, 100)) == SIZE - BURST // 2
    assert relay.port("acme/slow")["attaches"] == 1


def test_tables_and_the_file(relay: Relay) -> None:
    ctl(relay, "identity", "add", "acme/new", "--rate", "250M")
    listed = json.loads(ctl(relay, "--json", "identity", "list"))
    assert [i["rate"] for i in listed] == [0, 250000000, RATE]
    assert "limited      2" in ctl(relay, "status")
    head, *rows = ctl(relay, "ports").splitlines()
    assert head.split()[-1] == "RATE"
    assert [row.split()[-1] for row in rows] == ["0", "250000000", str(RATE)]
    metrics = ctl(relay, "metrics")
    assert f'port_rate_bits{{tenant="acme",identity="slow"}} {RATE}\n' in metrics
    assert 'port_limited_total{tenant="acme",identity="slow"} 0\n' in metrics
    assert "a rate is" in ctl(relay, "identity", "add", "acme/bad", "--rate", "1", code=1)
    assert "identity add" in ctl(relay, "ports", "--rate", "1M", code=2)
    assert "acme/bad" not in open(os.path.join(relay.dir, "ids"), encoding="ascii").read()
