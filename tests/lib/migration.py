# SPDX-License-Identifier: GPL-2.0-or-later
"""Moving a running guest from one machine to the other, and what it cost.

Theory of operation.  The destination listens (on a port of its own choosing), the source sends;
both tell each step by an event.  The move is over when the source says `completed` and the
destination says RESUME; if either end fails, the failure holds what both ends said about it.
"""

import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deadlines import Deadline, TooLate
from machine import Machine
from qmp import Event, Lost, QmpError

Address = tuple[str, int]

TRANSPORTS = ("tcp", "unix", "quasar", "quasar-unix")
STOCK_FILE, QUASAR_FILE = "file:", "quasar:file="      # what precedes a file's path
ENDS = ("completed", "failed", "cancelled")
POLL = 0.2                  # how often progress is told; nothing depends on it


class MigrationFailed(Exception):
    """The guest did not arrive; the text has what both ends said."""


@dataclass(frozen=True)
class Figures:
    total_ms: int
    downtime_ms: int        # as the source saw it
    bytes: int
    pages: int              # sent whole
    zero_pages: int
    rounds: int
    stopped: float          # host time (time.monotonic()) of the source's STOP
    resumed: float          # and of the destination's RESUME

    @property
    def silence_ms(self) -> float:
        """How long nobody ran the guest, as the events tell."""
        return (self.resumed - self.stopped) * 1000


@dataclass(frozen=True)
class Progress:
    sent: int
    remaining: int
    total: int
    rounds: int

    @property
    def part(self) -> float:
        """How much is done, 0 to 1: what is left of the guest's memory decides."""
        return 1 - min(1.0, self.remaining / self.total) if self.total else 0.0


def _listen(destination: Machine, transport: str,
            through: Callable[[Address], Address] | None) -> str:
    """Have the destination listen; return the address the source is to use."""
    if transport in ("unix", "quasar-unix"):
        path = destination.folder / "migration"
        uri = f"unix:{path}" if transport == "unix" else f"quasar:unix={path}"
        destination.qmp.execute("migrate-incoming", {"uri": uri})
        return uri
    destination.qmp.execute("migrate-incoming", {"uri": f"{transport}:127.0.0.1:0"})
    for address in destination.qmp.execute("query-migrate").get("socket-address", []):
        if address["type"] == "inet":
            host, port = address["host"], int(address["port"])
            if through:
                host, port = through((host, port))
            return f"{transport}:{host}:{port}"
    raise MigrationFailed(f"{destination.name} listens nowhere")


def _set_up(machine: Machine, parameters: dict[str, Any], *, mapped_ram: bool = False) -> None:
    machine.qmp.execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "events", "state": True},
        {"capability": "mapped-ram", "state": mapped_ram}]})
    if parameters:
        machine.qmp.execute("migrate-set-parameters", parameters)


def _end(data: dict[str, Any]) -> bool:
    return data.get("status") in ENDS


def _wait_end(source: Machine, since: int, deadline: Deadline,
              progress: Callable[[Progress], None] | None) -> str:
    """Wait until the source is done; return its verdict."""
    while True:
        wait = min(POLL, deadline.left()) if progress else deadline.left()
        event = source.qmp.poll_event("MIGRATION", _end, since=since, timeout=wait)
        if event:
            return event.data["status"]
        if progress:
            ram = source.qmp.execute("query-migrate").get("ram")
            if ram:
                progress(Progress(ram["transferred"], ram["remaining"], ram["total"],
                                  ram["dirty-sync-count"]))


def _explain(source: Machine, destination: Machine | None) -> str:
    """Collect what both ends have to say about a failure."""
    said = []
    try:
        answer = source.qmp.execute("query-migrate", timeout=10)
        said.append(f"source: {answer.get('status')}: {answer.get('error-desc', 'no reason')}")
    except (QmpError, Lost, TooLate) as error:
        said.append(f"source: {error}")
    if destination:
        try:
            destination.process.wait(2)         # it ends by itself when it cannot load
        except subprocess.TimeoutExpired:       # and goes on otherwise
            said.append("destination: still runs")
        said.append(f"destination: {destination.stderr().strip() or 'said nothing'}")
    return "\n".join(said)


