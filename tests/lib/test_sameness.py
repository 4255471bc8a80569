# SPDX-License-Identifier: GPL-2.0-or-later
"""Each way a guest can turn out to be another one."""

import copy
import re
from typing import Any

import pytest
from sameness import differences, pattern_faults

PATTERN = {"running": True, "rate_kb": 1024, "size_mb": 16, "writes": 100, "errors": 0,
           "checksum": "00aa", "expected": "00aa"}
REPORT = {
    "boot_id": "a", "arch": "x86_64", "kernel": "6.1", "version": "#1", "byte_order": "little",
    "pid": 1, "cpus": 1, "page_size": 4096, "memory_mb": 230, "started_ns": 2_000_000_000,
    "clocksource": "tsc", "network": [{"interface": "eth0", "address": "10.0.2.15"}],
    "uptime": 10.0, "monotonic_ns": 10_000_000_000, "monotonic_raw_ns": 10_000_000_000,
    "realtime_ns": 1_700_000_010_000_000_000, "counter": 50,
    "memory": PATTERN, "disk": {**PATTERN, "io_errors": 0},
}


def later(**changes: Any) -> dict[str, Any]:
    """Return a report of the same guest five seconds on, with CHANGES."""
    report = copy.deepcopy(REPORT)
    report["uptime"] += 5
    for name in ("monotonic_ns", "monotonic_raw_ns", "realtime_ns"):
        report[name] += 5_000_000_000
    report["counter"] += 200
    for name in ("memory", "disk"):
        report[name] |= {"writes": 200, "checksum": "00bb", "expected": "00bb"}
    for path, value in changes.items():
        *way, last = path.split("__")
        at = report
        for step in way:
            at = at[step]
        at[last] = value
    return report


def test_the_same_guest_has_no_differences() -> None:
    assert differences(REPORT, later()) == []


@pytest.mark.parametrize(("path", "value", "words"), [
    ("boot_id", "b", "boot_id was a, is b"),
    ("pid", 2, "pid was 1"),
    ("started_ns", 3, "started_ns"),
    ("clocksource", "refined-jiffies", "clocksource"),
    ("network", [], "it lost its address 10.0.2.15"),
    ("uptime", 9.0, "uptime went back from 10.0 to 9.0"),
    ("monotonic_raw_ns", 1, "monotonic_raw_ns went back"),
    ("counter", 49, "the counter fell from 50 to 49"),
    ("realtime_ns", 1_700_000_016_000_000_000, r"jumped by \+1.000 s"),
    ("memory__errors", 3, "memory: 3 wrong words"),
    ("memory__expected", "ff", "memory: checksum 00bb, not ff"),
    ("memory__writes", 100, "memory: nothing was written any more"),
    ("memory__writes", 99, "memory: its writes fell"),
    ("memory__running", False, "memory: running was True"),
    ("disk__io_errors", 1, "disk: 1 failed requests"),
    ("disk__size_mb", 8, "disk: size_mb"),
    ("disk", None, "disk: its pattern came or went"),
])
def test_each_difference_is_told(path: str, value: Any, words: str) -> None:
    found = differences(REPORT, later(**{path: value}))
    assert any(re.search(words, line) for line in found), found


def test_address_may_come_late() -> None:
    more = [*REPORT["network"], {"interface": "eth0", "address": "fe80::1"}]
    assert differences(REPORT, later(network=more)) == []


def test_progress_is_asked_for_only_on_demand() -> None:
    still = later(memory__writes=100, disk__writes=100)
    assert differences(REPORT, still, progress=False) == []
    assert len(differences(REPORT, still)) == 2


def test_guest_without_disk() -> None:
    assert differences({**REPORT, "disk": None}, later(disk=None)) == []
    assert pattern_faults("disk", None) == []


def test_first_wrong_block_is_named() -> None:
    faults = pattern_faults("memory", {**PATTERN, "errors": 2, "first_wrong_page": 7})
    assert faults == ["memory: 2 wrong words, the first in block 7"]


def test_full_check_must_have_been_one() -> None:
    assert pattern_faults("disk", {**PATTERN, "full": True}, full=True) == []
    assert pattern_faults("disk", PATTERN, full=True) == ["disk: not every word was looked at"]
    quick = {k: v for k, v in PATTERN.items() if k not in ("checksum", "expected")}
    assert pattern_faults("disk", quick) == []
