#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the page of the benchmarks, with its plots, from the results of a run.

usage: tests/bench/page.py RESULTS FOLDER

FOLDER gets benchmarks.rst, and in benchmarks/ the results and the plots.  The same results always
make the same files.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import plot  # noqa: E402
import summary  # noqa: E402
from cases import DOWNTIME_MS, LINKS, Link  # noqa: E402
from contestants import CONTESTANTS, LANES  # noqa: E402
from summary import MIB, Block, Entry, Spread  # noqa: E402

MARK = ".. Generated from benchmarks/results.json by tests/bench/page.py; changes are lost."
HEADINGS = ("contestant", "runs", "time, s", "against stock", "sent, MiB", "gap, ms", "stop, ms",
            "CPU, s", "guest's work", "memory, MiB")
PLOTS = {"time": ("time", "total", 1, "s"), "sent": ("bytes sent", "bytes", MIB, "MiB")}
LIMIT = 1 << 20             # bytes of a file of results

INTRO = """\
One guest, moved in different ways beside each other in one run by ``scripts/check --suite bench``.
*Stock* is the unpatched QEMU from the same source.  *Memory* takes memory and devices, and both
ends see one disk image; *whole* takes the disk along into an empty image.  The *NBD mirror* does
that as libvirt does.  Level 1 is zstd's; without a level nothing is compressed.
"""

HOW = """\
Linux under TCG on one vCPU, both ends on the same machine.  Its agent rewrites part of the memory
and of the disk at a given rate, with words that do not compress.  On loopback and 1 Gb/s it has
{large.memory_mb} MiB of memory, {large.dirty_mb} MiB of them such words, and {large.write_mb} MiB
on a disk of {large.disk_mb} MiB; on the slower links these are {small.memory_mb},
{small.dirty_mb}, {small.write_mb} and {small.disk_mb} MiB.  The Debian guest has {debian.memory_mb}
MiB and a disk of {debian.disk_mb} MiB with a root file system; all but {debian.dirty_mb} and
{debian.write_mb} MiB of them are what such a system keeps there.

All contestants are asked for a downtime of {downtime} ms, have no limit of bandwidth, may slow the
guest down (auto-converge) and use {lanes} connections where they use several.  The order changes
from one repeat to the next.  After each move the guest checked every word of its memory and disk.

time
    from the first command until the guest runs at the destination and the source is done; *late*:
    not within the {limit:g} seconds it was given, and not tried again in that case
against stock
    its time as a part of stock precopy's, or for whole machines of the NBD mirror's, where neither
    was late
sent
    bytes that passed the shaping proxy, both ways; on loopback, where there is none, all bytes of
    the loopback device with their headers.  Of one that was always late, here and for its processor
    time: until then
gap
    the longest time without an answer to a client outside, which then has to connect anew
stop
    from the event of the stop at the source to that of the start at the destination
CPU
    processor time of both QEMUs without their vCPUs
guest's work
    what it rewrote a second, while it was not stopped, as a part of the same just before
memory
    the most that source and destination held, above (or below) stock's at the same end, of moves
    that arrived

Medians, with the least and the most behind them where there were several.  Milliseconds of the
links are there and back.
"""


def numbers(spread: Spread | None, form: str, unit: float = 1.0) -> str:
    if spread is None:
        return "-"
    shown = [f"{value / unit:{form}}" for value in (spread.median, spread.least, spread.most)]
    return shown[0] if shown[1] == shown[2] else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _time(entry: Entry) -> str:
    time = numbers(entry.spread("total"), ".2f")
    if not entry.late:
        return time
    return "late" if not entry.arrived else f"{time}, {entry.late} late"


def _memory(block: Block, entry: Entry) -> str:
    above = [block.memory_above(entry, end) for end in ("source", "destination")]
    return ", ".join("-" if one is None else f"{one / MIB:+.0f}" for one in above)


