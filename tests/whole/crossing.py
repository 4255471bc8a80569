# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian guest on its way: one move with all it has, and what is looked at afterwards.

Theory of operation.  The guest has its own root file system on a raw disk of 4 GiB.  It is booted
once, its patterns are written, and it is frozen (travel.py); each journey thaws a copy.  It moves
by `quasar:` with its disk, into an empty image (nothing is shared), with `verify`, so that memory
and devices are compared before the destination votes, and with auto-converge, no limit of bandwidth
and QEMU's default downtime limit, as somebody would who wants it to end.

Whether the limit can be kept is for the source to say.  A Watch reads what it expects while the
rounds go on.  If for PATIENCE seconds each of its answers was beyond the limit, the Watch takes it
at its word as a person would: it notes what was told and raises the limit to that, with some room.
So a row with something in the column `told` is a downtime that was announced, and the limit that
counts is the one that was in force when the guest stopped.  If the source promises to keep the
limit and goes on for ever, the move is late, which is a failure.

At each stop the guest must be the one that left (sameness.py), with every word of memory and disk
right, and its loads must go on.  At the end the loads are stopped; the guest reads its pattern file
once more through its file system and tells the digest; it freezes the file system, which writes
everything back and empties the journal; and QEMU is ended.  Then the image is looked at from
outside (ext4.py): the check of the file system finds nothing, the pattern file has the digest that
the guest told, and all that is installed in it is what was there when the guest was frozen.

The guest's console is a shell of root's; the agent is asked on its own port.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ext4
import places
import sameness
from deadlines import Deadline, TooLate
from machine import Machine
from migration import Address, Progress
from places import Place
from travel import Frozen, Journey, Leg, Wrong, freeze_filled

HOME = "x86_64"
GUEST, DISK_GIB = "debian-x86_64", 4
DIRTY_MB, WRITE_MB = 64, 64         # how much of memory and disk the loads rewrite
KIB_PER_MB = 1000000 / 1024
LIMIT_MS = 300                      # QEMU's default
PATIENCE = 60.0                     # seconds of rounds in which the limit was never in reach
ROOM = 1.25                         # the new limit, as a multiple of what was told
SETTLE = 1.0                        # seconds for loads to get going
MOVE = 1200                         # seconds; an emulated host beside a busy one takes its time
ANSWER = 300                        # seconds until a guest on an emulated host is warm
VERIFY = 900                        # seconds for the guest to look at every word there
SHELL, PROMPT = 300, 20             # seconds for the shell to answer at all, and at once
PATTERN = "/var/lib/quasar/disk.data"
INSTALLED = "/usr"
WITNESS = "usr/local/bin/quasar-agent"      # is there if anything is


def freeze(folder: Path) -> Frozen:
    return freeze_filled(Place(HOME), places.guest(GUEST, DISK_GIB), folder, memory_mb=None,
                         disk_mb=DISK_GIB << 10, dirty_mb=DIRTY_MB, write_mb=WRITE_MB)


def installed(image: Path, folder: Path) -> dict[str, str]:
    """Return what is installed in an image."""
    found = ext4.contents(image, INSTALLED, folder)
    assert WITNESS in found, f"{image}: {INSTALLED} could not be read"
    return found


@dataclass(frozen=True)
class Origin:
    """The frozen guest, and what was installed in it when it was frozen."""

    frozen: Frozen
    installed: dict[str, str]


@contextmanager
def under_way(origin: Origin, folder: Path) -> Iterator[Journey]:
    """Give a guest that runs at home, at rest, with a disk of its own."""
    folder.mkdir()
    try:
        with Journey(origin.frozen.setup(folder), folder) as journey:
            try:
                journey.thaw(Place(HOME), origin.frozen)
                yield journey
            except Exception:
                print(journey.story(), file=sys.stderr)
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def set_loads(machine: Machine, dirty: int, write: int) -> None:
    """Have the guest rewrite that many MB of memory and disk a second."""
    machine.agent.request(f"dirty {int(dirty * KIB_PER_MB)} {DIRTY_MB}")
    machine.agent.request(f"write {int(write * KIB_PER_MB)} {WRITE_MB}")
    time.sleep(SETTLE)                      # time itself is what is waited for


# One move


