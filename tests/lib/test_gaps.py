# SPDX-License-Identifier: GPL-2.0-or-later
"""The arithmetic of gaps, and the client against counters on loopback."""

import socket
import threading
import time

import pytest
from gaps import GapClient, falls_back, longest_gap, parse_counter


@pytest.mark.parametrize(("times", "since", "until", "gap"), [
    ([], None, None, 0.0),
    ([1.0], None, None, 0.0),
    ([1.0, 1.02, 1.5, 1.52], None, None, 0.48),
    ([1.5, 1.0, 1.02], None, None, 0.48),               # in any order
    ([1.0, 9.0, 9.1], 9.0, None, 0.1),                  # the long one was before
    ([5.0], 4.0, 5.5, 1.0),                             # the ends count
    ([], 1.0, 3.0, 2.0),                                # no answer at all: all of it
    ([1.0, 2.0, 8.0], None, 3.0, 1.0),
])
def test_longest_gap(times: list[float], since: float | None, until: float | None,
                     gap: float) -> None:
    assert longest_gap(times, since, until) == pytest.approx(gap)


def test_falls_back() -> None:
    assert not falls_back([]) and not falls_back([3]) and not falls_back([1, 2, 9])
    assert falls_back([1, 2, 2]) and falls_back([5, 4])


@pytest.mark.parametrize(("line", "value"), [
    ("17 123456", 17), ("5", 5), ("5x", None), ("", None), ("x 5", None),
])
def test_parse_counter(line: str, value: int | None) -> None:
    assert parse_counter(line) == value


class Counters:
    """A guest's counter service that can move to another port."""

    def __init__(self) -> None:
        self.value = 0
        self.server: socket.socket | None = None
        self.connections: list[socket.socket] = []

    def listen(self) -> tuple[str, int]:
        server = socket.create_server(("127.0.0.1", 0))
        self.server = server
        threading.Thread(target=self._accept, args=[server], daemon=True).start()
        return server.getsockname()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        try:
            while connection.recv(1):
                self.value += 1
                connection.sendall(b"%d %d\n" % (self.value, time.monotonic_ns()))
        except OSError:
            pass

    def stop(self) -> None:
        assert self.server
        self.server.shutdown(socket.SHUT_RDWR)      # wakes the thread that accepts
        self.server.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()
        self.connections.clear()


def test_client_follows_and_sees_the_gap() -> None:
    counters = Counters()
    with GapClient(counters.listen()) as client:
        assert client.wait_answer(time.monotonic(), 5)
        began = time.monotonic()
        counters.stop()
        threading.Event().wait(0.3)
        client.follow(counters.listen())
        assert client.wait_answer(time.monotonic(), 5)
        assert 0.28 <= client.gap(began - 0.1) < 3
        counters.stop()
    ticks = client.ticks
    assert len(ticks) >= 2
    assert not falls_back(tick.counter for tick in ticks)


def test_client_ends_though_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with GapClient(mute.getsockname()) as client:
            assert not client.wait_answer(time.monotonic(), 0.1)
        assert time.monotonic() - began < 6
    assert client.ticks == []


def test_client_keeps_trying_until_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = reserved.getsockname()
    counters = Counters()
    with GapClient(address) as client:
        assert not client.wait_answer(0, 0.2)
        client.follow(counters.listen())
        assert client.wait_answer(0, 5)
        counters.stop()


def test_second_connection_wins_where_the_first_is_mute() -> None:
    counters = Counters()
    with socket.create_server(("127.0.0.1", 0)) as server:
        with GapClient(server.getsockname()) as client:
            mute, _ = server.accept()
            quick, _ = server.accept()
            counters.connections.append(quick)
            threading.Thread(target=counters.serve, args=[quick], daemon=True).start()
            assert client.wait_answer(0, 5)
            mute.settimeout(5)
            assert mute.recv(10) == b"\n" and mute.recv(10) == b""     # asked once, given up
            mute.close()
            quick.shutdown(socket.SHUT_RDWR)
