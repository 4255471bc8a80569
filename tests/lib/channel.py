# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines to and from a guest: its console and the agent's port.

Theory of operation.  QEMU connects each character device to a unix socket the harness listens
on.  A thread reads it, so that a guest never blocks on its console, keeps the newest lines with
the time at which they arrived, and writes everything to a log.  A request is one line; its answer
is the first line of JSON after it that names the same command.  So kernel messages in between
and a late answer to something that was given up do no harm.  Requests of one channel wait for
each other.
"""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deadlines import Deadline

LINE_LIMIT = 1 << 20
LINES_KEPT = 2000


class ChannelError(Exception):
    """The channel is closed, or the agent refused."""


@dataclass(frozen=True)
class Line:
    text: str
    when_ns: int            # time.monotonic_ns() at which its end was read
    number: int


@dataclass(frozen=True)
class Answer:
    value: dict[str, Any]
    sent_ns: int            # the host's clock just before the request went out
    received_ns: int        # and just after its answer came


class Channel:
    def __init__(self, connection: socket.socket, who: str, log: Path | None = None):
        self.who = who
        self._socket = connection
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._lines: list[Line] = []
        self._count = 0
        self._closed = False
        self._log = open(log, "ab", buffering=0) if log else None
        self._reader = threading.Thread(target=self._read, name=who, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        pending = b""
        try:
            while block := self._socket.recv(65536):
                now = time.monotonic_ns()
                if self._log:
                    self._log.write(block)
                *lines, pending = (pending + block).split(b"\n")
                pending = pending[-LINE_LIMIT:]
                if lines:
                    self._take(lines, now)
        except OSError:
            pass
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._log:
            self._log.close()

    def _take(self, lines: list[bytes], now: int) -> None:
        with self._changed:
            for line in lines:
                self._count += 1
                text = line.decode(errors="replace").strip("\r\0 ")
                self._lines.append(Line(text, now, self._count))
            del self._lines[:-LINES_KEPT]
            self._changed.notify_all()

    def _wait(self, find: Callable[[Line], Any], since: int, deadline: Deadline) -> Any:
        with self._changed:
            while True:
                for line in self._lines:
                    if line.number > since and (found := find(line)) is not None:
                        return found
                if self._closed:
                    raise ChannelError(f"{self.who}: closed; {deadline.what} never came")
                self._changed.wait(deadline.left())

    def tail(self, lines: int = 15) -> list[str]:
        with self._changed:
            return [line.text for line in self._lines[-lines:]]

    def mark(self) -> int:
        with self._changed:
            return self._count

    def wait_line(self, pattern: str, *, since: int = 0, timeout: float = 60) -> re.Match[str]:
        """Return the first match of PATTERN in a line after the mark SINCE."""
        wanted = re.compile(pattern)
        return self._wait(lambda line: wanted.search(line.text), since,
                          Deadline(timeout, f"{self.who}: a line like '{pattern}'"))

    def send(self, text: str) -> int:
        """Send a line and return the host's time just before."""
        now = time.monotonic_ns()
        try:
            self._socket.sendall(text.encode() + b"\n")
        except OSError as error:
            raise ChannelError(f"{self.who}: {text}: {error}") from error
        return now

    def request(self, text: str, timeout: float = 60) -> Answer:
        """Ask the agent; an answer that is not ok is an error."""
        command = text.split()[0]

        def find(line: Line) -> Answer | None:
            value = parse_answer(line.text)
            if value is None or value.get("command") != command:
                return None
            return Answer(value, sent, line.when_ns)

        with self._turn:
            since = self.mark()
            sent = self.send(text)
            answer = self._wait(find, since, Deadline(timeout, f"{self.who}: answer to '{text}'"))
        if not answer.value.get("ok"):
            raise ChannelError(f"{self.who}: '{text}': {answer.value.get('error', 'refused')}")
        return answer

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._reader.join(5)
        self._socket.close()


def parse_answer(text: str) -> dict[str, Any] | None:
    """Return the JSON object a line holds, maybe after a prompt or an echo, else None."""
    start = text.find('{"ok"')
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text[start:])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
