# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of the Debian guest's moves, one for each question.

Rows are plain dicts, in the order in which they were made; a column that a row does not have is
shown as a dash.
"""

import os
import platform
from pathlib import Path
from typing import Any

import scoreboard
from crossing import Passage

Row = dict[str, Any]
MIB = 1 << 20
LOADS = "under load, between unlike hosts"
LINKS = "idle, over links that are cut"
LEFT = {"from", "to", "link", "slowed", "result"}
COLUMNS = {
    LOADS: ("from", "to", "memory MB/s", "disk MB/s", "time", "rounds", "slowed", "limit",
            "told", "downtime", "silence", "at most", "MiB", "result"),
    LINKS: ("link", "cuts", "time", "rounds", "told", "downtime", "silence", "MiB", "MiB written",
            "MiB again", "result"),
}


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _mib(value: int) -> str:
    return f"{value / MIB:.1f}"


def _verdict(faults: list[str]) -> str:
    return "FAULT" if faults else "right"


def _move(passage: Passage) -> Row:
    figures = passage.leg.figures
    return {"time": f"{figures.total_ms / 1000:.1f} s", "rounds": str(figures.rounds),
            "told": _ms(passage.told_ms), "downtime": _ms(figures.downtime_ms),
            "silence": _ms(figures.silence_ms)}


def under_load(passage: Passage, dirty: int, write: int, most: float | None) -> Row:
    """Make the row of a move; MOST is what the silence was held to, if it was."""
    slowed = [f"cpu by {passage.throttle} %"] if passage.throttle else []
    slowed += [f"disk to {_mib(passage.brake)} MiB/s"] if passage.brake else []
    return {"table": LOADS, "from": passage.leg.start, "to": passage.leg.end,
            "memory MB/s": str(dirty), "disk MB/s": str(write), **_move(passage),
            "slowed": ", ".join(slowed) or "-", "limit": _ms(passage.limit_ms),
            "at most": _ms(most), "MiB": _mib(passage.written),
            "result": _verdict(passage.leg.faults)}


def over_link(passage: Passage, link: str, cuts: int, passed: int) -> Row:
    """Make the row of a move; PASSED are the bytes that the link delivered."""
    return {"table": LINKS, "link": link, "cuts": str(cuts), **_move(passage),
            "MiB": _mib(passed), "MiB written": _mib(passage.written),
            "MiB again": _mib(passage.again), "result": _verdict(passage.leg.faults)}


def text(rows: list[Row], seconds: float) -> str:
    """Lay all tables out, with what has to be known to judge them."""
    parts = []
    for title, columns in COLUMNS.items():
        cells = [[row.get(name, "-") for name in columns] for row in rows if row["table"] == title]
        if cells:
            left = {number for number, name in enumerate(columns) if name in LEFT}
            parts.append(f"The Debian guest {title}\n\n"
                         + scoreboard.lay_out(columns, cells, left))
    parts.append(f"{len(rows)} moves in {seconds / 60:.1f} minutes, with boot and checks;"
                 f" {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end,"
                 f" Linux {platform.release()}\n")
    return "\n".join(parts)


def write(rows: list[Row], seconds: float, path: Path) -> None:
    path.write_text(text(rows, seconds), encoding="utf-8")