def _cells(block: Block, entry: Entry) -> tuple[str, ...]:
    return (entry.who.title, str(len(entry.rows)), _time(entry), _part(block.against_twin(entry)),
            numbers(entry.spread("bytes", cost=True), ".1f", MIB),
            numbers(entry.spread("gap"), ".0f", 0.001),
            numbers(entry.spread("stopped"), ".0f", 0.001),
            numbers(entry.spread(summary.cpu, cost=True), ".2f"),
            numbers(entry.spread(summary.work), ".2f"), _memory(block, entry))


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Lay out a simple table."""
    lines = [headings, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    rule = "  ".join("=" * width for width in widths)
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
            for line in lines]
    return [rule, text[0], rule, *text[1:], rule, ""]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def heading(text: str, mark: str) -> list[str]:
    return [text, mark * len(text), ""]


def machine(meta: dict[str, Any]) -> list[str]:
    return [f"Measured on {meta['date']} at commit {meta['commit']}, QEMU {meta['qemu']}: "
            f"{meta['processors']} processors", f"({meta['model']}), {meta['memory_gib']} GiB, "
            f"{meta['system']}, Linux {meta['kernel']}, load average", f"{meta['load']:.2f} at the "
            f"start.  Plan: {meta['plan']}.", ""]


def warning(meta: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Warn when the machine did other work; a quiet one is said to be so."""
    most = max(row["strangers"] for row in rows)
    found = summary.disturbed(rows)
    busy = meta["load"] > meta["processors"] / 2
    if not found and not busy:
        return [f"Other programs had at most {most:.1%} of the processors' time during a "
                "measurement.", ""]
    what = f"{found} of {len(rows)} measurements" if found else "the start"
    return [".. warning::", "", f"   The machine was busy with other work during {what}: other "
            "programs had up to", f"   {most:.0%} of the processors' time, and the load average "
            f"was {meta['load']:.2f} before the first", "   measurement.  These figures say "
            "little; measure again on a quiet machine.", ""]


def _goals(all_blocks: list[Block]) -> list[str]:
    found = summary.goals(all_blocks)
    if not found:
        return []
    return [*heading("What was asked for", "="), *table(
        ("asked", "found", "met"),
        [(goal.asked, goal.found, "yes" if goal.met else "**no**") for goal in found])]


def _plotted(blocks: list[Block], field: str, unit: float) -> list[plot.Group]:
    """Make the bars of a field; what was late is marked as such, with what it came to by then."""
    groups = []
    for block in blocks:
        bars = []
        for entry in block.entries:
            spread = entry.spread(field, cost=True)
            assert spread
            bars.append(plot.Bar(
                entry.who.title, CONTESTANTS.index(entry.who), spread.median / unit,
                spread.least / unit, spread.most / unit, "" if entry.arrived else "late"))
        groups.append(plot.Group(summary.loads(block.case), tuple(bars)))
    return groups


def _plots(link: Link, blocks: list[Block]) -> dict[str, str]:
    return {f"benchmarks/{name}-{link.name}.svg": plot.bars(
        f"{_capital(what)} over {link.title}", _plotted(blocks, field, unit), short)
        for name, (what, field, unit, short) in PLOTS.items()}


def _link(link: Link, blocks: list[Block]) -> list[str]:
    lines = heading(_capital(link.title), "=")
    for name, (what, *_) in PLOTS.items():
        lines += [f".. image:: benchmarks/{name}-{link.name}.svg",
                  f"   :alt: {what} of each contestant, {link.title}", ""]
    for block in blocks:
        lines += heading(_capital(summary.loads(block.case)), "-")
        lines += table(HEADINGS, [_cells(block, entry) for entry in block.entries])
    return lines


def render(results: dict[str, Any]) -> dict[str, str]:
    """Return the files that the page consists of, by their names below its folder."""
    meta, rows = results["meta"], results["results"]
    found = summary.blocks(rows)
    sizes = {link.size.name: link.size for link in LINKS.values()}
    lines = [".. SPDX-License-Identifier: GPL-2.0-or-later", MARK, "", "==========", "Benchmarks",
             "==========", "", INTRO, *machine(meta), *warning(meta, rows), *_goals(found)]
    files = {}
    for link in LINKS.values():
        if blocks := [block for block in found if block.case.link == link.name]:
            lines += _link(link, blocks)
            files |= _plots(link, blocks)
    lines += [*heading("How it was measured", "="), HOW.format(
        **sizes, downtime=DOWNTIME_MS, lanes=LANES, limit=meta["limit"]).rstrip()]
    files["benchmarks.rst"] = "\n".join(lines) + "\n"
    files["benchmarks/results.json"] = pack(results)
    return files


def pack(results: dict[str, Any]) -> str:
    """Write results as JSON, a measurement a line."""
    rows = ",\n".join("  " + json.dumps(row) for row in results["results"])
    meta = json.dumps(results["meta"], indent=1).replace("\n", "\n ")
    return f'{{"meta": {meta},\n "results": [\n{rows}\n]}}\n'


def write(results: dict[str, Any], folder: Path) -> None:
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    for name, text in render(results).items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    source = Path(sys.argv[1])
    if source.stat().st_size > LIMIT:
        print(f"page.py: error: {source} holds more than {LIMIT} bytes", file=sys.stderr)
        return 1
    write(json.loads(source.read_text(encoding="utf-8")), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
