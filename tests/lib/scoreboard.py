# SPDX-License-Identifier: GPL-2.0-or-later
"""The table at the end: a row for each move, what it cost and how the guest's clock went.

A row is a plain dict, so that the same rows make the text table and the JSON file.
"""

import json
from pathlib import Path
from typing import Any

from migration import Figures
from travel import Leg

HEADINGS = ("guest", "from", "to", "clock rate", "+-", "downtime", "gap", "MiB", "rounds", "result")
LEFT = {0, 1, 2, 9}         # columns of words


def row(guest: str, leg: Leg, result: str = "") -> dict[str, Any]:
    """Make a leg's row; RESULT when it is not simply good or bad."""
    figures, clock = leg.figures, leg.clock
    return {
        "guest": guest, "from": leg.start, "to": leg.end,
        "clock_rate": round(clock.value, 6) if clock else None,
        "clock_error": round(clock.error, 6) if clock else None,
        "clock_seconds": round(clock.seconds, 2) if clock else None,
        "downtime_ms": figures.downtime_ms, "silence_ms": round(figures.silence_ms, 1),
        "gap_ms": round(leg.gap_ms, 1), "bytes": figures.bytes, "pages": figures.pages,
        "zero_pages": figures.zero_pages, "rounds": figures.rounds,
        "total_ms": figures.total_ms, "faults": list(leg.faults),
        "result": result or ("FAULT" if leg.faults else "same guest" if clock else "moved"),
    }


def refused(guest: str, start: str, end: str, result: str) -> dict[str, Any]:
    """Make the row of a move that does not work, as expected."""
    none = Figures(0, 0, 0, 0, 0, 0, 0.0, 0.0)
    return {key: value if value or key == "faults" else None
            for key, value in row(guest, Leg(start, end, none, {}), result).items()}


def _cells(one: dict[str, Any]) -> list[str]:
    def number(key: str, form: str, unit: str = "") -> str:
        return "-" if one[key] is None else f"{one[key]:{form}}{unit}"

    size = None if one["bytes"] is None else one["bytes"] / (1 << 20)
    return [one["guest"], one["from"], one["to"], number("clock_rate", ".4f"),
            number("clock_error", ".4f"), number("downtime_ms", "d", " ms"),
            number("gap_ms", ".0f", " ms"), "-" if size is None else f"{size:.0f}",
            number("rounds", "d"), one["result"]]


def lay_out(headings: tuple[str, ...], rows: list[list[str]], left: set[int]) -> str:
    """Lay cells out for a reader; LEFT: the columns of words."""
    lines = [list(headings), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(line, widths))).rstrip()
                     for line in lines) + "\n"


def text(rows: list[dict[str, Any]]) -> str:
    return lay_out(HEADINGS, [_cells(one) for one in rows], LEFT)


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the table to a file: JSON when it is named so, else text."""
    content = json.dumps(rows, indent=2) + "\n" if path.suffix == ".json" else text(rows)
    path.write_text(content, encoding="utf-8")
