#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with the kernel's TCP, far away: nat=scaled beside libslirp; nothing may be lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import guest as g
import pytest
from network import free_port
from relaylib import Relay, Server, alive, echo, wait_for
from shaper import Shaper
from tapguest import TapGuest, usable

MAC = bytes.fromhex("525400000001")
SECRET = bytes.fromhex("11" * 32)
WEB = {"secret": "11" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true", "nat": "scaled"}
GATEWAYS = {"ipv4": "10.0.2.2", "ipv6": "fec0::2"}
PATIENCE = 60.0
BLOCK = 1 << 16

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable() or "usable")


@contextlib.contextmanager
def far_guest(relay: Relay, delay: float = 0.0, rate: float | None = None,
              mtu: int = 1500) -> Iterator[TapGuest]:
    """Attached through a link that takes its time."""
    with Shaper(relay.unix, listen=f"{relay.dir}/far", delay=delay, rate=rate) as link, \
            TapGuest(MAC, mtu=mtu) as guest:
        guest.attach(g.attach(str(link.address), "acme/web", SECRET).sock)
        yield guest


def listen(family: str) -> socket.socket:
    if family == "ipv6":
        return socket.create_server(("::1", 0), family=socket.AF_INET6)
    return socket.create_server(("127.0.0.1", 0))


def connected(guest: TapGuest, family: str = "ipv4") -> tuple[socket.socket, socket.socket]:
    """A connection that the guest makes: its end and the world's."""
    with listen(family) as listener:
        inner = guest.connect(GATEWAYS[family], listener.getsockname()[1])
        outer, _ = listener.accept()
    outer.settimeout(PATIENCE)
    inner.settimeout(PATIENCE)
    return inner, outer


