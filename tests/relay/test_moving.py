#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that moves: epochs, takeover, what is held for it, and its frozen NAT."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import guest as g
import pytest
from relaylib import Relay, Server, echo, wait_for

MAC = bytes.fromhex("525400000001")
MAC2 = bytes.fromhex("525400000002")
IDENTITIES = {
    "acme/web": {"secret": "11" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true"},
    "acme/db": {"secret": "22" * 32, "mac": "52:54:00:00:00:02", "address": "10.0.2.16",
                "host-loopback": "true"},
    "other/db": {"secret": "33" * 32, "mac": "52:54:00:00:00:03", "nat": "none"},
}


@pytest.fixture()
def relay() -> Iterator[Relay]:
    with Relay(IDENTITIES) as relay:
        yield relay


def test_epochs_grow_and_are_never_given_twice(relay: Relay) -> None:
    seen = []
    for _ in range(3):
        link = relay.attach("acme/web")
        seen.append(link.epoch)
        link.close()
        wait_for(lambda: relay.port("acme/web")["state"] == "away")
    assert seen == [1, 2, 3]


def test_cold_start_is_refused_while_somebody_is_attached(relay: Relay) -> None:
    first = relay.attach("acme/web")
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web")
    assert refused.value.reason == g.R_IN_USE
    assert first.sync() == []


def test_takeover_by_a_higher_epoch(relay: Relay) -> None:
    first = relay.attach("acme/web")
    second = relay.attach("acme/web", epoch=first.epoch + 1)
    assert second.epoch == first.epoch + 1
    assert first.wait_closed() == g.R_TAKEN_OVER
    assert second.sync() == []
    assert relay.port("acme/web")["takeovers"] == 1


@pytest.mark.parametrize("offset", [0, -1, -4])
def test_equal_and_lower_epochs_are_refused(relay: Relay, offset: int) -> None:
    link = relay.attach("acme/web", epoch=5)
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web", epoch=5 + offset)
    assert refused.value.reason == g.R_STALE
    assert "stale" in refused.value.text
    assert link.sync() == []
    link.close()
    wait_for(lambda: relay.port("acme/web")["state"] == "away")
    with pytest.raises(g.Refused):
        relay.attach("acme/web", epoch=5 + offset)


def test_absurd_epoch_is_refused(relay: Relay) -> None:
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web", epoch=1 << 63)
    assert refused.value.reason == g.R_STALE
    assert relay.attach("acme/web").epoch == 1


def test_the_owner_returns_with_its_token(relay: Relay) -> None:
    first = relay.attach("acme/web", epoch=7)
    again = relay.attach("acme/web", epoch=7, token=first.token)
    assert (again.epoch, again.token) == (7, first.token)
    assert first.wait_closed() == g.R_RELEASED
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web", epoch=7, token=os.urandom(16))
    assert refused.value.reason == g.R_STALE
    relay.attach("acme/web", epoch=8)
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web", epoch=7, token=first.token)
    assert refused.value.reason == g.R_STALE


def test_epochs_survive_the_relay(relay: Relay) -> None:
    first = relay.attach("acme/web", epoch=41)
    relay.kill()
    relay.start()
    for stale in (40, 41):
        with pytest.raises(g.Refused) as refused:
            relay.attach("acme/web", epoch=stale)
        assert refused.value.reason == g.R_STALE
    again = relay.attach("acme/web", epoch=41, token=first.token)
    assert again.epoch == 41
    assert relay.attach("acme/web", epoch=42).epoch == 42


def test_a_damaged_epoch_refuses_everybody(relay: Relay) -> None:
    relay.attach("acme/web").close()
    relay.kill()
    path = f"{relay.dir}/state/epochs/acme.web.epoch"
    with open(path, "w", encoding="ascii") as file:
        file.write("epoch=\n")
    relay.start()
    for epoch in (0, 100):
        with pytest.raises(g.Refused) as refused:
            relay.attach("acme/web", epoch=epoch)
        assert refused.value.reason == g.R_INTERNAL
        assert refused.value.text == "the relay cannot read its state; see its log"
    assert relay.log().count("event=state-failed identity=acme/web") == 1
    assert path in relay.log() and "Do not remove it" in relay.log()
    # As the log advises: the epochs go on, and the old owner's are not valid again.
    with open(path, "w", encoding="ascii") as file:
        file.write(f"epoch=7\ntoken={'0' * 64}\n")
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web", epoch=7, token=bytes(16))
    assert refused.value.reason == g.R_STALE
    assert relay.attach("acme/web").epoch == 8
    assert relay.attach("acme/db").epoch == 1


def test_an_epoch_that_cannot_be_written_is_not_given(relay: Relay) -> None:
    os.mkdir(f"{relay.dir}/state/epochs/acme.web.epoch.new")
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web")
    assert refused.value.reason == g.R_INTERNAL
    assert refused.value.text == "the relay cannot write its state; see its log"
    assert "event=state-failed identity=acme/web text=\"cannot create" in relay.log()
    os.rmdir(f"{relay.dir}/state/epochs/acme.web.epoch.new")
    assert relay.attach("acme/web").epoch == 1


def test_release_ends_the_link_and_keeps_the_epoch(relay: Relay) -> None:
    link = relay.attach("acme/web")
    link.send(g.RELEASE)
    assert link.wait_closed() == g.R_RELEASED
    assert relay.port("acme/web")["state"] == "away"
    assert relay.attach("acme/web", epoch=2).epoch == 2


def test_wrong_mac_is_refused(relay: Relay) -> None:
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/web", mac=MAC2)
    assert refused.value.reason == g.R_MAC


def test_connections_move_with_the_guest(relay: Relay) -> None:
    web = g.Guest(relay.attach("acme/web"), MAC)
    web.resolve(web.gateway)
    with Server(echo) as server:
        connections = [web.connect("10.0.2.2", server.port) for _ in range(20)]
        for move in range(4):
            for number, connection in enumerate(connections):
                connection.send(f"{move}:{number}".encode().ljust(8))
                assert connection.receive(8) == f"{move}:{number}".encode().ljust(8)
            old = web.link
            old.send(g.PAUSE)
            old.sync()
            web.link = relay.attach("acme/web", epoch=old.epoch + 1)
            assert old.wait_closed() == g.R_TAKEN_OVER
        for connection in connections:
            connection.send(b"the end")
            assert connection.receive(7) == b"the end"


def test_bulk_moves_without_a_pause_byte_for_byte(relay: Relay) -> None:
    """The harshest move: the old link is cut in the midst of a transfer, again and again."""
    data = os.urandom(4000000)

    def serve(sock: socket.socket) -> None:
        sock.sendall(data)

    web = g.Guest(relay.attach("acme/web"), MAC)
    web.resolve(web.gateway)
    with Server(serve) as server:
        connection = web.connect("10.0.2.2", server.port)
        got = b""
        while len(got) < len(data):
            got += connection.receive(min(500000, len(data) - len(got)), 20)
            old = web.link
            web.link = relay.attach("acme/web", epoch=old.epoch + 1)
            old.close()
        assert got == data


def test_the_nat_stands_still_while_the_guest_is_away(relay: Relay) -> None:
    """A frame sent again or a back-off would show as more than the one segment that waits."""
    web = g.Guest(relay.attach("acme/web"), MAC)
    web.resolve(web.gateway)
    go = threading.Event()

    def serve(sock: socket.socket) -> None:
        go.wait(20)
        sock.sendall(b"late" * 1000)
        sock.recv(10)

    with Server(serve) as server:
        connection = web.connect("10.0.2.2", server.port)
        web.link.send(g.PAUSE)
        web.link.sync()
        wait_for(lambda: "frozen=1" in relay.ask_worker("acme.web", "stat"))
        go.set()
        time.sleep(3)
        assert web.link.sync() == []
        web.link.send(g.RESUME)
        begin = time.monotonic()
        assert connection.receive(4000) == b"late" * 1000
        # Nothing had to wait for a back-off to end.
        assert time.monotonic() - begin < 1


def test_frames_are_held_in_order_for_the_next_owner(relay: Relay) -> None:
    web = g.Guest(relay.attach("acme/web"), MAC)
    db = g.Guest(relay.attach("acme/db"), MAC2, "10.0.2.16")
    web.send_frame(MAC2 + MAC + g.TEST_TYPE + b"x" * 50)
    assert db.link.receive_test()[14:] == b"x" * 50
    web.link.send(g.PAUSE)
    web.link.sync()
    frames = [MAC + MAC2 + g.TEST_TYPE + i.to_bytes(4, "big") + bytes(1000) for i in range(3000)]
    for frame in frames[:1500]:
        db.send_frame(frame)
    db.link.sync()
    # Half while it is paused, half while nobody is there at all.
    web.link.send(g.RELEASE)
    assert web.link.wait_closed() == g.R_RELEASED
    for frame in frames[1500:]:
        db.send_frame(frame)
    db.link.sync()
    assert relay.port("acme/web")["held"] >= 3000
    moved = relay.attach("acme/web", epoch=web.link.epoch + 1)
    got = [moved.receive_test() for _ in frames]
    assert got == frames
    assert relay.port("acme/web")["held-bytes"] == 0
    # And what comes now comes behind.
    db.send_frame(frames[7])
    assert moved.receive_test() == frames[7]


def test_what_is_held_is_bounded_by_bytes_and_time() -> None:
    with Relay(IDENTITIES, **{"hold-kib": "128", "hold-seconds": "1"}) as relay:
        web = relay.attach("acme/web")
        db = g.Guest(relay.attach("acme/db"), MAC2, "10.0.2.16")
        web.send(g.PAUSE)
        web.sync()
        for _ in range(400):
            db.send_frame(MAC + MAC2 + g.TEST_TYPE + bytes(1000))
        db.link.sync()
        port = relay.port("acme/web")
        assert 100 * 1024 < port["held-bytes"] <= 128 * 1024
        assert port["held"] + port["held-dropped"] == 400
        web.close()
        wait_for(lambda: relay.port("acme/web")["held-bytes"] == 0, 5)
        db.send_frame(MAC + MAC2 + g.TEST_TYPE + bytes(1000))
        db.link.sync()
        assert relay.port("acme/web")["tx-dropped"] == 1


def test_neighbours_hear_of_the_move(relay: Relay) -> None:
    db = g.Guest(relay.attach("acme/db"), MAC2, "10.0.2.16")
    relay.attach("acme/web", epoch=9)
    frame = db.link.receive_frame()
    assert frame[:12] == g.BROADCAST + MAC and frame[12:14] == b"\x08\x06"
    assert socket.inet_ntoa(frame[28:32]) == socket.inet_ntoa(frame[38:42]) == "10.0.2.15"


def test_a_claim_that_starts_paused_gets_nothing_yet(relay: Relay) -> None:
    db = g.Guest(relay.attach("acme/db"), MAC2, "10.0.2.16")
    web = relay.attach("acme/web", flags=g.FLAG_PAUSED)
    assert relay.port("acme/web")["state"] == "paused"
    db.send_frame(MAC + MAC2 + g.TEST_TYPE + bytes(60))
    db.link.sync()
    assert web.sync_test() == []
    web.send(g.FRAME, MAC2 + MAC + g.TEST_TYPE + bytes(60))
    web.send(g.RESUME)
    assert web.receive_test()[14:] == bytes(60)
    assert db.link.sync_test() == []


def test_tenants_are_apart_and_addresses_owned(relay: Relay) -> None:
    web = g.Guest(relay.attach("acme/web"), MAC)
    db = g.Guest(relay.attach("acme/db"), MAC2, "10.0.2.16")
    far = g.Guest(relay.attach("other/db"), bytes.fromhex("525400000003"))
    web.link.sync()
    frame = g.BROADCAST + MAC + g.TEST_TYPE + bytes(60)
    web.send_frame(frame)
    web.link.sync()
    assert db.link.sync_test() == [frame]
    assert far.link.sync_test() == []
    # Under another's address, under the gateway's, under a group address, and too short.
    for source in (MAC2, bytes.fromhex("52550a000202"), g.BROADCAST):
        web.send_frame(MAC2 + source + g.TEST_TYPE + bytes(60))
    web.send_frame(bytes(10))
    web.link.sync()
    assert db.link.sync_test() == []
    port = relay.port("acme/web")
    assert (port["rx-spoofed"], port["rx-malformed"]) == (3, 1)


def test_large_frames_between_guests(relay: Relay) -> None:
    web = g.Guest(relay.attach("acme/web"), MAC)
    db = g.Guest(relay.attach("acme/db"), MAC2, "10.0.2.16")
    frame = MAC2 + MAC + g.TEST_TYPE + os.urandom(65553 - 14)
    for _ in range(20):
        web.send_frame(frame)
        assert db.link.receive_test() == frame


def test_stock_clients_attach_by_their_own_socket() -> None:
    identities = {k: dict(v) for k, v in IDENTITIES.items()}
    with Relay(identities) as relay, Server(echo) as server:
        path = f"{relay.dir}/web.sock"
        relay.identities["acme/web"]["socket"] = path
        relay.write_identities()
        relay.result("reload")
        web = g.Guest(g.Link(g.connect(path)), MAC)
        web.resolve(web.gateway)
        connection = web.connect("10.0.2.2", server.port)
        connection.send(b"bare frames")
        assert connection.receive(11) == b"bare frames"
        # A second one is refused until the first is gone; then connections go on with it.
        second = g.Link(g.connect(path))
        assert second.wait_closed() == 0
        web.link.close()
        wait_for(lambda: relay.port("acme/web")["state"] == "away")
        web.link = g.Link(g.connect(path))
        connection.send(b"after the move")
        assert connection.receive(14) == b"after the move"
        assert relay.port("acme/web")["epoch"] == 2
        # Anything but frames ends such a link.
        web.link.send(g.PING)
        assert web.link.wait_closed() == 0