class Watch:
    """Looks at the source while the guest leaves, and takes it at its word."""

    def __init__(self, source: Machine):
        self._source = source
        self._since = 0.0
        self._told: list[int] = []
        self.limit_ms = LIMIT_MS
        self.told_ms: int | None = None
        self.throttle = 0
        self.brake = 0
        self.again = 0

    def __call__(self, _progress: Progress) -> None:
        answer = self._source.qmp.execute("query-migrate")
        session = self._source.qmp.execute("query-quasar")
        self.throttle = max(self.throttle, answer.get("cpu-throttle-percentage", 0))
        self.brake = max([disk["throttled"] for disk in session["disks"]], default=0) or self.brake
        self.again = session["resent"]
        expected = answer.get("expected-downtime")
        if session["stage"] == "rounds" and expected is not None:
            self._judge(expected)

    def _judge(self, expected: int) -> None:
        now = time.monotonic()
        if not self._told:
            self._since = now
        self._told.append(expected)
        if now - self._since < PATIENCE:
            return
        told, self._told = min(self._told), []
        if told > self.limit_ms:
            self.told_ms = told
            self.limit_ms = max(2 * self.limit_ms, int(told * ROOM))
            self._source.qmp.execute("migrate-set-parameters", {"downtime-limit": self.limit_ms})


@dataclass(frozen=True)
class Passage:
    """A move, and what the source said about it."""

    leg: Leg
    limit_ms: int           # in force when the guest stopped
    told_ms: int | None     # the downtime that was announced, if it was beyond the limit
    throttle: int           # per cent of the guest's processor that auto-converge took, at most
    brake: int              # bytes a second to which writes to the disk were held; 0 for not
    written: int            # bytes that the source wrote to connections, repeats included
    again: int              # bytes of them that were repeats, as told last


def _written(source: Machine) -> int:
    events = source.qmp.events("QUASAR_STAGE")
    return [event.data["wire-sent"] for event in events if event.data["role"] == "source"][-1]


def _look(journey: Journey, origin: Origin, leg: Leg) -> None:
    """Note what is wrong with the guest where it is now."""
    machine = journey.machine
    assert machine
    first = journey.look(VERIFY)
    leg.after = machine.report(VERIFY)
    leg.faults += sameness.differences(first, leg.after)
    if first["boot_id"] != origin.frozen.boot_id:
        leg.faults.append(f"the boot id was {origin.frozen.boot_id} when it was frozen")
    session = machine.qmp.execute("query-quasar")
    memory = origin.frozen.guest.memory_mb << 20
    if session["verified"] < memory or not session["verified-sections"]:
        leg.faults.append(f"only {session['verified']} bytes and {session['verified-sections']}"
                          " sections of devices were compared")


def cross(journey: Journey, origin: Origin, place: Place, *,
          through: Callable[[Address], Address] | None = None, **settings: Any) -> Passage:
    """Move the guest and look at it there; SETTINGS are quasar-set's."""
    source = journey.machine
    assert source
    source.qmp.execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "auto-converge", "state": True}]})
    source.qmp.execute("migrate-set-parameters", {"downtime-limit": LIMIT_MS})
    source.qmp.execute("quasar-set", {"verify": True, **settings})
    watch = Watch(source)
    leg = journey.move(place, "quasar", bandwidth=0, timeout=MOVE, answer_timeout=ANSWER,
                       progress=watch, through=through)
    _look(journey, origin, leg)
    return Passage(leg, watch.limit_ms, watch.told_ms, watch.throttle, watch.brake,
                   _written(source), watch.again)


# The end


def _shell(machine: Machine, command: str, answer: str, timeout: float) -> str:
    """Have the shell on the console do something; ANSWER must not match the line typed."""
    mark = machine.console.mark()
    machine.console.send(command)
    return machine.console.wait_line(answer, since=mark, timeout=timeout).group(1)


def _wait_shell(machine: Machine) -> None:
    """Wait until there is a shell; what is typed before is lost."""
    deadline = Deadline(SHELL, f"{machine.name}: a shell on the console")
    while True:
        try:
            _shell(machine, "echo shell-$((6*7))", r"(shell-42)", min(PROMPT, deadline.left()))
            return
        except TooLate:
            deadline.left()


def end(journey: Journey, origin: Origin) -> list[str]:
    """Have the guest freeze its file system, end it, and say what is wrong with its disk."""
    machine = journey.machine
    assert machine and machine.setup.disk
    machine.agent.request("stop", VERIFY)
    _wait_shell(machine)
    digest = _shell(machine, f"sha256sum {PATTERN}", rf"([0-9a-f]{{64}})\s+{PATTERN}", VERIFY)
    status = _shell(machine, "fsfreeze -f /; echo frozen-$?", r"frozen-(\d+)", VERIFY)
    machine.stop()
    image = machine.setup.disk
    faults = ext4.faults(image)
    if status != "0":
        faults.append(f"the guest could not freeze its file system: status {status}")
    if (found := ext4.digest(image, PATTERN, journey.folder)) != digest:
        faults.append(f"the guest read {digest} in its pattern file, the image has {found}")
    return faults + ext4.changes(origin.installed, installed(image, journey.folder))


def complain(where: str, faults: list[str]) -> None:
    if faults:
        raise Wrong(f"{where}:\n  " + "\n  ".join(faults))
