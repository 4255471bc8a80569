# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration: its command line, its words, and that a fault shows in its verdict."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts" / "lib"))

import demo  # noqa: E402
import show  # noqa: E402
from clocks import Rate  # noqa: E402
from migration import Figures  # noqa: E402
from travel import Leg  # noqa: E402

FIGURES = Figures(2300, 53, 86 << 20, 20000, 45000, 3, 10.0, 10.06)
REPORT: dict[str, Any] = {"boot_id": "a", "uptime": 61.5, "memory": {"pages": 4096},
                          "disk": {"size_mb": 8}}


def leg(*faults: str) -> Leg:
    return Leg("x86_64", "ppc64le", FIGURES, REPORT, REPORT, 158.9, Rate(1.0001, 0.0002, 15),
               list(faults))


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([TOP / "scripts" / "demo", *arguments], capture_output=True, text=True,
                          check=False, timeout=30)


def test_help_needs_nothing() -> None:
    done = run("--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: scripts/demo")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--to", "vax"], "there is no host 'vax'"), (["--to"], "--to needs a host"),
    (["--frob"], "unknown argument '--frob'"), (["--to=s390x:64k"], "there is no host"),
])
def test_wrong_command_line(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and "hint: scripts/demo --help" in done.stderr


def test_good_result(capsys: pytest.CaptureFixture) -> None:
    assert demo.result([leg(), leg()], REPORT, 50)
    out = capsys.readouterr().out
    assert "It is the same guest: up for 62 seconds" in out
    for words in ("53 ms", "159 ms", "+0.010 % (± 0.020)", "86 MiB in 3 rounds", "the same",
                  "4096 pages without error", "8 MiB without error", "served"):
        assert words in out
    assert "\033" not in out


@pytest.mark.parametrize("fault", ["boot_id was a, is b", "memory: 3 wrong words",
                                   "disk: checksum 1, not 2", "http: failed (3 times)"])
def test_fault_shows(fault: str, capsys: pytest.CaptureFixture) -> None:
    assert not demo.result([leg(), leg(fault)], REPORT, 50)
    out = capsys.readouterr().out
    assert "NOT the same guest" in out
    assert any(line.endswith(" NO") for line in out.splitlines())


def test_bar_without_a_terminal_is_a_few_lines(capsys: pytest.CaptureFixture) -> None:
    bar = show.Bar("moving")
    for part in (0.1, 0.3, 0.2, 0.6, 0.61, 1.0):
        bar.update(part, "x")
    bar.finish("there", "2 s")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0].strip() for line in lines[:-1]] == \
        ["moving", "moving: 25 %", "moving: 50 %", "moving: 100 %"]
    assert "there" in lines[-1]
