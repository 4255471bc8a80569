# SPDX-License-Identifier: GPL-2.0-or-later
"""Is it still the same guest?  Compares two reports of an agent, taken before and after a move.

Some facts must be equal (a guest that rebooted has another boot id), some may only grow, and
both patterns must be without an error.  differences() returns sentences, none when all is well.
"""

from typing import Any

EQUAL = ("boot_id", "arch", "kernel", "version", "byte_order", "pid", "cpus", "page_size",
         "memory_mb", "started_ns", "clocksource")
GROWING = ("uptime", "monotonic_ns", "monotonic_raw_ns", "realtime_ns")
STEP_LIMIT_NS = 250_000_000     # wall clock against uptime; the two are not read at once


def _wall_step(before: dict[str, Any], after: dict[str, Any]) -> int:
    """How far the wall clock moved on its own."""
    return ((after["realtime_ns"] - after["monotonic_ns"])
            - (before["realtime_ns"] - before["monotonic_ns"]))


def pattern_faults(name: str, pattern: dict[str, Any] | None, *, full: bool = False) -> list[str]:
    """Say what is wrong in a report's memory or disk pattern; FULL: it must be a full check."""
    if pattern is None:
        return []
    faults = []
    if pattern["errors"]:
        first = pattern.get("first_wrong_page", pattern.get("first_wrong_block"))
        faults.append(f"{name}: {pattern['errors']} wrong words, the first in block {first}")
    if pattern.get("io_errors"):
        faults.append(f"{name}: {pattern['io_errors']} failed requests"
                      f" ({pattern.get('last_error', 'no reason')})")
    if full and not pattern.get("full"):
        faults.append(f"{name}: not every word was looked at")
    if pattern.get("checksum") != pattern.get("expected"):     # a quick report may have neither
        faults.append(f"{name}: checksum {pattern.get('checksum')}, not {pattern.get('expected')}")
    return faults


def _load_changes(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None,
                  progress: bool) -> list[str]:
    if before is None or after is None:
        return [] if before is after else [f"{name}: its pattern came or went"]
    changes = [f"{name}: {key} was {before[key]}, is {after[key]}"
               for key in ("running", "rate_kb", "size_mb") if before[key] != after[key]]
    if after["writes"] < before["writes"]:
        changes.append(f"{name}: its writes fell from {before['writes']} to {after['writes']}")
    if progress and before["running"] and after["writes"] <= before["writes"]:
        changes.append(f"{name}: nothing was written any more after {before['writes']} writes")
    return changes


def differences(before: dict[str, Any], after: dict[str, Any], *,
                progress: bool = True) -> list[str]:
    """Say how AFTER shows another or a damaged guest; PROGRESS: the loads must have gone on."""
    found = [f"{key} was {before.get(key)}, is {after.get(key)}"
             for key in EQUAL if before.get(key) != after.get(key)]
    found += [f"{key} went back from {before[key]} to {after[key]}"
              for key in GROWING if after[key] <= before[key]]
    found += [f"it lost its address {address['address']}"       # while IPv6 may add some late
              for address in before["network"] if address not in after["network"]]
    if after["counter"] < before["counter"]:
        found.append(f"the counter fell from {before['counter']} to {after['counter']}")
    if abs(step := _wall_step(before, after)) > STEP_LIMIT_NS:
        found.append(f"the wall clock jumped by {step / 1e9:+.3f} s against uptime")
    for name in ("memory", "disk"):
        found += _load_changes(name, before[name], after[name], progress)
        found += pattern_faults(name, after[name])
    return found
