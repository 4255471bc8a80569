# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of QEMU's machine protocol (QMP).

Theory of operation.  One thread reads the socket line by line for as long as it is open.  An
answer carries the number of its request and wakes the thread that waits for it; an event is
noted with the host's time and wakes whoever waits for events.  Events are kept, so that one
which came before its wait began is still found: a wait looks at everything since a *mark*.  When
the connection ends, each wait ends with Lost, never with silence.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deadlines import Deadline, TooLate

LINE_LIMIT = 16 << 20       # no answer is longer; a longer line is nonsense
EVENTS_KEPT = 4096


class QmpError(Exception):
    """QEMU refused a command."""

    def __init__(self, command: str, kind: str, text: str):
        super().__init__(f"{command}: {text}")
        self.command = command
        self.kind = kind
        self.text = text


class Lost(Exception):
    """The connection ended."""


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]
    when: float             # time.monotonic() at which the harness read it
    number: int


class Qmp:
    """A connection over a connected socket; names itself in errors by WHO."""

    def __init__(self, connection: socket.socket, who: str = "QEMU", timeout: float = 60):
        self._socket = connection
        self._who = who
        self._changed = threading.Condition()
        self._send_lock = threading.Lock()
        self._answers: dict[int, dict[str, Any]] = {}
        self._awaited: set[int] = set()
        self._events: list[Event] = []
        self._event_count = 0
        self._last = 0
        self._lost: str | None = None
        self._greeting: dict[str, Any] | None = None
        self._listeners: list[Callable[[Event], None]] = []
        self._reader = threading.Thread(target=self._read, name=f"qmp {who}", daemon=True)
        self._reader.start()
        deadline = Deadline(timeout, f"{who}: QMP greeting")
        with self._changed:
            self._wait(lambda: self._greeting is not None, deadline)
        self.execute("qmp_capabilities", timeout=timeout)

    @property
    def greeting(self) -> dict[str, Any]:
        assert self._greeting is not None
        return self._greeting

    @property
    def version(self) -> str:
        numbers = self.greeting["version"]["qemu"]
        return f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}"

    @property
    def lost(self) -> bool:
        return self._lost is not None

    # The reader's side

    def _read(self) -> None:
        pending = b""
        reason = "the connection was closed"
        try:
            while block := self._socket.recv(65536):
                pending += block
                *lines, pending = pending.split(b"\n")
                if len(pending) > LINE_LIMIT:
                    raise ValueError("a line has no end")
                for line in lines:
                    if line.strip():
                        self._take(json.loads(line))
        except (OSError, ValueError) as error:
            reason = str(error)
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise ValueError(f"not a QMP message: {str(message)[:80]}")
        event = None
        with self._changed:
            if "QMP" in message:
                self._greeting = message["QMP"]
            elif "event" in message:
                event = self._note_event(message)
            elif message.get("id") in self._awaited:
                self._answers[message["id"]] = message
            self._changed.notify_all()
        if event:
            for listener in list(self._listeners):
                listener(event)

    def _note_event(self, message: dict[str, Any]) -> Event:
        self._event_count += 1
        event = Event(message["event"], message.get("data", {}), time.monotonic(),
                      self._event_count)
        self._events.append(event)
        del self._events[:-EVENTS_KEPT]
        return event

    # The callers' side

    def _wait(self, ready: Callable[[], bool], deadline: Deadline) -> None:
        """Wait under the lock until READY; whatever came before a loss still counts."""
        while not ready():
            if self._lost is not None:
                raise Lost(f"{self._who}: QMP: {self._lost}")
            self._changed.wait(deadline.left())

    def execute(self, command: str, arguments: dict[str, Any] | None = None, *,
                timeout: float = 60) -> Any:
        """Run a command and return what it returned."""
        with self._changed:
            self._last += 1
            number = self._last
            self._awaited.add(number)
        request: dict[str, Any] = {"execute": command, "id": number}
        if arguments:
            request["arguments"] = arguments
        try:
            with self._send_lock:
                self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise Lost(f"{self._who}: QMP: {command}: {error}") from error
        deadline = Deadline(timeout, f"{self._who}: answer to {command}")
        with self._changed:
            try:
                self._wait(lambda: number in self._answers, deadline)
                answer = self._answers.pop(number)
            finally:
                self._awaited.discard(number)
        if "error" in answer:
            error = answer["error"]
            raise QmpError(command, error.get("class", ""), error.get("desc", ""))
        return answer.get("return")

    def human(self, command: str) -> str:
        """Run a command of the human monitor, for what QMP does not offer."""
        return self.execute("human-monitor-command", {"command-line": command})

    def mark(self) -> int:
        """Return the number of the newest event, to wait for those after it."""
        with self._changed:
            return self._event_count

    def events(self, name: str | None = None, since: int = 0) -> list[Event]:
        with self._changed:
            return [e for e in self._events
                    if e.number > since and (name is None or e.name == name)]

    def wait_event(self, name: str, accept: Callable[[dict[str, Any]], bool] | None = None, *,
                   since: int = 0, timeout: float = 60) -> Event:
        """Return the first event NAME after the mark SINCE whose data is accepted."""
        found: list[Event] = []

        def look() -> bool:
            found[:] = [e for e in self._events if e.number > since and e.name == name
                        and (accept is None or accept(e.data))][:1]
            return bool(found)

        with self._changed:
            self._wait(look, Deadline(timeout, f"{self._who}: event {name}"))
            return found[0]

    def poll_event(self, name: str, accept: Callable[[dict[str, Any]], bool] | None = None, *,
                   since: int = 0, timeout: float) -> Event | None:
        """Like wait_event(), but None when the time is over."""
        try:
            return self.wait_event(name, accept, since=since, timeout=timeout)
        except TooLate:
            return None

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call LISTENER in the reader's thread for each event; it must not run commands."""
        self._listeners.append(listener)

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._reader.join(5)
        self._socket.close()
