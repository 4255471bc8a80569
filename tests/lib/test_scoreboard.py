# SPDX-License-Identifier: GPL-2.0-or-later
"""The table at the end."""

import json
from pathlib import Path

import scoreboard
from clocks import Rate
from migration import Figures, Progress
from travel import Leg

FIGURES = Figures(total_ms=1100, downtime_ms=53, bytes=86 << 20, pages=20000, zero_pages=45000,
                  rounds=3, stopped=10.0, resumed=10.06)


def rows() -> list[dict]:
    good = Leg("x86_64", "ppc64le", FIGURES, {}, gap_ms=158.9, clock=Rate(1.00001, 0.0002, 20))
    bad = Leg("x86_64", "aarch64 (stock)", FIGURES, {}, clock=Rate(0.5, 0.001, 8))
    return [scoreboard.row("linux-x86_64", good),
            scoreboard.row("linux-x86_64", bad, "off, as expected"),
            scoreboard.refused("linux-x86_64", "ppc64le 64k", "x86_64", "refused, as expected")]


def test_text_lines_up() -> None:
    lines = scoreboard.text(rows()).splitlines()
    assert len(lines) == 5
    assert lines[2].split() == ["linux-x86_64", "x86_64", "ppc64le", "1.0000", "0.0002", "53",
                                "ms", "159", "ms", "86", "3", "same", "guest"]
    assert lines[4].split()[4:6] == ["-", "-"] and lines[4].endswith("refused, as expected")
    assert len({line.index(word) for line, word in
                zip(lines[2:], ("same", "off,", "refused"))}) == 1


def test_files(tmp_path: Path) -> None:
    scoreboard.write(rows(), tmp_path / "t.json")
    scoreboard.write(rows(), tmp_path / "t.txt")
    read = json.loads((tmp_path / "t.json").read_text())
    assert read[0]["clock_rate"] == 1.00001 and read[0]["silence_ms"] == 60.0
    assert read[2]["bytes"] is None and read[2]["faults"] == []
    assert (tmp_path / "t.txt").read_text() == scoreboard.text(rows())


def test_faults_show() -> None:
    leg = Leg("a", "b", FIGURES, {}, faults=["boot_id was 1, is 2"])
    assert scoreboard.row("g", leg)["result"] == "FAULT"


def test_progress_part() -> None:
    assert Progress(0, 100, 100, 1).part == 0.0
    assert Progress(0, 25, 100, 1).part == 0.75
    assert Progress(0, 0, 0, 0).part == 0.0