class Stream:
    """Bytes one way, to their end, that are made from a seed: both sides know them all."""

    def __init__(self, source: socket.socket, target: socket.socket, size: int) -> None:
        self.errors: list[BaseException] = []
        self.sent, self.got = hashlib.sha256(), hashlib.sha256()
        self.arrived = 0
        self.size = size
        self.threads = [threading.Thread(target=self._guarded, args=(run, sock), daemon=True)
                        for run, sock in ((self._send, source), (self._receive, target))]
        for thread in self.threads:
            thread.start()

    def _guarded(self, run: Callable[[socket.socket], None], sock: socket.socket) -> None:
        try:
            run(sock)
        except OSError as error:
            self.errors.append(error)

    def _send(self, sock: socket.socket) -> None:
        left = self.size
        while left:
            data = os.urandom(min(left, BLOCK))
            self.sent.update(data)
            sock.sendall(data)
            left -= len(data)
        sock.shutdown(socket.SHUT_WR)

    def _receive(self, sock: socket.socket) -> None:
        while data := sock.recv(BLOCK):
            self.got.update(data)
            self.arrived += len(data)

    def check(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not self.errors and not any(thread.is_alive() for thread in self.threads), \
            (self.errors, self.arrived, self.size)
        assert self.arrived == self.size
        assert self.got.digest() == self.sent.digest()


def exchange(pairs: list[tuple[socket.socket, socket.socket]], size: int) -> None:
    """So many bytes both ways over each connection, to their end."""
    streams = [Stream(*ends, size) for pair in pairs for ends in (pair, pair[::-1])]
    for stream in streams:
        stream.check()
    for pair in pairs:
        for sock in pair:
            sock.close()


def megabits(source: socket.socket, target: socket.socket, seconds: float) -> float:
    """How fast a flow is, from its second quarter on: slow start is over by then."""
    stop = threading.Event()
    data = bytes(BLOCK)

    def send() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                source.sendall(data)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    begin = time.monotonic()
    marks = []
    total = 0
    while (now := time.monotonic()) < begin + seconds:
        total += len(target.recv(1 << 20))
        if not marks and now > begin + seconds / 4:
            marks.append((now, total))
    speed = (total - marks[0][1]) * 8 / (time.monotonic() - marks[0][0]) / 1e6
    stop.set()
    source.shutdown(socket.SHUT_RDWR)
    target.close()
    thread.join()
    source.close()
    return speed


def speeds(nat: str, mtu: int, delay: float) -> dict[str, float]:
    with Relay({"acme/web": {**WEB, "nat": nat, "mtu": str(mtu)}}) as relay, \
            far_guest(relay, delay=delay, mtu=mtu) as guest:
        found = {}
        for way in ("to the world", "to the guest"):
            inner, outer = connected(guest)
            ends = (inner, outer) if way == "to the world" else (outer, inner)
            found[way] = megabits(*ends, 2.0 + 20 * delay)      # far away, speed takes time
        return found


@pytest.mark.parametrize("mtu,trip", [(1500, 0.02), (65520, 0.02), (65520, 0.2)])
def test_ten_times_libslirp_over_a_distance(mtu: int, trip: float) -> None:
    """The best of each in three rounds: a machine that is busy is slow over no distance too."""
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for _ in range(3):
        for best, nat in ((ours, "scaled"), (theirs, "slirp")):
            for way, speed in speeds(nat, mtu, trip / 2).items():
                best[way] = max(speed, best.get(way, 0.0))
        if all(speed >= 10 * theirs[way] for way, speed in ours.items()):
            break
    for way, speed in ours.items():
        print(f"MTU {mtu}, {trip * 1000:.0f} ms, {way}: {speed:.0f} Mb/s, "
              f"libslirp {theirs[way]:.1f}, {speed / theirs[way]:.1f} times")
    assert all(speed >= 10 * theirs[way] for way, speed in ours.items()), (ours, theirs)


@pytest.fixture()
def relay() -> Iterator[Relay]:
    with Relay({"acme/web": dict(WEB)}) as relay:
        yield relay


@pytest.mark.parametrize("family", GATEWAYS)
def test_nothing_is_lost_or_changed_either_way(relay: Relay, family: str) -> None:
    with far_guest(relay, delay=0.01, rate=100e6) as guest:
        exchange([connected(guest, family) for _ in range(3)], 1_500_000)


def test_half_closes(relay: Relay) -> None:
    with far_guest(relay, delay=0.005) as guest:
        for first in (0, 1):
            pair = connected(guest)
            one, other = pair[first], pair[1 - first]
            one.sendall(b"last words")
            one.shutdown(socket.SHUT_WR)
            assert other.recv(100) == b"last words"
            assert other.recv(100) == b""
            Stream(other, one, 1_000_000).check()
            one.close()
            other.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def test_resets_and_refusals_pass(relay: Relay) -> None:
    with far_guest(relay) as guest:
        for first in (0, 1):
            pair = connected(guest)
            reset(pair[first])
            with pytest.raises(ConnectionResetError):
                pair[1 - first].recv(1)
            pair[1 - first].close()
        for family, address in GATEWAYS.items():
            with listen(family) as unused:
                port = unused.getsockname()[1]
            with pytest.raises(ConnectionRefusedError):
                guest.connect(address, port)


@pytest.mark.parametrize("nat", ["slirp", "scaled"])
@pytest.mark.parametrize("family", GATEWAYS)
def test_the_relays_loopback_is_closed(nat: str, family: str) -> None:
    identity = {key: value for key, value in WEB.items() if key != "host-loopback"}
    with Relay({"acme/web": {**identity, "nat": nat}}) as relay, far_guest(relay) as guest, \
            listen(family) as listener:
        with pytest.raises((ConnectionRefusedError, TimeoutError, OSError)):
            sock = guest.socket(listener.family)
            sock.settimeout(2)
            sock.connect((GATEWAYS[family], listener.getsockname()[1]))
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("nat", ["slirp", "scaled"])
def test_ipv6_passes_with_either_nat(nat: str) -> None:
    with Relay({"acme/web": {**WEB, "nat": nat}}) as relay, far_guest(relay) as guest:
        inner, outer = connected(guest, "ipv6")
        Stream(inner, outer, 300_000).check()
        inner.close()
        outer.close()


def test_a_client_of_a_forward(relay: Relay) -> None:
    port = free_port()
    with far_guest(relay, delay=0.005) as guest, guest.listen(80) as listener:
        wait_for(lambda: relay.port("acme/web")["nat"] == "running")
        relay.result("forward-add", identity="acme/web", forward=f"tcp:127.0.0.1:{port}:80")
        clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(20)]
        inner = {}
        for _ in clients:
            sock, (address, remote) = listener.accept()
            assert address == "10.0.2.2"
            sock.settimeout(PATIENCE)
            inner[remote] = sock
        pairs = [(client, inner[client.getsockname()[1]]) for client in clients]
        relay.result("forward-del", identity="acme/web", forward=f"tcp:127.0.0.1:{port}:80")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 2)
        exchange(pairs, 100_000)


