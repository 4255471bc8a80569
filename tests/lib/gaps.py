# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client outside sees of a move: the longest time without an answer.

Theory of operation.  A thread keeps a TCP connection to the guest's counter and asks for a line
about every 20 ms.  Each answer is noted with its time.  When the guest moves, follow() tells the
thread the new host's address; it drops its connection and makes a new one there, as a client
behind a load balancer would (user networking carries no connection along).  While nobody
answers, another connection is tried every second beside those that wait, for the first
packet to a guest that just arrived may be lost; the first connection that answers is kept.  A gap
is the time between two answers that follow each other, so waiting for a connection counts as
well.  The counter lives in the guest's memory: were it to fall back, an answer was lost for ever.
"""

import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PERIOD = 0.02
RETRY = 1.0                 # without an answer, another connection is tried
MOST = 32                   # connections at once; the oldest is given up then
NEVER = float("inf")


@dataclass(frozen=True)
class Tick:
    when: float             # time.monotonic()
    counter: int


def longest_gap(times: Iterable[float], since: float | None = None,
                until: float | None = None) -> float:
    """Return the longest time between neighbours; SINCE and UNTIL count as ends of a gap."""
    inside = sorted(t for t in times if (since is None or t >= since)
                    and (until is None or t <= until))
    edges = ([] if since is None else [since]) + inside + ([] if until is None else [until])
    return max((b - a for a, b in zip(edges, edges[1:])), default=0.0)


def falls_back(counters: Iterable[int]) -> bool:
    """Tell whether a counter that only goes up ever did not."""
    seen = list(counters)
    return any(b <= a for a, b in zip(seen, seen[1:]))


def parse_counter(line: str) -> int | None:
    """Read the counter out of an answer: "COUNTER NANOSECONDS"."""
    found = re.match(r"\s*(\d+)(\s|$)", line)
    return int(found.group(1)) if found else None


class _Connection:
    """One connection, and when the question that is open on it was asked."""

    def __init__(self, address: tuple[str, int]):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)     # its end, good or bad, makes the socket writable
        self.asked: float | None = None
        self._pending = b""

    def ask(self) -> None:
        self.asked = time.monotonic()
        self.socket.send(b"\n")

    def answer(self) -> str | None:
        """Return the answer, or None while it is not complete."""
        block = self.socket.recv(4096)
        if not block:
            raise ConnectionError("closed by the guest")
        line, end, rest = (self._pending + block).partition(b"\n")
        self._pending = rest if end else line
        return line.decode(errors="replace") if end else None


class GapClient:
    """The client; use it as a context."""

    def __init__(self, address: tuple[str, int]):
        self._address = address
        self._stop = False
        self._answered = threading.Condition()
        self._ticks: list[Tick] = []
        self._connections: list[_Connection] = []
        self._current: _Connection | None = None    # the one that answered last
        self._due = NEVER                           # when it is to be asked again
        self._retry = 0.0                           # when another connection is tried
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="gap client", daemon=True)

    # For whoever moves the guest

    def __enter__(self) -> "GapClient":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._wake.send(b"x")
        self._thread.join(10)
        self._wake.close()
        self._woken.close()

    def follow(self, address: tuple[str, int]) -> None:
        """The guest is to be found at ADDRESS from now on."""
        self._address = address
        self._wake.send(b"x")

    @property
    def ticks(self) -> list[Tick]:
        with self._answered:
            return list(self._ticks)

    def gap(self, since: float | None = None, until: float | None = None) -> float:
        return longest_gap((tick.when for tick in self.ticks), since, until)

    def wait_answer(self, after: float, timeout: float = 60) -> bool:
        """Wait for an answer that came later than AFTER (host time)."""
        with self._answered:
            return self._answered.wait_for(
                lambda: bool(self._ticks) and self._ticks[-1].when > after, timeout)

    # In the client's own thread

    def _run(self) -> None:
        while not self._stop:
            now = time.monotonic()
            if self._current and now >= self._due:
                self._due = NEVER
                self._try(self._current, self._current.ask)
            if now >= self._retry:
                self._retry = now + RETRY
                self._open()
            wait = max(0.0, min(self._due, self._retry) - time.monotonic())
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    self._woken.recv(64)
                    self._begin_again()
                elif key.data in self._connections:
                    self._try(key.data, lambda one=key.data: self._serve(one))
        self._begin_again()
        self._selector.close()

    def _begin_again(self) -> None:
        for connection in list(self._connections):
            self._drop(connection)
        self._retry = 0.0

    def _open(self) -> None:
        if len(self._connections) == MOST:
            self._drop(self._connections[0])
        connection = _Connection(self._address)
        self._connections.append(connection)
        self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._connections.remove(connection)
        if connection is self._current:
            self._current, self._due = None, NEVER

    def _try(self, connection: _Connection, action: Callable[[], None]) -> None:
        """Do something with a connection, which is dropped when that fails."""
        try:
            action()
        except OSError:
            self._drop(connection)

    def _serve(self, connection: _Connection) -> None:
        if connection.asked is None:
            connection.ask()
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
        elif (line := connection.answer()) is not None:
            self._note(connection, parse_counter(line))

    def _note(self, connection: _Connection, counter: int | None) -> None:
        now = time.monotonic()
        if counter is not None:
            with self._answered:
                self._ticks.append(Tick(now, counter))
                self._answered.notify_all()
        for other in list(self._connections):
            if other is not connection:
                self._drop(other)
        assert connection.asked is not None
        self._current = connection
        self._due = connection.asked + PERIOD
        self._retry = now + RETRY
