# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians and spreads out of single measurements, and what they say about the goals.

A measurement that did not end within its limit has no time; what it had sent and used by then
counts, for it is the least that the move would have cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from cases import LINKS, Case
from contestants import CONTESTANTS, Contestant

Row = dict[str, Any]
MIB = 1 << 20
STRANGERS = 0.1             # of the processors' time: more, and a measurement is in doubt
RSS_BOUND = 256 * MIB
TWIN = {False: "precopy", True: "mirror"}       # the stock way that does the same, without disks
WHOLE_LINKS, WHOLE_PART = ("100m", "debian"), 0.5
LOCAL_LINK = "loopback"


@dataclass(frozen=True)
class Spread:
    """A median with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread | None":
        return cls(median(values), min(values), max(values)) if values else None


class Entry:
    """All measurements of one contestant in one case."""

    def __init__(self, who: Contestant, rows: list[Row]):
        self.who = who
        self.rows = rows
        self.arrived = [row for row in rows if row["outcome"] == "arrived"]

    @property
    def late(self) -> int:
        return len(self.rows) - len(self.arrived)

    def spread(self, value: str | Callable[[Row], float | None], *,
               cost: bool = False) -> Spread | None:
        """Sum up a field, or what VALUE makes of a row.

        COST: if none arrived, what those that were late came to.
        """
        get = (lambda row: row[value]) if isinstance(value, str) else value
        rows = self.rows if cost and not self.arrived else self.arrived
        found = [get(row) for row in rows]
        return Spread.of([one for one in found if one is not None])


@dataclass(frozen=True)
class Block:
    """A case with its contestants, in the order of CONTESTANTS."""

    case: Case
    entries: tuple[Entry, ...]

    def entry(self, name: str) -> Entry | None:
        return next((one for one in self.entries if one.who.name == name), None)

    def twin(self, entry: Entry) -> Entry | None:
        """Return the stock contestant that does the same."""
        return self.entry(TWIN[entry.who.disks])

    def against_twin(self, entry: Entry) -> float | None:
        """Return the entry's median time as a part of its twin's, if neither was ever late."""
        twin = self.twin(entry)
        if not twin or entry.late or twin.late:
            return None
        mine, theirs = entry.spread("total"), twin.spread("total")
        return mine.median / theirs.median if mine and theirs else None

    def memory_above(self, entry: Entry, end: str) -> float | None:
        """Return the bytes that one end held at most above its twin's, medians of the peaks."""
        twin = self.twin(entry)
        mine = entry.spread(f"rss_{end}")
        theirs = twin.spread(f"rss_{end}") if twin else None
        return mine.median - theirs.median if mine and theirs else None


def cpu(row: Row) -> float:
    return row["cpu_source"] + row["cpu_destination"]


def work(row: Row) -> float | None:
    """Return what the guest got done while it moved, as a part of what it did before."""
    if not row["work_before"] or row["work_during"] is None:
        return None
    return row["work_during"] / row["work_before"]


def blocks(rows: list[Row]) -> list[Block]:
    """Sort measurements into cases: by link, dirtying, writing."""
    keys = sorted({(list(LINKS).index(row["link"]), row["dirty"], row["write"]) for row in rows})
    found = []
    for link, dirty, write in keys:
        case = Case(list(LINKS)[link], dirty, write)
        entries = []
        for who in CONTESTANTS:
            its = [row for row in rows if row["contestant"] == who.name and (
                row["link"], row["dirty"], row["write"]) == (case.link, dirty, write)]
            if its:
                entries.append(Entry(who, sorted(its, key=lambda row: row["turn"])))
        found.append(Block(case, tuple(entries)))
    return found


def disturbed(rows: list[Row]) -> int:
    return sum(row["strangers"] > STRANGERS for row in rows)


@dataclass(frozen=True)
class Goal:
    asked: str
    found: str
    met: bool


def _judge(block: Block, entry: Entry, asked: str, most: float) -> Goal:
    """Hold an entry's time against its twin's; whoever arrives has beaten one that is late."""
    part, twin = block.against_twin(entry), block.twin(entry)
    if part is not None:
        return Goal(asked, f"{part:.2f} of its time", part <= most)
    if entry.late or not twin:
        return Goal(asked, f"{entry.late} of {len(entry.rows)} late", False)
    return Goal(asked, f"{twin.who.title}: late", True)


def _local(all_blocks: list[Block]) -> list[Goal]:
    return [_judge(block, entry, f"loopback, {loads(block.case)}: memory no slower than stock "
                   "precopy", 1)
            for block in all_blocks
            if block.case.link == LOCAL_LINK and (entry := block.entry("quasar"))]


def _whole(all_blocks: list[Block]) -> list[Goal]:
    return [_judge(block, entry, f"{LINKS[block.case.link].title}, {loads(block.case)}: "
                   f"{entry.who.title} at most half of NBD mirror", WHOLE_PART)
            for block in all_blocks for name in ("quasar-whole", "quasar-whole-zstd")
            if block.case.link in WHOLE_LINKS and (entry := block.entry(name))]


def _memory(all_blocks: list[Block]) -> list[Goal]:
    above = [value for block in all_blocks for entry in block.entries if not entry.who.stock
             for end in ("source", "destination")
             if (value := block.memory_above(entry, end)) is not None]
    if not above:
        return []
    return [Goal("no process holds more than 256 MiB above stock's",
                 f"{max(above) / MIB:.0f} MiB at most", max(above) <= RSS_BOUND)]


def goals(all_blocks: list[Block]) -> list[Goal]:
    """Say which of what was asked for these measurements show."""
    return [*_local(all_blocks), *_whole(all_blocks), *_memory(all_blocks)]


def loads(case: Case) -> str:
    """Name what the guest does meanwhile."""
    parts = [f"{case.dirty} MB/s of memory"] if case.dirty else []
    parts += [f"{case.write} MB/s of disk"] if case.write else []
    return " and ".join(parts) if parts else "idle"
