# SPDX-License-Identifier: GPL-2.0-or-later
"""What processes and the machine have used: processor time, memory, bytes on the loopback.

All of it is the kernel's own accounting.  Processor time has the grain of the kernel's clock
(TICK); times of interrupts are left out of the machine's, since no process is charged with them.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")         # seconds
RESET_PEAK = "5"                            # what clear_refs takes for it
FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
COUNTED = ("user", "nice", "system", "steal")


def _stat(path: Path) -> list[str]:
    """Return the fields of a stat file from the state on; a name may hold anything before."""
    return path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def cpu_seconds(pid: int, thread: int | None = None) -> float:
    """Return what a process, its ended threads included, or one of its threads has used."""
    folder = Path(f"/proc/{pid}")
    fields = _stat((folder / "task" / str(thread) if thread else folder) / "stat")
    return (int(fields[11]) + int(fields[12])) * TICK


def reset_peak(pid: int) -> None:
    """Let the peak of a process's memory begin anew, at what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def _status_kb(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, f"the kernel tells no {field} of process {pid}"
    return int(found[1])


def peak_rss(pid: int) -> int:
    """Return the most bytes of memory that a process held at once, shared pages included."""
    return _status_kb(pid, "VmHWM") << 10


def machine_busy() -> float:
    """Return the seconds of processor time that programs, and other guests of this host, took."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    ticks = dict(zip(FIELDS, map(int, line.split()[1:])))
    return sum(ticks[name] for name in COUNTED) * TICK


def loopback_bytes() -> int:
    """Return the bytes that came over the loopback device, headers included."""
    text = Path("/proc/net/dev").read_text(encoding="ascii")
    found = re.search(r"^\s*lo:\s*(\d+)", text, re.MULTILINE)
    assert found, "this machine has no loopback device"
    return int(found[1])


@dataclass(frozen=True)
class Strangers:
    """Tells how much of the machine others had while something was measured."""

    busy: float
    own: float
    when: float

    @classmethod
    def now(cls, when: float, pids: list[int]) -> "Strangers":
        """Look at the machine; PIDS are the processes that are being measured, beside this one."""
        mine = sum(os.times()[:2])
        return cls(machine_busy(), mine + sum(cpu_seconds(pid) for pid in pids), when)

    def share(self, before: "Strangers") -> float:
        """Return the part of all processors' time since BEFORE that others took, 0 to 1."""
        whole = (self.when - before.when) * (os.cpu_count() or 1)
        others = (self.busy - before.busy) - (self.own - before.own)
        return min(1.0, max(0.0, others / whole)) if whole > 0 else 0.0
