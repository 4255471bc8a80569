# SPDX-License-Identifier: GPL-2.0-or-later
"""Two ends of a quasar: session with a link between them that a test may break.

Theory of operation.  Source and destination are real QEMUs; between them stands a Shaper.  A test
names a stage and an end, and what is to happen when that end tells the stage: the action runs in
the thread that reads the end's events, so nothing lies between the event and the fault.  Who runs
the guest is asked from each end that lives; that two run it at once is an error of its own kind.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deadlines import Deadline, TooLate
from machine import HostLike, Machine, Setup
from qmp import Event, Lost, QmpError
from shaper import Shaper

STAGES = ("prepare", "bulk", "rounds", "stop", "commit")
SETTLED = ("done", "failed")
PASSES = r"pass (\d+) bad (\d+)"     # what a bare guest says of its memory
LOOK = 0.05
DOWNTIME_MS = 5000          # bare guests are busy all the time, and so may be the machine


class TwoRun(AssertionError):
    """The guest runs at both ends."""


class Session:
    """A guest at the source, and a destination that listens; use it as a context."""

    def __init__(self, here: HostLike, there: HostLike, setup: Setup, folder: Path, *,
                 arrives_in: Setup | None = None, settings: dict[str, Any] | None = None,
                 parameters: dict[str, Any] | None = None,
                 prepare: Callable[[str, Machine], None] | None = None, listens: bool = True,
                 **link: Any):
        """Start both ends, the destination with ARRIVES_IN if that differs.

        PREPARE is called for each end before the destination listens, if it does.
        """
        self.ends: dict[str, Machine] = {}
        self.link: Shaper | None = None
        self._struck = False                # a test's action has run
        try:
            self.ends["source"] = Machine(here, setup, folder / "source")
            self.ends["destination"] = Machine(there, arrives_in or setup, folder / "destination",
                                               incoming="defer")
            self.source.qmp.execute("quasar-set", settings or {})
            self.source.qmp.execute("migrate-set-parameters",
                                    {"max-bandwidth": 0, "downtime-limit": DOWNTIME_MS,
                                     **(parameters or {})})
            for end in self.ends.values():
                end.qmp.execute("migrate-set-capabilities", {"capabilities": [
                    {"capability": "events", "state": True}]})
            for name, end in self.ends.items():
                if prepare:
                    prepare(name, end)
            if listens:
                self.link = Shaper(self._listen(), **link)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        for name, end in self.ends.items():
            self.signal(name, signal.SIGCONT)
            end.stop()
        if self.link:
            self.link.close()

    @property
    def source(self) -> Machine:
        return self.ends["source"]

    @property
    def destination(self) -> Machine:
        return self.ends["destination"]

    def _listen(self) -> tuple[str, int]:
        self.destination.qmp.execute("migrate-incoming", {"uri": "quasar:127.0.0.1:0"})
        answer = self.destination.qmp.execute("query-migrate")
        address = answer["socket-address"][0]
        return address["host"], int(address["port"])

    def start(self) -> None:
        """Begin the move.  A source that a fault ends in the first stage may not answer."""
        assert self.link and isinstance(self.link.address, tuple)
        host, port = self.link.address
        try:
            self.source.qmp.execute("migrate", {"uri": f"quasar:{host}:{port}"})
        except Lost:
            if not self._struck:
                raise

    def signal(self, end: str, number: int) -> None:
        """Signal a QEMU that this session started and that has not ended."""
        if self.ends[end].running:
            os.kill(self.ends[end].process.pid, number)

    def at_stage(self, end: str, stage: str, action: Callable[[], None]) -> None:
        """Call ACTION once, when END tells that it entered STAGE."""
        done: list[bool] = []

        def listener(event: Event) -> None:
            if event.name == "QUASAR_STAGE" and event.data["stage"] == stage and not done:
                done.append(True)
                self._struck = True
                action()

        self.ends[end].qmp.listen(listener)

    def ask(self, end: str, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Ask an end; None when it has ended or does not answer."""
        try:
            return self.ends[end].qmp.execute(command, arguments, timeout=10)
        except (QmpError, Lost, TooLate):
            return None

    def info(self, end: str) -> dict[str, Any]:
        return self.ask(end, "query-quasar") or {}

    def runs(self, end: str) -> bool:
        status = self.ask(end, "query-status")
        return bool(status and status["running"])

    def runners(self) -> list[str]:
        """Tell which ends run the guest; raise when both do."""
        found = [end for end in self.ends if self.runs(end)]
        if len(found) > 1:
            raise TwoRun("the guest runs at both ends")
        return found

    def wait(self, ready: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Wait for READY; all the while at most one end may run the guest."""
        deadline = Deadline(timeout, what)
        while not ready():
            self.runners()
            if deadline.left() <= 0:
                raise TooLate(f"{what}: not within {timeout:g} seconds\n{self.story()}")
            time.sleep(LOOK)

    def wait_settled(self, end: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until an end says that the move is over, or is paused and says why."""
        self.wait(lambda: self.info(end).get("stage") in SETTLED, f"the end at the {end}", timeout)
        return self.info(end)

    def check_guest(self, end: str) -> None:
        """A bare guest goes through its memory at this end once more: every word is right."""
        console = self.ends[end].console
        for _ in range(2):
            found = console.wait_line(PASSES, since=console.mark(), timeout=60)
            assert found.group(2) == "0", f"{found.group(2)} words are wrong at the {end}"

    def check_arrives(self, timeout: float = 60) -> None:
        """The move ends well: the guest runs at the destination, and there alone."""
        self.wait_settled("source", timeout)
        self.wait_settled("destination", timeout)
        assert self.runners() == ["destination"], self.story()
        self.check_guest("destination")

    def check_stays(self) -> str:
        """The move fails and the guest runs on at the source; return the reason told there."""
        told = self.wait_settled("source")
        assert (told["stage"], told["where"]) == ("failed", "here"), told
        assert self.runners() == ["source"]
        self.check_guest("source")
        return told["reason"]

    def story(self) -> str:
        told = [f"{name}: {self.info(name)}" for name in self.ends]
        return "\n".join([*told, *(end.story() for end in self.ends.values())])