def test_bulk_both_ways_survives_kill_9_of_the_relay(relay: Relay) -> None:
    with TapGuest(MAC) as guest:
        link = relay.attach("acme/web")
        guest.attach(link.sock)
        idle, idle_end = connected(guest)
        pair = connected(guest)
        streams = [Stream(*ends, 6_000_000) for ends in (pair, pair[::-1])]
        worker = relay.workers()["acme.web"]
        gaps = []
        for turn in range(1, 6):
            wait_for(lambda turn=turn: all(s.arrived > turn * 1_000_000 for s in streams),
                     PATIENCE)
            begin = time.monotonic()
            relay.kill()
            relay.start()
            link = relay.attach("acme/web", epoch=link.epoch, token=link.token)
            guest.attach(link.sock)
            before = [s.arrived for s in streams]
            wait_for(lambda before=before: all(s.arrived > b or s.arrived == s.size
                                               for s, b in zip(streams, before)), PATIENCE)
            gaps.append(time.monotonic() - begin)
        for stream in streams:
            stream.check()
        idle.sendall(b"still here")
        assert idle_end.recv(100) == b"still here"
        assert relay.workers()["acme.web"] == worker and alive(worker)
        assert relay.port("acme/web")["nat-losses"] == 0
        print("gaps", " ".join(f"{gap:.3f}" for gap in gaps))


def test_bulk_both_ways_survives_moves(relay: Relay) -> None:
    with TapGuest(MAC) as guest:
        link = relay.attach("acme/web")
        guest.attach(link.sock)
        pair = connected(guest)
        streams = [Stream(*ends, 6_000_000) for ends in (pair, pair[::-1])]
        for turn in range(1, 5):
            wait_for(lambda turn=turn: all(s.arrived > turn * 1_000_000 for s in streams),
                     PATIENCE)
            # What a guest that stands still has not read goes with the old place.
            guest.detach()
            link.close()
            wait_for(lambda: relay.port("acme/web")["state"] in ("paused", "away"))
            frozen = [s.arrived for s in streams][0]
            time.sleep(0.3)
            assert streams[0].arrived <= frozen + 8 * 1024 * 1024
            link = relay.attach("acme/web", epoch=link.epoch + 1)
            guest.attach(link.sock)
        for stream in streams:
            stream.check()


def test_a_long_absence_is_not_noticed(relay: Relay) -> None:
    with TapGuest(MAC) as guest:
        link = relay.attach("acme/web")
        guest.attach(link.sock)
        inner, outer = connected(guest)
        inner.sendall(b"before")
        assert outer.recv(100) == b"before"
        guest.detach()
        wait_for(lambda: "frozen=1" in relay.ask_worker("acme.web", "stat"))
        outer.sendall(b"meanwhile")
        time.sleep(4)
        begin = time.monotonic()
        guest.attach(relay.attach("acme/web", epoch=link.epoch, token=link.token).sock)
        assert inner.recv(100) == b"meanwhile"
        # Nobody was backing off.
        assert time.monotonic() - begin < 2
        inner.close()
        outer.close()


def test_a_lost_worker_resets_its_guests_connections(relay: Relay) -> None:
    with TapGuest(MAC) as guest:
        guest.attach(relay.attach("acme/web").sock)
        inner, outer = connected(guest)
        os.kill(relay.workers()["acme.web"], 9)
        assert outer.recv(1) == b""         # the kernel closes for the dead
        wait_for(lambda: relay.port("acme/web")["nat"] == "running")
        begin = time.monotonic()
        with pytest.raises(ConnectionResetError):
            while True:
                inner.sendall(b"x")
                time.sleep(0.02)
                assert time.monotonic() - begin < 5
        inner, outer = connected(guest)
        inner.sendall(b"anew")
        assert outer.recv(100) == b"anew"


def worker_size(pid: int) -> tuple[int, int]:
    """Its descriptors, and its memory in KiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        memory = int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])
    return len(os.listdir(f"/proc/{pid}/fd")), memory


def flows_in(relay: Relay) -> int:
    return int(re.search(r"tcp-flows=(\d+)", relay.ask_worker("acme.web", "stat"))[1])


def test_a_thousand_short_connections_leave_nothing(relay: Relay) -> None:
    with TapGuest(MAC) as guest, Server(echo) as server:
        guest.attach(relay.attach("acme/web").sock)
        worker = wait_for(relay.workers)["acme.web"]    # type: ignore[index]
        sizes = []
        turn = threading.Lock()     # of asking the namespace for a socket

        def talk(count: int) -> None:
            with turn:
                sock = guest.socket()
            with sock:
                sock.connect(("10.0.2.2", server.port))
                message = b"%d" % count
                sock.sendall(message)
                assert sock.recv(100) == message

        for _ in range(2):
            with ThreadPoolExecutor(25) as pool:
                list(pool.map(talk, range(500)))
            wait_for(lambda: flows_in(relay) == 0, 20, "the last connection to be over")
            sizes.append(worker_size(worker))
        print("descriptors and KiB after 500 and 1000", sizes)
        # The question itself has one.
        assert sizes[1][0] <= sizes[0][0] + 2
        assert sizes[1][1] - sizes[0][1] < 1024
