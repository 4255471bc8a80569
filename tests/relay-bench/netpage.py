#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the page of the relay's benchmark, with its plots, from the results of a run.

usage: tests/relay-bench/netpage.py RESULTS FOLDER

FOLDER gets relay-benchmarks.rst, and in relay-benchmarks/ the results and the plots.  The same
results always make the same files.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for _folder in ("relay", "bench", "lib"):
    sys.path.insert(0, str(HERE.parent / _folder))

import page as pages  # noqa: E402
import plot  # noqa: E402
from netcontest import CONTESTANTS, Contestant  # noqa: E402
from netplan import (BETWEEN, DOWN, ECHO, LINK, NAMESPACE, NONE, OUTSIDE, UP, VM,  # noqa: E402
                     WAYS, Case)
from page import pack  # noqa: E402
from summary import Spread  # noqa: E402

Row = dict[str, Any]
PAGE, FOLDER = "relay-benchmarks.rst", "relay-benchmarks"
MAKER = "tests/relay-bench/netpage.py"
MARK = f".. Generated from {FOLDER}/results.json by {MAKER}; changes are lost."
MEASURED = "measured"
FAR = 0.01                  # seconds one way: 20 ms there and back
TIMES = 10                  # what is asked for from there on
LIMIT = 1 << 20             # bytes of a file of results
COLUMNS = (("contestant", 26), ("guest", 9), ("MTU", 5), ("delay", 16), ("way", 14))
FIGURES = ("Mb/s", "CPU/Gb", "card/Gb", "median us", "p99 us")
HEADINGS = "  ".join([*(name.ljust(width) for name, width in COLUMNS),
                      *(name.rjust(9) for name in FIGURES)])
PLOTS = (("near", NAMESPACE, NONE), ("outside", NAMESPACE, OUTSIDE), ("link", NAMESPACE, LINK),
         ("vm", VM, NONE))

INTRO = """\
The relay beside what else gives a guest a network without privileges, in one run, by
``scripts/check --suite relay-bench``: libslirp, which is ``-netdev user`` in QEMU and slirp4netns
behind a tap device; passt, on a tap as pasta and over a stream as QEMU speaks it; the relay with
either NAT.
"""

HOW = """\
Most guests here are network namespaces: the kernel's own TCP with a tap device for a card, without
an emulated processor in the way.  slirp4netns and pasta read the tap themselves.  For passt over a
stream and for the relay a small program stands for QEMU's side of the stream.  The VMs are Linux
under TCG, whose processor is the limit of what they carry; their streams come back as an echo.

A delay *outside* is between the NAT and the server, and alike for all.  A delay *between guest and
NAT* is what a relay elsewhere means; a NAT in the guest's QEMU or namespace has none, so libslirp
over such a link is the relay's with ``nat=slirp``.  Milliseconds are one way.  The delaying proxy
ends TCP, so slow start and loss on a wide network are not in these figures.

Mb/s
    of one connection, without the first quarter of its time
lost
    bytes that had not arrived when the end did: what came before was right, but not all of it came
CPU
    seconds for each gigabit: the relay's daemon and worker, passt, slirp4netns; behind the plus
    sign what carries the frames for those that are given them, or the QEMU of a VM
latency
    of one byte and its answer, on a connection that the guest made; for VMs, one to the guest

Every byte that arrives is held against what was sent.  Medians, with the least and the most
behind them where there were several.
"""


def _delay(row: Row) -> str:
    return f"{row['delay'] * 1000:g} ms {row['place']}" if row["delay"] else "none"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def line(row: Row) -> str:
    """Lay out a measurement as a line of the table that fills."""
    who = next((one.title for one in CONTESTANTS if one.name == row["contestant"]),
               row["contestant"])
    words = (who, row["guest"], str(row["mtu"]), _delay(row), WAYS[row["way"]])
    cells = [word.ljust(width) for word, (_, width) in zip(words, COLUMNS)]
    if row["outcome"] != MEASURED:
        return "  ".join([*cells, f"{row['outcome']}: {row['reason']}"])
    cells += [_figure(row[name], form).rjust(9) for name, form in (
        ("mbit", ".0f"), ("cpu", ".3f"), ("card_cpu", ".3f"), ("median_us", ".0f"),
        ("p99_us", ".0f"))]
    return "  ".join(cells) + (f"  {row['lost']} bytes lost" if row["lost"] else "")


# Medians

