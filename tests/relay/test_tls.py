#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaching over TLS 1.3 with pre-shared keys."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import guest as g
import pytest
from relaylib import Relay, Server, echo, wait_for

PIPE = os.environ.get("QUASAR_RELAY_TLS_PIPE", "tls-pipe")
MAC = bytes.fromhex("525400000001")
MAC2 = bytes.fromhex("525400000002")
IDENTITIES = {
    "acme/web": {"secret": "1a" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true"},
    "acme/db": {"secret": "2b" * 32, "mac": "52:54:00:00:00:02", "address": "10.0.2.16"},
}


@pytest.fixture()
def relay() -> Iterator[Relay]:
    with Relay(IDENTITIES, **{"listen-tls": "127.0.0.1:0", "listen-plain": "127.0.0.1:0"}) as relay:
        yield relay


def tls(relay: Relay, user: str, secret: str, *more: str) -> tuple[socket.socket,
                                                                 subprocess.Popen[str]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    host, port = relay.where("tls")
    process = subprocess.Popen([PIPE, str(theirs.fileno()), host, str(port), user, secret, *more],
                               pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
    theirs.close()
    return ours, process


def tls_attach(relay: Relay, key: str, **more: object) -> g.Link:
    sock, _ = tls(relay, key, IDENTITIES[key]["secret"])
    return g.handshake(sock, key, None, **more)


def test_traffic_and_takeover(relay: Relay) -> None:
    web = g.Guest(tls_attach(relay, "acme/web"), MAC)
    web.resolve(web.gateway)
    with Server(echo) as server:
        connection = web.connect("10.0.2.2", server.port)
        data = os.urandom(200000)
        for at in range(0, len(data), 20000):
            connection.send(data[at:at + 20000])
        assert connection.receive(len(data)) == data
        old = web.link
        web.link = tls_attach(relay, "acme/web", epoch=old.epoch + 1)
        assert old.wait_closed() == g.R_TAKEN_OVER
        connection.send(b"moved")
        assert connection.receive(5) == b"moved"


def test_bulk_to_the_guest(relay: Relay) -> None:
    """More than a TLS record and than every queue: nothing is lost, order is kept."""
    data = os.urandom(4000000)

    def serve(sock: socket.socket) -> None:
        sock.sendall(data)

    web = g.Guest(tls_attach(relay, "acme/web"), MAC)
    web.resolve(web.gateway)
    with Server(serve) as server:
        connection = web.connect("10.0.2.2", server.port)
        assert connection.receive(len(data), 40) == data


def test_large_frames(relay: Relay) -> None:
    web = tls_attach(relay, "acme/web")
    db = tls_attach(relay, "acme/db")
    for size in (60, 16380, 16384, 40000, 65553):
        frame = MAC2 + MAC + g.TEST_TYPE + os.urandom(size - 14)
        for _ in range(3):
            web.send(g.FRAME, frame)
            assert db.receive_test() == frame


@pytest.mark.parametrize("user,secret", [("acme/web", "2b" * 32), ("acme/nobody", "1a" * 32),
                                         ("x" * 200, "1a" * 32)])
def test_wrong_secret_and_unknown_name(relay: Relay, user: str, secret: str) -> None:
    sock, process = tls(relay, user, secret)
    assert process.wait(10) == 1
    assert "handshake" in process.stderr.read()  # type: ignore[union-attr]
    sock.close()
    wait_for(lambda: relay.result("status")["garbage"] == 1)  # type: ignore[index]


def test_one_identity_cannot_speak_for_another(relay: Relay) -> None:
    sock, _ = tls(relay, "acme/db", IDENTITIES["acme/db"]["secret"])
    with pytest.raises(g.Refused) as refused:
        g.handshake(sock, "acme/web", None)
    assert refused.value.reason == g.R_DENIED


def test_older_versions_of_tls_are_refused(relay: Relay) -> None:
    _, process = tls(relay, "acme/web", IDENTITIES["acme/web"]["secret"],
                     "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK")
    assert process.wait(10) == 1


def test_plain_frames_on_the_tls_port(relay: Relay) -> None:
    with g.connect(relay.where("tls")) as sock:
        link = g.Link(sock)
        link.send(g.HELLO, g.hello("acme", "web"))
        with pytest.raises(g.LinkClosed):
            while True:
                kind, _ = link.receive()
                assert kind != g.CHALLENGE


def test_plain_listeners_stay_on_loopback() -> None:
    relay = Relay(IDENTITIES, **{"listen-plain": "0.0.0.0:0"})
    with pytest.raises(AssertionError, match="not a loopback address"):
        relay.start()
    relay.end()


def test_plain_over_loopback_needs_the_secret(relay: Relay) -> None:
    link = g.attach(relay.where("plain"), "acme/web", relay.secret("acme/web"))
    assert link.sync() == []
    with pytest.raises(g.Refused):
        g.attach(relay.where("plain"), "acme/db", b"?" * 32)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="another TLS library is needed")
def test_another_implementation_of_tls(relay: Relay) -> None:
    host, port = relay.where("tls")
    hello = g.record(g.HELLO, g.hello("acme", "web"))
    with subprocess.Popen(["openssl", "s_client", "-connect", f"{host}:{port}", "-psk_identity",
                           "acme/web", "-psk", IDENTITIES["acme/web"]["secret"], "-tls1_3",
                           "-quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        process.stdin.write(hello)  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        answer = process.stdout.read(4)  # type: ignore[union-attr]
        process.kill()
    assert answer == bytes([g.WELCOME, 0, 0, 44])