def _figures(source: Machine, stopped: float, resumed: float) -> Figures:
    answer = source.qmp.execute("query-migrate")
    ram = answer["ram"]
    return Figures(total_ms=answer["total-time"], downtime_ms=answer["downtime"],
                   bytes=ram["transferred"], pages=ram["normal"], zero_pages=ram["duplicate"],
                   rounds=ram["dirty-sync-count"], stopped=stopped, resumed=resumed)


def migrate(source: Machine, destination: Machine, transport: str = "unix", *,
            bandwidth: int | None = None, downtime_ms: int | None = None, timeout: float = 120,
            progress: Callable[[Progress], None] | None = None,
            arrived: Callable[[], None] | None = None,
            through: Callable[[Address], Address] | None = None) -> Figures:
    """Move the guest; BANDWIDTH in bytes a second.  ARRIVED is called once it runs there.

    THROUGH, given the address the destination listens at, returns the one that leads to it.
    """
    parameters: dict[str, Any] = {}
    if bandwidth is not None:
        parameters["max-bandwidth"] = bandwidth
    if downtime_ms is not None:
        parameters["downtime-limit"] = downtime_ms
    deadline = Deadline(timeout, f"{source.name} to {destination.name}")
    since, there = source.qmp.mark(), destination.qmp.mark()
    if arrived:
        _call_once(destination, arrived)
    try:
        _set_up(destination, {})
        _set_up(source, parameters)
        source.qmp.execute("migrate", {"uri": _listen(destination, transport, through)})
        status = _wait_end(source, since, deadline, progress)
        if status != "completed":
            raise MigrationFailed(f"it {status}")
        resumed = destination.qmp.wait_event("RESUME", since=there, timeout=deadline.left())
        stopped = source.qmp.wait_event("STOP", since=since, timeout=deadline.left())
        return _figures(source, stopped.when, resumed.when)
    except (MigrationFailed, QmpError, Lost, TooLate) as error:
        raise MigrationFailed(f"{source.name} to {destination.name}: {error}\n"
                              + _explain(source, destination)) from error


def _call_once(machine: Machine, function: Callable[[], None]) -> None:
    """Call FUNCTION when the machine starts to run its guest."""
    called = threading.Event()

    def listener(event: Event) -> None:
        if event.name == "RESUME" and not called.is_set():
            called.set()
            function()

    machine.qmp.listen(listener)


def save(machine: Machine, path: Path, timeout: float = 120, *, mapped_ram: bool = False,
         way: str = STOCK_FILE) -> None:
    """Write the guest's state to a file and leave it paused; MAPPED_RAM: each page in its place."""
    since = machine.qmp.mark()
    try:
        _set_up(machine, {"max-bandwidth": 0}, mapped_ram=mapped_ram)
        machine.qmp.execute("migrate", {"uri": f"{way}{path}"})
        status = _wait_end(machine, since, Deadline(timeout, f"{machine.name}: saving"), None)
    except (QmpError, Lost, TooLate) as error:
        raise MigrationFailed(f"{machine.name}: saving: {error}") from error
    if status != "completed":
        raise MigrationFailed(f"{machine.name}: saving {status}\n{_explain(machine, None)}")


def load(machine: Machine, path: Path, timeout: float = 120, *, mapped_ram: bool = False,
         way: str = STOCK_FILE) -> None:
    """Have a machine that waits read its state from a file; it then runs if it ran before."""
    since = machine.qmp.mark()
    try:
        _set_up(machine, {}, mapped_ram=mapped_ram)
        machine.qmp.execute("migrate-incoming", {"uri": f"{way}{path}"})
        status = machine.qmp.wait_event("MIGRATION", _end, since=since, timeout=timeout)
    except (Lost, TooLate) as error:
        raise MigrationFailed(f"{machine.name}: loading: {error}\n{machine.stderr()}") from error
    if status.data["status"] != "completed":
        raise MigrationFailed(f"{machine.name}: loading {status.data['status']}\n"
                              + machine.stderr())


def wait_resumed(machine: Machine, timeout: float = 120) -> None:
    """Wait until a machine that loads a file runs its guest."""
    try:
        machine.qmp.wait_event("RESUME", timeout=timeout)
    except (Lost, TooLate) as error:
        raise MigrationFailed(f"{machine.name}: loading: {error}\n{machine.stderr()}") from error
