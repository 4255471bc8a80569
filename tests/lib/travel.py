# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that travels from host to host, checked wherever it arrives.

Theory of operation.  Booting costs ten seconds and more, so a guest is booted once at home, given
its loads (the memory dirtier and the disk writer), and *frozen*: its state is saved to a file
beside its disk.  Each journey thaws a copy, which takes a fraction of a second, and goes its way.
All the way a client outside keeps asking the guest's counter.  move() takes the guest to
another host while everything runs; check() then holds the guest against what it said before it
left: same guest, patterns without error, services that accept new connections, and a clock
whose rate is measured while the other checks go on.  What is found wrong is collected, so that
one failure tells all of it.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import clocks
import network
import sameness
from channel import Answer
from clocks import Rate, Stopwatch
from deadlines import Deadline
from gaps import GapClient, falls_back
from machine import COUNTER, GuestLike, HostLike, Machine, Setup
from migration import (Address, Figures, MigrationFailed, Progress, migrate, save,
                       wait_resumed)

DISK_MB = 64
DIRTY = "dirty 1024 16"     # KiB a second over MiB: several rounds, yet an emulated host keeps up
WRITE = "write 256 8"
FILL = "write 65536 {size}"             # as fast as it goes, nearly
FILL_SECONDS = 120
CLOCK_SECONDS = 20
CHECK_SECONDS = 120         # for the guest to look at every word
ANSWER_SECONDS = 60         # for the guest to answer, under load or just arrived
PAGE = 4096
BANDWIDTH = 64 << 20        # bytes a second; the guest runs meanwhile, as on a real network


class Wrong(AssertionError):
    """What a check found, a line each."""


@dataclass
class Leg:
    """One move and what was found after it."""

    start: str
    end: str
    figures: Figures
    before: dict[str, Any]
    after: dict[str, Any] | None = None
    gap_ms: float = 0.0
    clock: Rate | None = None
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    """A booted guest that waits in a file."""

    guest: GuestLike
    state: Path
    disk: Path
    boot_id: str

    def setup(self, folder: Path) -> Setup:
        """Copy the disk into FOLDER for one journey."""
        disk = folder / "disk.img"
        copy_sparse(self.disk, disk)
        return Setup(self.guest, disk=disk)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a disk image without filling its holes."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while block := reader.read(1 << 16):
            if block.count(0) == len(block):
                writer.seek(len(block), 1)
            else:
                writer.write(block)
        writer.truncate(source.stat().st_size)


def blank(path: Path, size: int) -> Path:
    """Make an empty disk image."""
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def blank_disk(folder: Path) -> Path:
    return blank(folder / "disk.img", DISK_MB << 20)


def _own_disk(host: HostLike, image: Path, path: Path) -> Path:
    """Make the disk that a guest starts from, a raw image of the size it has."""
    argv, environment = host.command(["qemu-img", "convert", "-q", "-O", "raw", str(image),
                                      str(path)])
    subprocess.run(argv, env=environment, check=True)
    return path


def _load(machine: Machine) -> str:
    """Wait for a guest to boot, start its loads, return its boot id."""
    boot_id = machine.wait_ready()
    machine.agent.request(DIRTY)
    machine.agent.request(WRITE)
    return boot_id


def freeze(host: HostLike, guest: GuestLike, folder: Path) -> Frozen:
    """Boot a guest, start its loads, save it."""
    folder.mkdir(parents=True)
    disk = blank_disk(folder)
    with Machine(host, Setup(guest, disk=disk), folder / "boot") as machine:
        boot_id = _load(machine)
        save(machine, folder / "state")
    return Frozen(guest, folder / "state", disk, boot_id)


def freeze_filled(host: HostLike, guest: GuestLike, folder: Path, *, memory_mb: int | None,
                  disk_mb: int, dirty_mb: int, write_mb: int) -> Frozen:
    """Boot a guest, fill part of its memory and disk with the patterns, save it at rest.

    A guest with a disk of its own starts from a copy of that one, another gets DISK_MB.
    """
    folder.mkdir(parents=True)
    disk, own = folder / "disk.img", getattr(guest, "disk", None)
    disk = _own_disk(host, own, disk) if own else blank(disk, disk_mb << 20)
    with Machine(host, Setup(guest, memory_mb=memory_mb, disk=disk), folder / "boot") as machine:
        boot_id = machine.wait_ready()
        machine.agent.request(f"dirty 0 {dirty_mb}")
        machine.agent.request(FILL.format(size=write_mb))
        deadline = Deadline(FILL_SECONDS, "the disk's first content")
        while machine.agent.request("disk").value["disk"]["writes"] * PAGE < write_mb << 20:
            deadline.left()
            time.sleep(0.1)
        machine.agent.request("stop")
        save(machine, folder / "state")
    return Frozen(guest, folder / "state", disk, boot_id)


