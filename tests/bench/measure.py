# SPDX-License-Identifier: GPL-2.0-or-later
"""One move of one guest, and what it cost.

Theory of operation.  For each of the two QEMUs a guest is booted once, given its patterns in memory
and on the disk, and frozen (travel.py).  A measurement thaws a copy, sets the loads, lets them run
for a while, and then moves it.  What is measured, from the contestant's first command on:

- the time until the guest runs at the destination and the source has said that it is done;
- the bytes that passed the proxy, both ways; without one, those that passed the loopback device;
- the longest time without an answer to a client outside (gaps.py), beside the time between the
  events that tell of the stop here and the start there;
- the processor time of both QEMUs, without their vCPUs, whose work is the guest's own;
- the guest's own work - pages and blocks rewritten a second, while it was not stopped - against the
  same just before;
- the most memory that each QEMU held meanwhile;
- what of the processors' time others had: a machine that does other work measures nothing.

After that the guest checks every word of its memory and disk; one that arrived damaged is no
result.
"""

import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import places
from cases import LINKS, Case, Size
from contestants import Contestant, Pair
from deadlines import Deadline, TooLate
from gaps import GapClient
from machine import COUNTER, Machine, Setup
from migration import ENDS, wait_resumed
from places import Place
from processes import Strangers, cpu_seconds, loopback_bytes, peak_rss, reset_peak
from qmp import Event
from shaper import Shaper
from travel import PAGE, Frozen, blank, copy_sparse, freeze_filled

HOME = "x86_64"
KIB_PER_MB = 1000000 / 1024
SETTLE = 1.0                # seconds for loads to get going
BEFORE = 2.0                # seconds over which the guest's work is measured before the move
LEAD = 1.0                  # seconds before the stop in which a gap may begin
CANCEL = 15                 # seconds to end a move that is late
VERIFY = 600                # seconds for the guest to look at every word


class Damaged(AssertionError):
    """The guest found its memory or disk wrong after the move."""


@dataclass
class Result:
    """One measurement; None is what could not be measured."""

    contestant: str
    link: str
    dirty: int
    write: int
    turn: int               # which repeat
    place: int              # its place in that repeat's order
    outcome: str            # "arrived", or why not
    load: float             # load average before
    strangers: float        # part of the processors' time that others had, 0 to 1
    total: float            # seconds
    bytes: int
    cpu_source: float       # seconds, without the vCPU
    cpu_destination: float
    rss_source: int         # bytes, the most
    rss_destination: int
    gap: float | None = None            # seconds
    stopped: float | None = None        # seconds
    work_before: float | None = None    # bytes a second
    work_during: float | None = None


@dataclass(frozen=True)
class Sample:
    """How much the guest has done so far, and when it said so."""

    done: int
    when: float


def _work(machine: Machine) -> Sample:
    memory = machine.agent.request("memory")
    disk = machine.agent.request("disk")
    done = memory.value["memory"]["writes"] + disk.value["disk"]["writes"]
    return Sample(done * PAGE, (memory.sent_ns + disk.received_ns) / 2e9)


def _rate(before: Sample, after: Sample, stopped: float = 0.0) -> float:
    return (after.done - before.done) / (after.when - before.when - stopped)


def freeze(stock: bool, size: Size, folder: Path) -> Frozen:
    """Boot a guest, fill part of its memory and disk, save it."""
    return freeze_filled(Place(HOME, stock=stock), places.guest(size.guest, size.disk_mb >> 10),
                         folder, memory_mb=size.memory_mb, disk_mb=size.disk_mb,
                         dirty_mb=size.dirty_mb, write_mb=size.write_mb)


