# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the benchmarks says what the measurements say, and always the same."""

import json
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import page
import pytest
import summary
from cases import FULL, LINKS, QUICK, Plan
from contestants import taking_part

SAMPLE = Path(__file__).with_name("sample.json")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def sample() -> dict[str, Any]:
    """Made-up measurements: loopback, 100 Mb/s, a late mirror."""
    return json.loads(SAMPLE.read_text(encoding="utf-8"))


def rows(text: str, contestant: str) -> list[list[str]]:
    """Return a contestant's rows of the tables, in cells."""
    return [re.split(r"\s{2,}", line) for line in text.splitlines()
            if re.match(rf"{contestant}\s{{2,}}\d", line)]


def quasar(sample: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in sample["results"]
            if row["contestant"] == "quasar" and row["link"] == "loopback"]


def test_same_results_make_the_same_files(sample: dict[str, Any]) -> None:
    first = page.render(sample)
    assert first == page.render(json.loads(first["benchmarks/results.json"]))
    shuffled = {**sample, "results": random.Random(1).sample(sample["results"],
                                                             len(sample["results"]))}
    again = page.render(shuffled)
    for name in first:
        if not name.endswith(".json"):
            assert again[name] == first[name], f"{name} depends on the order of the results"


def test_it_says_that_it_is_generated(sample: dict[str, Any]) -> None:
    assert page.MARK in page.render(sample)["benchmarks.rst"].splitlines()[:3]


def test_median_and_spread(sample: dict[str, Any]) -> None:
    for row, total in zip(quasar(sample), (1.0, 4.0, 2.0)):
        row["total"] = total
    found = rows(page.render(sample)["benchmarks.rst"], "quasar, memory")[0]
    assert found[1:3] == ["3", "2.00 (1.00 to 4.00)"]


def test_slower_than_stock_stands_there(sample: dict[str, Any]) -> None:
    stock = [row for row in sample["results"]
             if row["contestant"] == "precopy" and row["link"] == "loopback"]
    for mine, theirs in zip(quasar(sample), stock):
        mine["total"], theirs["total"] = 3.0, 2.0
    text = page.render(sample)["benchmarks.rst"]
    assert rows(text, "quasar, memory")[0][3] == "1.50"
    assert re.search(r"no slower than stock precopy\s+1.50 of its time\s+\*\*no\*\*", text)


def test_late_has_no_time_but_a_cost(sample: dict[str, Any]) -> None:
    late = [row for row in sample["results"] if row["outcome"] == "late"]
    assert [row["contestant"] for row in late] == ["mirror"]
    files = page.render(sample)
    found = rows(files["benchmarks.rst"], "stock NBD mirror, precopy")[-1]
    assert found[2:4] == ["late", "-"]
    assert float(found[4]) == pytest.approx(late[0]["bytes"] / summary.MIB, abs=0.1)
    assert ">late</text>" in files["benchmarks/time-100m.svg"]


def test_sometimes_late_is_told_and_no_goal_met(sample: dict[str, Any]) -> None:
    """The time of those that arrived must not pass for the time of all."""
    row = quasar(sample)[1]
    row |= {"outcome": "late", "total": 45.0, "bytes": 900 << 20, "gap": None, "stopped": None}
    text = page.render(sample)["benchmarks.rst"]
    found = rows(text, "quasar, memory")[0]
    assert found[2].endswith(", 1 late") and "45" not in found[2] and found[3] == "-"
    assert "900" not in found[4]
    assert re.search(r"no slower than stock precopy\s+1 of 3 late\s+\*\*no\*\*", text)


def test_goal_of_a_whole_machine(sample: dict[str, Any]) -> None:
    blocks = summary.blocks(sample["results"])
    idle, busy = [goal for goal in summary.goals(blocks) if "NBD mirror" in goal.asked
                  and "level" not in goal.asked]
    assert (idle.met, busy.met) == (False, True)
    assert busy.found == "stock NBD mirror, precopy: late"


def test_memory_above_stock(sample: dict[str, Any]) -> None:
    for row in quasar(sample):
        row["rss_destination"] += 300 * summary.MIB
    text = page.render(sample)["benchmarks.rst"]
    assert re.search(r"256 MiB above stock's\s+3\d\d MiB at most\s+\*\*no\*\*", text)


@pytest.mark.parametrize(("share", "load", "warned"), [(0.01, 0.1, False), (0.4, 0.1, True),
                                                       (0.01, 1.9, True)])
def test_a_busy_machine_is_told(sample: dict[str, Any], share: float, load: float,
                                warned: bool) -> None:
    for row in sample["results"]:
        row["strangers"] = 0.01
    sample["results"][3]["strangers"] = share
    sample["meta"]["load"] = load
    assert (".. warning::" in page.render(sample)["benchmarks.rst"]) is warned


def test_plots_are_svg_with_a_bar_each(sample: dict[str, Any]) -> None:
    files = page.render(sample)
    for block in summary.blocks(sample["results"]):
        wanted = sum(len(one.entries) for one in summary.blocks(sample["results"])
                     if one.case.link == block.case.link)
        for kind in page.PLOTS:
            name = f"benchmarks/{kind}-{block.case.link}.svg"
            assert f".. image:: {name}" in files["benchmarks.rst"]
            root = ElementTree.fromstring(files[name])
            assert len(root.findall(f"{SVG}rect")) == wanted + 1        # and the ground
    links = {row["link"] for row in sample["results"]}
    assert links < set(LINKS), "a link that was not measured has no plot"
    assert {name for name in files if name.endswith(".svg")} == {
        f"benchmarks/{kind}-{name}.svg" for name in links for kind in page.PLOTS}


@pytest.mark.parametrize("plan", [QUICK, FULL], ids=["quick", "full"])
def test_each_of_ours_has_a_stock_one_beside_it(plan: Plan) -> None:
    for case in plan.cases:
        names = [one.name for one in taking_part(case)]
        assert {summary.TWIN[one.disks] for one in taking_part(case)} <= set(names)
        assert any(not one.stock for one in taking_part(case)), case
    assert len(set(plan.cases)) == len(plan.cases)


def test_the_page_is_what_its_results_make(checkout: Path) -> None:
    """Nobody has changed the page or its plots by hand, or the generator without it."""
    docs = checkout / "docs"
    stored = docs / "benchmarks" / "results.json"
    if not stored.exists():
        pytest.skip("no results are stored in docs/benchmarks")
    for name, text in page.render(json.loads(stored.read_text(encoding="utf-8"))).items():
        assert (docs / name).read_text(encoding="utf-8") == text, f"{name}: run page.py again"
