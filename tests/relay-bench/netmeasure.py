# SPDX-License-Identifier: GPL-2.0-or-later
"""One contestant in one case: streams each way and questions with answers, and what they took.

Theory of operation.  Both ends of a connection are processes of their own (endpoint.py), which are
given its descriptors; this one only looks at the clock and at what the contestant's processes have
used.  A stream counts only if every byte that arrived is the one that was sent.  What is missing at
its end is *lost*, which is a fault of ours and told of a peer: Debian 12's passt ends a connection
of the guest's before the last bytes have left.  Processor time is that of the whole stream, its
first part included, and is told for each gigabit that arrived.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cell import GATEWAY
from netcontest import LOOPBACK, Absent, Contestant, Scene, SetupError, staged
from netplan import BETWEEN, DOWN, ECHO, OUTSIDE, UP, Case, Plan
from processes import Strangers, machine_busy
from shaper import Shaper

ENDPOINT = Path(__file__).with_name("endpoint.py")
SPARE = 60.0                # seconds beyond its own that an endpoint may take
GIGABIT = 1e9 / 8
MEASURED, ABSENT, FAILED, SKIPPED = "measured", "absent", "failed", "skipped"


class Faulty(Exception):
    """What arrived is not what was sent."""


@dataclass
class Row:
    """One measurement; None is what was not measured."""

    contestant: str
    guest: str
    mtu: int
    place: str
    delay: float            # seconds, one way
    way: str
    turn: int
    outcome: str
    reason: str = ""
    load: float = 0.0
    strangers: float = 0.0  # part of the processors' time that others had, 0 to 1
    bytes: int | None = None            # that arrived, each as it was sent
    lost: int | None = None             # that did not arrive before the end did
    mbit: float | None = None
    cpu: float | None = None            # seconds for a gigabit, of the contestant
    card_cpu: float | None = None       # and of what carries its frames, or of the VM's QEMU
    rounds: int | None = None
    median_us: float | None = None
    p99_us: float | None = None


class Endpoints:
    """Processes at the ends of connections."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, sock: socket.socket, seconds: float) -> None:
        self.processes.append(subprocess.Popen(
            [sys.executable, str(ENDPOINT), role, str(sock.fileno()), str(seconds)],
            pass_fds=[sock.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))

    def finish(self, seconds: float) -> list[dict[str, Any]]:
        """Return what each found; whoever does not end is ended."""
        deadline = time.monotonic() + seconds + SPARE
        found = []
        for process in self.processes:
            try:
                said, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
            found.append(json.loads(said) if said else {"error": "an endpoint did not end"})
        for one in found:
            if "error" in one:
                raise Faulty(one["error"])
        return found

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]


class Connections:
    """Makes connections in a scene, over the delayed link outside if the case has one."""

    def __init__(self, scene: Scene, stack: ExitStack) -> None:
        self.scene = scene
        case = scene.case
        if scene.dialled:
            return
        self.listener = stack.enter_context(
            scene.cells[1].listen() if len(scene.cells) > 1
            else socket.create_server((LOOPBACK, 0)))
        self.listener.settimeout(SPARE)
        port = self.listener.getsockname()[1]
        address = scene.cells[1].address if len(scene.cells) > 1 else GATEWAY
        if case.place == OUTSIDE:
            link = stack.enter_context(Shaper((LOOPBACK, port), delay=case.delay))
            scene.proxies.append(link.pid)
            port = link.address[1]          # type: ignore[index]
        self.address = address, port

    def make(self) -> tuple[socket.socket, socket.socket]:
        """The guest's end and the other; a VM's guest has its end for itself."""
        if self.scene.dialled:
            sock = socket.create_connection(self.scene.dialled, SPARE)
            return sock, sock.dup()
        inner = self.scene.cells[0].connect(*self.address)
        outer, _ = self.listener.accept()
        return inner, outer


def _used(pids: list[int]) -> float:
    """Return the seconds that processes have run: a short turn of theirs may be between ticks."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text(encoding="ascii").split()[0]) for file in files) / 1e9


def _strangers(pids: list[int]) -> Strangers:
    """Like Strangers.now(), for which the endpoints, which have ended, would be strangers."""
    return Strangers(machine_busy(), sum(os.times()[:4]) + _used(pids), time.monotonic())


def _stream(scene: Scene, ends: tuple[socket.socket, socket.socket], seconds: float) -> dict:
    """A stream from the first end to the second, with what it took."""
    pids = scene.pids + scene.cards + scene.proxies
    before = _used(scene.pids), _used(scene.cards)
    quiet = _strangers(pids)
    endpoints = Endpoints()
    endpoints.start("receive", ends[1], seconds)
    endpoints.start("send", ends[0], seconds)
    for end in ends:
        end.close()
    got, sent = endpoints.finish(seconds)
    if got["bytes"] > sent["bytes"]:
        raise Faulty(f"{sent['bytes']} bytes were sent and {got['bytes']} arrived")
    after = _used(scene.pids), _used(scene.cards)
    gigabits = got["bytes"] / GIGABIT
    share = _strangers(pids).share(quiet)
    return {"bytes": got["bytes"], "lost": sent["bytes"] - got["bytes"], "mbit": got["mbit"],
            "strangers": share,
            "cpu": (after[0] - before[0]) / gigabits,
            "card_cpu": (after[1] - before[1]) / gigabits}


def _questions(scene: Scene, ends: tuple[socket.socket, socket.socket], seconds: float) -> dict:
    endpoints = Endpoints()
    if not scene.dialled:                   # else the guest answers
        endpoints.start("answer", ends[1], seconds)
    endpoints.start("ask", ends[0], seconds)
    for end in ends:
        end.close()
    found = endpoints.finish(seconds)[-1]
    return {name: found[name] for name in ("rounds", "median_us", "p99_us")}


def _measure_way(scene: Scene, connections: Connections, way: str, plan: Plan) -> dict[str, Any]:
    ends = connections.make()
    found = _stream(scene, ends[::-1] if way == DOWN else ends, plan.seconds)
    if scene.case.latency and way in (UP, BETWEEN, ECHO):
        found |= _questions(scene, connections.make(), plan.asking)
    return found


def measure(who: Contestant, case: Case, plan: Plan, turn: int, folder: Path) -> list[Row]:
    """Measure a contestant each way; a row says so if that cannot be."""
    def row(way: str, outcome: str, **more: Any) -> Row:
        return Row(who.name, case.guest, case.mtu, case.place, case.delay, way, turn, outcome,
                   load=round(os.getloadavg()[0], 2), **more)

    rows: list[Row] = []
    try:
        with staged(who, case, folder) as scene, ExitStack() as stack:
            connections = Connections(scene, stack)
            for way in case.ways:
                try:
                    rows.append(row(way, MEASURED, **_measure_way(scene, connections, way, plan)))
                except (Faulty, OSError, TimeoutError) as error:
                    reason = f"{type(error).__name__}: {error}; {scene.story()}".strip("; ")
                    rows.append(row(way, FAILED, reason=reason))
    except Absent as reason:
        rows = [row(way, ABSENT, reason=str(reason)) for way in case.ways]
    except SetupError as error:
        rows = [row(way, FAILED, reason=str(error)) for way in case.ways]
    return rows


def skipped(who: Contestant, case: Case, turn: int) -> list[Row]:
    return [Row(who.name, case.guest, case.mtu, case.place, case.delay, way, turn, SKIPPED,
                reason="the run's time was over") for way in case.ways]


def as_dict(row: Row) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value
            for name, value in asdict(row).items()}
