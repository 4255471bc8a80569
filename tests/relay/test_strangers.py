#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that send garbage, too much, half of it, or nothing: bounded memory, others unharmed."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator

import guest as g
import pytest
from relaylib import Relay, Server, echo, wait_for

MAC = bytes.fromhex("525400000001")
MAC2 = bytes.fromhex("525400000002")
MAC3 = bytes.fromhex("525400000003")
IDENTITIES = {
    "acme/web": {"secret": "11" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true"},
    "acme/free": {"secret": "22" * 32, "address": "10.0.2.16", "nat": "none"},
    "acme/lazy": {"secret": "33" * 32, "mac": "52:54:00:00:00:02", "address": "10.0.2.17",
                  "host-loopback": "true"},
}


@pytest.fixture()
def relay() -> Iterator[Relay]:
    settings = {"handshake-seconds": "1", "max-links": "50", "log-level": "info",
                "listen-plain": "127.0.0.1:0", "listen-tls": "127.0.0.1:0",
                "metrics": "127.0.0.1:0"}
    with Relay(IDENTITIES, **settings) as relay:
        guest = relay.attach("acme/web")
        guest.sync()
        before = relay.memory_kib()
        yield relay
        # Whatever it was, the honest guest did not notice.
        guest.sync()
        assert relay.memory_kib() - before < 24 * 1024
        guest.close()


def ends(sock: socket.socket) -> bool:
    """The relay ends the link within its handshake time."""
    sock.settimeout(5)
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("kind", ["unix", "plain", "tls", "control", "metrics"])
def test_random_bytes(relay: Relay, kind: str) -> None:
    dice = random.Random(4)
    where = {"unix": relay.unix, "control": f"{relay.dir}/control"}.get(kind)
    for size in (1, 3, 4, 5, 100, 5000, 100000):
        with g.connect(where or relay.where(kind)) as sock:
            try:
                sock.sendall(dice.randbytes(size))
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            assert ends(sock)


@pytest.mark.parametrize("payload", ids=range(10), argvalues=[
    b"", b"\0" * 52, g.hello("acme", "web")[:51], g.hello("acme", "web")[:-1],
    g.hello("ACME", "web"), g.hello("acme", ""), g.hello("a/b", "web"),
    g.hello("acme", "x" * 33), b"QsRx" + g.hello("acme", "web")[4:],
    g.hello("acme", "web", versions=(2, 1)),
])
def test_malformed_hello(relay: Relay, payload: bytes) -> None:
    with g.connect(relay.unix) as sock:
        link = g.Link(sock)
        link.send(g.HELLO, payload)
        kind, answer = link.receive()
        assert kind == g.REFUSED and struct.unpack("!H", answer[:2])[0] == g.R_MALFORMED
        assert ends(sock)


def test_other_versions_are_told(relay: Relay) -> None:
    with pytest.raises(g.Refused) as refused:
        relay.attach("acme/free", versions=(2, 9))
    assert refused.value.reason == g.R_VERSION
    assert "version 1" in refused.value.text


def test_a_newer_client_may_say_more(relay: Relay) -> None:
    assert relay.attach("acme/free", versions=(1, 9), extra=b"of the future").epoch == 1


@pytest.mark.parametrize("key,secret", [("acme/free", b"x" * 32), ("acme/nobody", b"x" * 32),
                                        ("nobody/free", b"\x22" * 32)])
def test_wrong_secret_and_unknown_identity_look_alike(relay: Relay, key: str,
                                                      secret: bytes) -> None:
    with pytest.raises(g.Refused) as refused:
        g.attach(relay.unix, key, secret)
    assert refused.value.reason == g.R_DENIED
    assert refused.value.text == "unknown identity or wrong secret"
    assert relay.result("status")["denied"] == 1  # type: ignore[index]


@pytest.mark.parametrize("head", ids=range(6), argvalues=[
    struct.pack("!I", g.HELLO << 24 | 513), struct.pack("!I", g.FRAME << 24 | 100),
    struct.pack("!I", 0x55000000), struct.pack("!I", g.PROOF << 24 | 0xFFFFFF),
    struct.pack("!I", g.PAUSE << 24), struct.pack("!I", g.WELCOME << 24 | 1) + b"x",
])
def test_records_that_do_not_belong(relay: Relay, head: bytes) -> None:
    with g.connect(relay.unix) as sock:
        sock.sendall(head)
        assert ends(sock)
    wait_for(lambda: relay.result("status")["garbage"] == 1)  # type: ignore[index]


def test_half_a_handshake_and_silence(relay: Relay) -> None:
    socks = [g.connect(relay.unix) for _ in range(3)]
    link = g.Link(socks[1])
    link.send(g.HELLO, g.hello("acme", "free"))
    assert link.receive()[0] == g.CHALLENGE
    socks[2].sendall(b"\1\0")
    socks.append(g.connect(relay.where("tls")))
    begin = time.monotonic()
    for sock in socks:
        assert ends(sock)
        sock.close()
    assert time.monotonic() - begin < 4
    assert relay.result("status")["timeouts"] == 4  # type: ignore[index]


@contextlib.contextmanager
def flow_beside(relay: Relay) -> Iterator[None]:
    """Another guest's connection goes on all the while."""
    stop = threading.Event()
    waits: list[float] = []
    errors: list[BaseException] = []

    def talk() -> None:
        try:
            with Server(echo) as server:
                guest = g.Guest(relay.attach("acme/lazy"), MAC2, "10.0.2.17")
                guest.resolve(guest.gateway)
                connection = guest.connect("10.0.2.2", server.port)
                while not stop.is_set() or not waits:
                    begin = time.monotonic()
                    connection.send(b"%8d" % len(waits))
                    assert connection.receive(8) == b"%8d" % len(waits)
                    waits.append(time.monotonic() - begin)
        except (OSError, AssertionError, g.LinkClosed) as error:
            errors.append(error)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        wait_for(lambda: waits or errors)
        yield
    finally:
        stop.set()
        thread.join()
    assert not errors, errors
    print(f"{len(waits)} answers beside it, the slowest after {max(waits):.3f} s")


def test_ten_thousand_connections(relay: Relay) -> None:
    """They connect and say nothing at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, hard))
    socks = []
    with flow_beside(relay):
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            # Waits for the backlog, as a timeout would not.
            sock.connect(relay.unix)
            socks.append(sock)
            if len(socks) % 500 == 0:
                assert relay.result("status")["handshakes"] <= 50  # type: ignore[index]
        wait_for(lambda: relay.result("status")["crowded"] >= count // 2)  # type: ignore[index]
    for sock in socks:
        sock.close()
    wait_for(lambda: relay.result("status")["handshakes"] == 0)  # type: ignore[index]
    assert relay.attach("acme/free").epoch == 1
    assert 0 < relay.log().count("event=link-crowded") < 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_refused_links_count_while_they_linger(relay: Relay) -> None:
    """Each is refused at once, but never ends its own side."""
    socks = []
    for _ in range(300):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(relay.unix)
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(struct.pack("!I", g.PAUSE << 24))
        socks.append(sock)
    status = wait_for(lambda: (now := relay.result("status"))["links"] > 300 and now)
    assert status["garbage"] <= 150 and status["crowded"] >= 100, status  # type: ignore[index]
    for sock in socks:
        sock.close()
    # The last of them end when the relay has read their ends.
    time.sleep(1.5)
    assert relay.attach("acme/free").epoch == 1


def test_a_million_macs(relay: Relay) -> None:
    count, part = 1000000, 10000
    with flow_beside(relay):
        link = relay.attach("acme/free")
        for first in range(0, count, part):
            link.sock.sendall(b"".join(
                g.record(g.FRAME, MAC + b"\x02\0" + i.to_bytes(4, "big") + g.TEST_TYPE + bytes(46))
                for i in range(first, first + part)))
            link.sync()
    port = relay.port("acme/free")
    assert port["macs"] == 16 and port["rx-crowded"] == count - 16
    assert relay.log().count("event=macs-crowded identity=acme/free") == 1


def test_a_guest_that_does_not_read(relay: Relay) -> None:
    """A neighbour floods it: its queue is bounded, the flooder is not slowed down."""
    lazy = relay.attach("acme/lazy")
    flood = relay.attach("acme/free")
    frame = g.record(g.FRAME, MAC2 + MAC3 + g.TEST_TYPE + bytes(60000))
    begin = time.monotonic()
    for _ in range(600):
        flood.sock.sendall(frame)
    flood.sync()
    assert time.monotonic() - begin < 10
    assert relay.port("acme/lazy")["tx-dropped"] > 400
    lazy.close()


def test_a_nat_waits_for_a_guest_that_does_not_read(relay: Relay) -> None:
    """The server's bytes stay in its own socket; none is dropped on the way."""
    def serve(sock: socket.socket) -> None:
        sock.sendall(bytes(8000000))

    with Server(serve) as server:
        guest = g.Guest(relay.attach("acme/lazy"), MAC2, "10.0.2.17")
        guest.resolve(guest.gateway)
        connections = [guest.connect("10.0.2.2", server.port) for _ in range(20)]
        time.sleep(1)
        assert relay.port("acme/lazy")["tx-dropped"] == 0
        assert "dropped=0 " in relay.ask_worker("acme.lazy", "stat")
        assert not any(c.reset for c in connections)


def test_oversized_and_truncated_frames_of_an_attached_guest(relay: Relay) -> None:
    link = relay.attach("acme/free")
    link.sock.sendall(struct.pack("!I", 65554))
    link.wait_closed()
    wait_for(lambda: relay.port("acme/free")["state"] == "away")
    link = relay.attach("acme/free")
    link.sock.sendall(struct.pack("!I", 1000) + bytes(500))
    link.close()
    wait_for(lambda: "ended inside a record" in relay.log())
    link = relay.attach("acme/free")
    link.send(g.HELLO, g.hello("acme", "free"))
    assert link.wait_closed() == g.R_MALFORMED


def test_a_silent_owner_is_given_up() -> None:
    with Relay(IDENTITIES, **{"keepalive-seconds": "1"}) as relay:
        polite = relay.attach("acme/web")
        silent = relay.attach("acme/free")
        deadline = time.monotonic() + 10
        while relay.port("acme/free")["state"] != "away":
            assert time.monotonic() < deadline
            polite.sync()
            time.sleep(0.2)
        assert relay.port("acme/web")["state"] == "attached"
        assert silent.wait_closed() == g.R_TIMEOUT


@pytest.mark.parametrize("line,error", [
    ("[" * 2000, "not a request"), ("{}", "command"), ('{"command": 7}', "command"),
    ('{"command": "fly"}', "no such command"), ("[]", "JSON object"), ("nonsense", "arse"),
    ('{"command": "flows"}', "identity"),
    ('{"command": "flows", "identity": "a/b"}', "no identity"),
    ('{"command": "flows", "identity": "acme/free"}', "no NAT"),
    ('{"command": "forward-add", "identity": "acme/web", "forward": "tcp:1:2"}', "form"),
])
def test_control_says_what_is_wrong(relay: Relay, line: str, error: str) -> None:
    with g.connect(f"{relay.dir}/control") as sock:
        sock.sendall(line.encode() + b'\n{"command": "status", "id": 5}\n')
        lines = sock.makefile()
        first = lines.readline()
        assert '"ok":false' in first and error in first
        assert '"id":5' in lines.readline()


def test_control_line_without_an_end(relay: Relay) -> None:
    with g.connect(f"{relay.dir}/control") as sock:
        try:
            sock.sendall(b"x" * 100000)
        except OSError:
            pass
        assert ends(sock)


def test_metrics_over_http(relay: Relay) -> None:
    with g.connect(relay.where("metrics")) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        text = b""
        while data := sock.recv(65536):
            text += data
    head, body = text.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK") and f"Content-Length: {len(body)}" in head.decode()
    assert b'quasar_relay_port_attached{tenant="acme",identity="web"} 1\n' in body
    assert b"# TYPE quasar_relay_denied_total counter\n" in body


def test_descriptors_and_memory_do_not_grow() -> None:
    """Many lives in a row: attach, move, detach."""
    with Relay(IDENTITIES, **{"log-level": "warning"}) as relay:
        epoch = 0

        def lives(count: int) -> None:
            nonlocal epoch
            for _ in range(count):
                epoch += 2
                first = relay.attach("acme/web", epoch=epoch)
                second = relay.attach("acme/web", epoch=epoch + 1)
                assert first.wait_closed() == g.R_TAKEN_OVER
                second.send(g.RELEASE)
                assert second.wait_closed() == g.R_RELEASED
                first.close()
                second.close()

        lives(50)
        memory, descriptors = relay.memory_kib(), relay.descriptors()
        lives(int(os.environ.get("QUASAR_RELAY_LIVES", "1000")))
        wait_for(lambda: relay.descriptors() <= descriptors)
        # A sanitizer keeps freed memory back.
        if "QUASAR_RELAY_SET" not in os.environ:
            assert relay.memory_kib() - memory < 1024