class Journey:
    """A guest under way; use it as a context."""

    def __init__(self, setup: Setup, folder: Path):
        self.setup = setup
        self.folder = folder
        self.legs: list[Leg] = []
        self.machine: Machine | None = None
        self.client: GapClient | None = None
        self.departed: Machine | None = None
        self._count = 0

    def __enter__(self) -> "Journey":
        return self

    def __exit__(self, *_: object) -> None:
        if self.client:
            self.client.__exit__()
        for machine in (self.machine, self.departed):
            if machine:
                machine.stop()

    # Setting out

    def _machine(self, host: HostLike, incoming: str | None) -> Machine:
        self._count += 1
        return Machine(host, self.setup, self.folder / str(self._count), incoming=incoming)

    def _watch(self, machine: Machine) -> None:
        self.machine = machine
        self.client = GapClient(machine.address(COUNTER)).__enter__()

    def boot(self, host: HostLike) -> Machine:
        """Start the guest from its kernel and give it its loads."""
        machine = self._machine(host, None)
        self.machine = machine
        _load(machine)
        self._watch(machine)
        return machine

    def thaw(self, host: HostLike, frozen: Frozen) -> Machine:
        """Go on with a frozen guest."""
        machine = self._machine(host, "defer")
        self.machine = machine
        machine.qmp.execute("migrate-incoming", {"uri": f"file:{frozen.state}"})
        wait_resumed(machine)
        self._watch(machine)
        return machine

    # Under way

    def move(self, host: HostLike, transport: str = "tcp", *, bandwidth: int = BANDWIDTH,
             timeout: float = 120, progress: Callable[[Progress], None] | None = None,
             through: Callable[[Address], Address] | None = None,
             answer_timeout: float = ANSWER_SECONDS) -> Leg:
        """Take the running guest to another host; the source is ended once it has left."""
        source, client = self.machine, self.client
        assert source and client, "thaw() or boot() comes first"
        before = source.report(answer_timeout)
        kept = self.setup
        if transport.startswith("quasar") and kept.disk:
            self.setup = replace(kept, disk=self._empty_disk(kept.disk))
        destination = self._machine(host, "defer")
        self.departed, self.machine = source, destination
        address = destination.address(COUNTER)
        try:
            figures = migrate(source, destination, transport, bandwidth=bandwidth,
                              timeout=timeout, progress=progress, through=through,
                              arrived=lambda: client.follow(address))
        except MigrationFailed:
            self.departed, self.machine = None, source      # the guest never left
            self.setup = kept
            destination.stop()
            raise
        leg = Leg(str(source.host), str(host), figures, before)
        self.legs.append(leg)
        if not client.wait_answer(figures.resumed, answer_timeout):
            leg.faults.append("the client outside got no answer any more")
        leg.gap_ms = 1000 * client.gap(figures.stopped - 1)
        source.stop()
        self.departed = None
        return leg

    def _empty_disk(self, like: Path) -> Path:
        """Make the image that a session fills: nothing of the old one is shared."""
        return blank(self.folder / f"disk{self._count + 1}.img", like.stat().st_size)

    def _ask(self, command: str) -> Answer:
        assert self.machine
        return self.machine.agent.request(command)

    def look(self, timeout: float = CHECK_SECONDS) -> dict[str, Any]:
        """Note what is wrong after the last move, but for the clock; return a report."""
        machine, leg = self.machine, self.legs[-1]
        assert machine and self.client
        first = machine.report(timeout)
        leg.faults += sameness.differences(leg.before, first, progress=False)
        leg.faults += network.faults(machine)
        verified = machine.verify(timeout)
        for name in ("memory", "disk"):
            leg.faults += sameness.pattern_faults(f"{name}, every word", verified[name], full=True)
        if falls_back(tick.counter for tick in self.client.ticks):
            leg.faults.append("the counter a client saw fell back")
        return first

    def check(self, clock_seconds: float = CLOCK_SECONDS, *, clock_limit: float = clocks.LIMIT,
              raise_faults: bool = True) -> Leg:
        """Hold the guest against what it was before the last move."""
        machine, leg = self.machine, self.legs[-1]
        assert machine
        watch = Stopwatch(self._ask)
        first = self.look()
        faults = leg.faults
        machine.console.request("ping")
        leg.clock = watch.read(clock_seconds)
        if not leg.clock.surely_within(clock_limit):
            faults.append(f"the clock runs at {leg.clock} of the host's,"
                          f" not within {clock_limit:.1%}")
        leg.after = machine.report()
        faults += sameness.differences(first, leg.after)
        if faults and raise_faults:
            raise Wrong(f"{leg.start} -> {leg.end}:\n  " + "\n  ".join(faults))
        return leg

    def story(self) -> str:
        """Tell what is known when something went wrong."""
        return "\n".join(m.story() for m in (self.departed, self.machine) if m)


@contextmanager
def tour(guest: GuestLike) -> Iterator[Journey]:
    """Give a journey with a folder and an empty disk of its own, for a guest that will boot."""
    folder = Path(tempfile.mkdtemp(prefix="quasar-"))
    try:
        with Journey(Setup(guest, disk=blank_disk(folder)), folder) as journey:
            yield journey
    finally:
        shutil.rmtree(folder, ignore_errors=True)
