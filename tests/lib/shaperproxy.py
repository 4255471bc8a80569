#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The process behind shaper.py: carries TCP and unix connections over a link that misbehaves.

usage: shaperproxy.py DESCRIPTOR

DESCRIPTOR is a unix stream socket on which requests and answers come as lines of JSON.  The first
request opens the link.  When the other end closes, which it does when it dies, this process ends.

Theory of operation.  One thread and one epoll.  A connection is two sockets and two flows, one for
each direction; bottleneck.py decides what of a flow may move and when.  Sockets are watched for
edges: that one can be read or written is noted until the kernel denies it, so a flow that has to
wait costs no system call and never spins.  What is not read stays in the kernel, whose buffers are
kept small here, and so the sender comes to feel the link.

The end of a stream and a reset travel in their flow behind its bytes.  A silent link therefore
hides them as well, and nobody is told of a death on the other side.  Only a cut does not travel:
it resets both sockets at once.  While the link is silent in either direction no new connection is
accepted, for a handshake needs both; the kernel completes it, but nothing answers.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bottleneck import End, Flow, Line

READ = 1 << 18              # bytes at once
KERNEL = 1 << 17            # bytes asked for each of a socket's own buffers
CONNECTIONS = 128           # at once; more are reset
DOORS = 8
REDIAL = 0.01               # seconds, when a unix listener's queue is full
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
REQUEST_LIMIT = 1 << 16
RESETTING = struct.pack("ii", 1, 0)


def _address(value: str | list) -> str | tuple[str, int]:
    return value if isinstance(value, str) else (value[0], value[1])


def _socket(address: str | tuple[str, int]) -> socket.socket:
    """Make a socket for an address, with buffers that do not hide the link."""
    made = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL)
    return made


def _reset(connection: socket.socket) -> None:
    """Close so that TCP's other end sees a reset; a unix socket just ends."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
    connection.close()


class Side:
    """One socket of a connection."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.readable = False
        self.writable = False
        self.dialling = False
        self.failed = False                 # writing met an error, which reading will not see


class Way(Flow):
    """A flow between the two sockets of a connection."""

    def __init__(self, line: Line, source: Side, sink: Side):
        super().__init__()
        self.line = line
        self.source = source
        self.sink = sink
        self.back: Way
        self.connection: Connection
        self.delivered = 0
        self.done = False

    def read(self) -> bool:
        """Take bytes or the end from the source, if the queue has room; tell whether it had."""
        source = self.source
        if not source.readable or self.ended or self.dropped or source.dialling:
            return False
        room = self.line.room(self)
        if not room:
            return False
        try:
            data = source.socket.recv(min(room, READ))
        except BlockingIOError:
            source.readable = False
            self.line.sated(self)
            return False
        except OSError:
            self.line.end(self, End.RESET)
            return True
        if data:
            self.line.add(self, data)
        else:
            self.line.end(self, End.RESET if source.failed else End.FIN)
        return True

    def write(self) -> bool:
        """Give what arrived to the sink; tell whether any was taken."""
        moved = False
        while self.arrived and self.sink.writable:
            item = self.arrived[0]
            try:
                if isinstance(item, End):
                    self._deliver_end(item)
                    return True
                size = self.sink.socket.send(item)
            except BlockingIOError:
                self.sink.writable = False
                break
            except OSError:
                self._lose()
                return True
            self.delivered += size
            self.line.take(self, size)
            moved = True
        return moved

    def _deliver_end(self, how: End) -> None:
        self.line.take(self, 0)
        self.done = True
        if how is End.RESET:
            self.connection.gone = True
        else:
            self.sink.socket.shutdown(socket.SHUT_WR)

    def _lose(self) -> None:
        """The sink is dead.  What it said before still travels, and then the news of it."""
        self.sink.failed = self.sink.readable = True
        self.line.drop(self)
        if self.back.dropped:
            self.connection.gone = True
        elif self.back.ended is End.FIN:
            self.back.done = False
            self.back.line.end(self.back, End.RESET)


class Connection:
    def __init__(self, near: socket.socket, target: str | tuple[str, int], up: Line, down: Line):
        self.target = target
        self.near, self.far = Side(near), Side(_socket(target))
        self.up, self.down = Way(up, self.near, self.far), Way(down, self.far, self.near)
        self.up.back, self.down.back = self.down, self.up
        self.up.connection = self.down.connection = self
        self.ways = (self.up, self.down)
        self.gone = False                   # to be reset

    @property
    def done(self) -> bool:
        return self.gone or (self.up.done and self.down.done)

    def close(self) -> None:
        for way in self.ways:
            way.line.drop(way)
        for side in (self.near, self.far):
            if self.gone:
                _reset(side.socket)
            else:
                side.socket.close()