class Found:
    """All measurements of a run, asked for by what they are of."""

    def __init__(self, rows: list[Row]):
        self.rows = sorted(rows, key=lambda row: (row["turn"], row["contestant"]))

    def of(self, who: str, guest: str, mtu: int, place: str, delay: float, way: str) -> list[Row]:
        wanted = (who, guest, mtu, place, delay, way)
        return [row for row in self.rows if wanted == tuple(
            row[name] for name in ("contestant", "guest", "mtu", "place", "delay", "way"))]

    def keys(self, *names: str, **wanted: Any) -> list[tuple[Any, ...]]:
        """The values there are of some fields, in order, among the rows that are as wanted."""
        return sorted({tuple(row[name] for name in names) for row in self.rows
                       if all(row[name] == value for name, value in wanted.items())})


def spread(rows: list[Row], field: str) -> Spread | None:
    return Spread.of([row[field] for row in rows
                      if row["outcome"] == MEASURED and row[field] is not None])


def why_not(rows: list[Row]) -> str:
    """Return in a word why there is no figure."""
    return rows[0]["outcome"] if rows else "-"


def _speed(rows: list[Row]) -> str:
    found = spread(rows, "mbit")
    lost = any(row["lost"] for row in rows)
    return why_not(rows) if not found else pages.numbers(found, ".0f") + (", lost" if lost else "")


def _cpu(rows: list[Row]) -> str:
    own, card = spread(rows, "cpu"), spread(rows, "card_cpu")
    if not own or not card:
        return "-"
    return f"{own.median:.2f}" + (f" + {card.median:.2f}" if card.median else "")


# What was asked for

@dataclass(frozen=True)
class Goal:
    asked: str
    found: str
    met: bool | None        # None: it could not be told


def _judge(found: Found, asked: str, ours: str, theirs: str, key: tuple, least: float) -> Goal:
    mine, other = found.of(ours, *key), found.of(theirs, *key)
    one, two = spread(mine, "mbit"), spread(other, "mbit")
    if not one or not two:
        who = ours if not one else theirs
        return Goal(asked, f"{who}: {why_not(mine if not one else other)}", None)
    return Goal(asked, f"{one.median / two.median:.2f} times ({one.median:.0f} and "
                f"{two.median:.0f} Mb/s)", one.median >= least * two.median)


def goals(found: Found) -> list[Goal]:
    """Say which of what was asked for these measurements show."""
    made = []
    for place, delay, mtu, way in found.keys("place", "delay", "mtu", "way", guest=NAMESPACE):
        key, where = (NAMESPACE, mtu, place, delay, way), f"MTU {mtu}, {WAYS[way]}"
        case = Case(NAMESPACE, mtu, place, delay, (way,))
        if way == BETWEEN:
            continue
        if place == LINK and delay >= FAR:
            made.append(_judge(found, f"{case.title()}, {WAYS[way]}: {TIMES} times libslirp",
                               "relay-scaled", "relay-slirp", key, TIMES))
        elif place == NONE:
            made.append(_judge(found, f"no delay, {where}: at least libslirp alone",
                               "relay-scaled", "slirp4netns", key, 1))
        elif place == OUTSIDE:
            made.append(_judge(found, f"{case.title()}, {WAYS[way]}: at least libslirp alone",
                               "relay-scaled", "slirp4netns", key, 1))
    for mtu, place, delay, way in found.keys("mtu", "place", "delay", "way", guest=VM):
        made.append(_judge(found, "a VM: at least -netdev user", "vm-relay-scaled", "user",
                           (VM, mtu, place, delay, way), 1))
    return made


def _met(goal: Goal) -> str:
    return {True: "yes", False: "**no**", None: "not measured"}[goal.met]


def goals_text(rows: list[Row]) -> str:
    return "\n".join(f"{_met(goal).strip('*'):14}{goal.asked}: {goal.found}"
                     for goal in goals(Found(rows)))


# The page

def _contestants(guest: str, pair: bool) -> list[Contestant]:
    return [one for one in CONTESTANTS if one.guest == guest and one.pair is pair]


def _rows_of(found: Found, guest: str, place: str, delay: float, ways: tuple[str, ...]) -> \
        list[tuple[str, ...]]:
    rows = []
    for mtu in sorted({mtu for mtu, in found.keys("mtu", guest=guest)}):
        for who in _contestants(guest, ways == (BETWEEN,)):
            its = [found.of(who.name, guest, mtu, place, delay, way) for way in ways]
            if not any(its):
                continue
            asked = next((one for one in its if spread(one, "median_us")), [])
            rows.append((who.title, str(mtu), *map(_speed, its), *map(_cpu, its),
                         pages.numbers(spread(asked, "median_us"), ".0f"),
                         pages.numbers(spread(asked, "p99_us"), ".0f")))
    return rows