class Bench:
    """A guest at the source, a destination that waits, and a link between them."""

    def __init__(self, stack: ExitStack, frozen: Frozen, who: Contestant, case: Case,
                 folder: Path):
        folder.mkdir()
        size = case.size
        disk = folder / "source.img"
        copy_sparse(frozen.disk, disk)
        here = Setup(frozen.guest, memory_mb=size.memory_mb, disk=disk)
        if who.disks:
            disk = blank(folder / "destination.img", size.disk_mb << 20)
        there = replace(here, disk=disk, extra=("-S",) if who.paused else ())
        place = Place(HOME, stock=who.stock)
        self.case = case
        self.source = Machine(place, here, folder / "s", incoming="defer")
        stack.callback(self.source.stop)
        self.source.qmp.execute("migrate-incoming", {"uri": f"file:{frozen.state}"})
        wait_resumed(self.source)
        self.destination = Machine(place, there, folder / "d", incoming="defer")
        stack.callback(self.destination.stop)
        self.ends = (self.source, self.destination)
        self.pids = [end.process.pid for end in self.ends]
        self._vcpus = [end.qmp.execute("query-cpus-fast")[0]["thread-id"] for end in self.ends]
        self._stack = stack
        self._link: Shaper | None = None
        self.client = stack.enter_context(GapClient(self.source.address(COUNTER)))
        self.there = self.destination.address(COUNTER)
        self.destination.qmp.listen(self._resumed)

    def _resumed(self, event: Event) -> None:
        if event.name == "RESUME":
            self.client.follow(self.there)

    def reach(self, target: tuple[str, int]) -> tuple[str, int]:
        """Lead the link to an address of the destination; loopback is dialled directly."""
        link = LINKS[self.case.link]
        if link.rate is None:
            return target
        if self._link:
            found = self._link.lead(target)
        else:
            self._link = self._stack.enter_context(Shaper(
                target, rate=link.rate, delay=link.round_trip / 2, queue=link.queue))
            self.pids.append(self._link.pid)
            found = self._link.address
        assert isinstance(found, tuple)
        return found

    def passed(self) -> int:
        """Return the bytes that went over the link so far, or over all of the loopback."""
        if LINKS[self.case.link].rate is None:
            return loopback_bytes()
        if not self._link:
            return 0
        figures = self._link.figures()
        return figures.up + figures.down

    def cpu(self) -> list[float]:
        """Return the processor time of both ends so far, without the vCPUs'."""
        return [cpu_seconds(end.process.pid) - cpu_seconds(end.process.pid, vcpu)
                for end, vcpu in zip(self.ends, self._vcpus)]

    def set_loads(self) -> None:
        ask, size = self.source.agent.request, self.case.size
        ask(f"dirty {int(self.case.dirty * KIB_PER_MB)} {size.dirty_mb}")
        ask(f"write {int(self.case.write * KIB_PER_MB)} {size.write_mb}")

    @property
    def works(self) -> bool:
        return self.case.dirty > 0 or self.case.write > 0

    def stopped(self, since: int) -> float:
        """Return the seconds between the stop here and the start there."""
        stop = self.source.qmp.events("STOP", since)[-1]
        resume = self.destination.qmp.events("RESUME")[-1]
        return resume.when - stop.when

    def check(self) -> None:
        found = self.destination.verify(VERIFY)
        for name in ("memory", "disk"):
            part = found[name]
            if part["errors"] or part["checksum"] != part["expected"] \
                    or part.get("io_errors"):
                raise Damaged(f"{name} arrived damaged: {part}")


def measure(frozen: Frozen, who: Contestant, case: Case, folder: Path, *, limit: float, turn: int,
            place: int) -> Result:
    """Move one guest as WHO does.  One that does not converge within LIMIT is a result as well."""
    try:
        with ExitStack() as stack:
            return _measure(Bench(stack, frozen, who, case, folder), who, limit, turn, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(bench: Bench, who: Contestant, limit: float, turn: int, place: int) -> Result:
    case = bench.case
    bench.set_loads()
    time.sleep(SETTLE)                      # time itself is what is waited for, here and below
    load = os.getloadavg()[0]
    first = _work(bench.source)
    time.sleep(BEFORE)
    before = _work(bench.source)
    mark = bench.source.qmp.mark()
    for end in bench.ends:
        reset_peak(end.process.pid)
    pair = Pair(bench.source, bench.destination, bench.reach, Deadline(limit, who.title))
    cpu, bytes_before = bench.cpu(), bench.passed()
    began = time.monotonic()
    strangers = Strangers.now(began, bench.pids)
    try:
        who.run(pair)
        outcome = "arrived"
    except TooLate:
        outcome = "late"
    ended = time.monotonic()
    others = Strangers.now(ended, bench.pids).share(strangers)
    used = [b - a for a, b in zip(cpu, bench.cpu())]
    result = Result(who.name, case.link, case.dirty, case.write, turn, place, outcome, load,
                    others, ended - began, bench.passed() - bytes_before, *used,
                    *(peak_rss(end.process.pid) for end in bench.ends))
    if bench.works:
        result.work_before = _rate(first, before)
    if outcome == "arrived":
        _after(bench, result, before, mark)
    else:
        _give_up(bench.source)
    return result


def _give_up(source: Machine) -> None:
    """Cancel, and wait until the peer knows; else the source's end would wait for that."""
    source.qmp.execute("migrate_cancel")
    if source.qmp.execute("query-migrate").get("status") == "cancelling":
        source.qmp.poll_event("MIGRATION", lambda data: data["status"] in ENDS, timeout=CANCEL)


def _after(bench: Bench, result: Result, before: Sample, mark: int) -> None:
    """Fill in what can be known only once the guest is there."""
    result.stopped = bench.stopped(mark)
    after = _work(bench.destination)
    if bench.works:
        result.work_during = _rate(before, after, result.stopped)
    resumed = bench.destination.qmp.events("RESUME")[-1].when
    if not bench.client.wait_answer(resumed):
        raise Damaged("the client outside got no answer any more")
    result.gap = bench.client.gap(resumed - result.stopped - LEAD)
    bench.check()


def as_dict(result: Result) -> dict[str, Any]:
    """Return a result as JSON takes it, without digits that mean nothing."""
    return {key: round(value, 4) if isinstance(value, float) else value
            for key, value in asdict(result).items()}