class Door:
    """Where a target is dialled: a listener of our own."""

    def __init__(self, listener: socket.socket, target: str | tuple[str, int]):
        self.listener = listener
        self.target = target
        self.knocked = False                # somebody waits to be accepted


class Proxy:
    """The link: its listeners, their connections, and a line for each direction."""

    def __init__(self, control: socket.socket):
        self._control = control
        self._pending = b""
        self._stop = False
        self._epoll = select.epoll()
        self._epoll.register(control, select.EPOLLIN)
        self._doors: dict[int, Door] = {}
        self._lines: dict[str, Line] = {}
        self._connections: list[Connection] = []
        self._sides: dict[int, tuple[Connection, Side]] = {}
        self._redial: list[tuple[float, Connection]] = []
        self._refusing = False
        self._count = dict.fromkeys(("up", "down", "made", "cut", "refused", "failed"), 0)

    def run(self) -> None:
        timeout: float | None = None
        while not self._stop:
            for descriptor, events in self._epoll.poll(timeout):
                self._event(descriptor, events)
            now = time.monotonic()
            self._dial_again(now)
            for door in self._doors.values():
                if door.knocked:
                    self._accept(door, now)
            timeout = 0 if self._pump(now) else self._timeout(now)

    def close(self) -> None:
        for connection in self._connections:
            connection.gone = True
        self._bury(list(self._connections))
        for door in self._doors.values():
            address = door.listener.getsockname()
            door.listener.close()
            if isinstance(address, str):
                Path(address).unlink(missing_ok=True)

    # What happens outside

    def _event(self, descriptor: int, events: int) -> None:
        if descriptor == self._control.fileno():
            self._serve_control()
        elif descriptor in self._doors:
            self._doors[descriptor].knocked = True
        elif descriptor in self._sides:
            connection, side = self._sides[descriptor]
            if events != select.EPOLLOUT:
                side.readable = True        # so is an error
            if events & (select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP):
                side.writable = True
                if side.dialling:
                    self._dialled(connection, side)

    def _watch(self, connection: Connection, side: Side) -> None:
        self._sides[side.socket.fileno()] = (connection, side)
        self._epoll.register(side.socket, EDGES)

    def _accept(self, door: Door, now: float) -> None:
        while not any(line.silent for line in self._lines.values()):
            try:
                near, _ = door.listener.accept()
            except BlockingIOError:
                door.knocked = False
                return
            except OSError:
                continue                    # it went away before it was let in
            if self._refusing or len(self._connections) == CONNECTIONS:
                self._count["refused"] += 1
                _reset(near)
                continue
            connection = Connection(near, door.target, *self._lines.values())
            connection.far.dialling = True
            self._connections.append(connection)
            self._count["made"] += 1
            self._watch(connection, connection.near)
            self._dial(connection, now)

    def _dial(self, connection: Connection, now: float) -> None:
        side = connection.far
        try:
            side.socket.connect(connection.target)
        except BlockingIOError:
            if isinstance(connection.target, str):     # its queue is full, and nobody will tell
                self._redial.append((now + REDIAL, connection))
                return
        except OSError:
            connection.gone = True
            self._count["failed"] += 1
            return
        self._watch(connection, side)

    def _dial_again(self, now: float) -> None:
        due, self._redial = ([entry for entry in self._redial if (entry[0] <= now) is is_due]
                             for is_due in (True, False))
        for _, connection in due:
            if not connection.done:
                self._dial(connection, now)

    def _dialled(self, connection: Connection, side: Side) -> None:
        side.dialling = False
        if side.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            connection.gone = True
            self._count["failed"] += 1

    # What moves

    def _pump(self, now: float) -> bool:
        """Move what can be moved; tell whether there may be more."""
        more = self._arrive(now)
        ways = [way for one in self._connections if not one.gone for way in one.ways]
        for way in ways:
            more |= way.read()
        if more:
            self._arrive(now)
        for way in ways:
            if way.arrived:
                more |= way.write()
        self._bury([one for one in self._connections if one.done])
        return more

    def _arrive(self, now: float) -> bool:
        return any([line.advance(now) for line in self._lines.values()])

    def _bury(self, dead: list[Connection]) -> None:
        for connection in dead:
            self._count["up"] += connection.up.delivered
            self._count["down"] += connection.down.delivered
            for side in (connection.near, connection.far):
                self._sides.pop(side.socket.fileno(), None)
            connection.close()
            self._connections.remove(connection)

    def _timeout(self, now: float) -> float | None:
        due = [when for line in self._lines.values() if (when := line.wake()) is not None]
        due += [when for when, _ in self._redial]
        return max(0.0, min(due) - now) if due else None

    # What is asked

    def _serve_control(self) -> None:
        block = self._control.recv(REQUEST_LIMIT)
        self._pending += block
        if not block or len(self._pending) > REQUEST_LIMIT:
            self._stop = True
            return
        *requests, self._pending = self._pending.split(b"\n")
        for text in requests:
            request = json.loads(text)
            try:
                answer = {"ok": True, **getattr(self, f"do_{request.pop('do')}")(**request)}
            except (ValueError, OSError) as error:
                answer = {"ok": False, "error": str(error)}
            self._control.sendall(json.dumps(answer).encode() + b"\n")

    def _directed(self, direction: str) -> list[Line]:
        if direction not in ("both", *self._lines):
            raise ValueError(f"no direction is called {direction}: up, down, both")
        return [line for name, line in self._lines.items() if direction in ("both", name)]

    def do_open(self, target: str | list, listen: str | list, **shape: Any) -> dict:
        now = time.monotonic()
        self._lines = {name: Line(now, **shape) for name in ("up", "down")}
        return self.do_lead(target, listen)

    def do_lead(self, target: str | list, listen: str | list) -> dict:
        """Lead to a target, over the same lines as to any other."""
        if len(self._doors) == DOORS:
            raise ValueError(f"a link leads to {DOORS} targets at most")
        address = _address(listen)
        listener = _socket(address)
        try:
            listener.bind(address)
            listener.listen(CONNECTIONS)
        except OSError:
            listener.close()
            raise
        self._doors[listener.fileno()] = Door(listener, _address(target))
        self._epoll.register(listener, select.EPOLLIN | select.EPOLLET)
        return {"address": listener.getsockname()}

    def do_shape(self, direction: str, **shape: Any) -> dict:
        wanted = [(line, {"rate": line.rate, "delay": line.delay, "queue": line.queue} | shape)
                  for line in self._directed(direction)]
        for _, merged in wanted:
            Line(0, **merged)               # both change, or none
        for line, merged in wanted:
            line.shape(**merged)
        return {}

    def do_cut(self, which: str | int, chance: float) -> dict:
        """Reset all connections, one by its number, or one by CHANCE (0 to 1)."""
        chosen = [one for one in self._connections if not one.done]
        if which == "random":
            chosen = chosen[int(chance * len(chosen)):][:1]
        elif isinstance(which, int):
            if not 0 <= which < len(chosen):
                raise ValueError(f"connection {which} is not there: {len(chosen)} are open")
            chosen = [chosen[which]]
        elif which != "all":
            raise ValueError(f"no connections are called {which}: all, random, a number")
        for connection in chosen:
            connection.gone = True
        self._count["cut"] += len(chosen)
        self._bury(chosen)
        return {"closed": len(chosen)}

    def do_refuse(self, on: bool) -> dict:
        self._refusing = on
        return {}

    def do_silence(self, on: bool, direction: str) -> dict:
        for line in self._directed(direction):
            line.silence(on, time.monotonic())
        return {}

    def do_corrupt(self, direction: str, after_bytes: int) -> dict:
        if after_bytes < 0:
            raise ValueError("bytes that have passed cannot be damaged any more")
        for line in self._directed(direction):
            line.flip(after_bytes)
        return {}

    def do_figures(self) -> dict:
        up = sum(one.up.delivered for one in self._connections)
        down = sum(one.down.delivered for one in self._connections)
        return self._count | {
            "up": self._count["up"] + up, "down": self._count["down"] + down,
            "open": len(self._connections), "cpu_seconds": time.process_time(),
            "queued": sum(line.queued for line in self._lines.values()),
            "flipped": sum(line.flipped for line in self._lines.values())}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the other end decides
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    proxy = Proxy(control)
    try:
        proxy.run()
    finally:
        proxy.close()


if __name__ == "__main__":
    main()