def _section(found: Found, title: str, *where: Any) -> list[str]:
    ways = where[-1]
    rows = _rows_of(found, *where)
    if not rows:
        return []
    names = [WAYS[way] for way in ways]
    headings = ("contestant", "MTU", *(f"{name}, Mb/s" for name in names),
                *(f"{name}, CPU" for name in names), "latency, us", "99th percentile")
    return [*pages.heading(title, "="), *pages.table(headings, rows)]


def _plot(found: Found, name: str, guest: str, place: str, way: str) -> dict[str, str]:
    groups = []
    for delay, mtu in found.keys("delay", "mtu", guest=guest, place=place, way=way):
        bars = []
        for kind, who in enumerate(_contestants(guest, way == BETWEEN)):
            rows = found.of(who.name, guest, mtu, place, delay, way)
            its = spread(rows, "mbit") or Spread(0, 0, 0)
            if rows:
                note = "" if its.most else why_not(rows)
                bars.append(plot.Bar(who.title, kind, its.median, its.least, its.most, note))
        groups.append(plot.Group(Case(guest, mtu, place, delay, (way,)).title(), tuple(bars)))
    if not groups:
        return {}
    return {f"{FOLDER}/{name}-{way}.svg": plot.bars(
        f"{WAYS[way].capitalize()}, {'a VM' if guest == VM else 'a namespace'}", groups, "Mb/s",
        maker=MAKER)}


def _plots(found: Found) -> dict[str, str]:
    files = {}
    for name, guest, place in PLOTS:
        for way, in found.keys("way", guest=guest, place=place):
            files |= _plot(found, name, guest, place, way)
    return files


def _sections(found: Found) -> list[str]:
    both = (UP, DOWN)
    lines = _section(found, "No delay", NAMESPACE, NONE, 0.0, both)
    for place, where in ((OUTSIDE, "outside"), (LINK, "between guest and NAT")):
        for delay, in found.keys("delay", guest=NAMESPACE, place=place):
            lines += _section(found, f"{delay * 1000:g} ms {where}", NAMESPACE, place, delay, both)
    lines += _section(found, "Guest to guest", NAMESPACE, NONE, 0.0, (BETWEEN,))
    return lines + _section(found, "VMs", VM, NONE, 0.0, (ECHO,))


def _missing(found: Found) -> list[str]:
    """Tell what is not in the tables, and why."""
    reasons = {reason for reason, in found.keys("reason", outcome="absent")}
    lines = [f"Not measured: {'; '.join(sorted(reasons))}.", ""] if reasons else []
    late = sum(row["outcome"] == "skipped" for row in found.rows)
    if late:
        lines += [f"The run's time was over before {late} of {len(found.rows)} measurements were "
                  "made; they are *skipped*.", ""]
    failed = found.keys("contestant", "guest", "mtu", "place", "delay", "way", "reason",
                        outcome="failed")
    for who, *where, reason in failed:
        title = next(one.title for one in CONTESTANTS if one.name == who)
        case = Case(*where[:4], (where[4],))
        lines += [f"- {title}, {case.title()}, {WAYS[where[4]]} failed: "
                  f"``{reason.replace('`', chr(39))}``"]
    return [*lines, ""] if failed else lines


def render(results: dict[str, Any]) -> dict[str, str]:
    """Return the files that the page consists of, by their names below its folder."""
    meta, found = results["meta"], Found(results["results"])
    files = _plots(found)
    judged = [(goal.asked, goal.found, _met(goal)) for goal in goals(found)]
    lines = [".. SPDX-License-Identifier: GPL-2.0-or-later", MARK, "", "================",
             "Relay benchmarks", "================", "", INTRO, *pages.machine(meta),
             *pages.warning(meta, found.rows), *_missing(found)]
    if judged:
        lines += [*pages.heading("What was asked for", "="),
                  *pages.table(("asked", "found", "met"), judged)]
    lines += _sections(found)
    if files:
        lines += pages.heading("Plots", "=")
    for name in files:
        lines += [f".. image:: {name}", f"   :alt: throughput, {Path(name).stem}", ""]
    lines += [*pages.heading("How it was measured", "="), HOW.rstrip()]
    return {PAGE: "\n".join(lines) + "\n", f"{FOLDER}/results.json": pack(results), **files}


def write(results: dict[str, Any], folder: Path) -> None:
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, text in render(results).items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    source = Path(sys.argv[1])
    if source.stat().st_size > LIMIT:
        print(f"netpage.py: error: {source} holds more than {LIMIT} bytes", file=sys.stderr)
        return 1
    write(json.loads(source.read_text(encoding="utf-8")), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
