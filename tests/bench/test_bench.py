# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmarks: each case with all its contestants, side by side.

A test passes when each of them moved the guest unharmed or was late; how fast is for the page to
say.  One that was late is not tried again in that case.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
from cases import Case, Plan, Size
from channel import ChannelError
from contestants import taking_part
from deadlines import TooLate
from machine import MachineError
from migration import MigrationFailed
from qmp import Lost, QmpError

TROUBLE = (MigrationFailed, measure.Damaged, MachineError, ChannelError, QmpError, Lost, TooLate)


def test_case(case: Case, plan: Plan, frozen: Callable[[bool, Size], Any],
              results: list[dict[str, Any]], run_folder: Path) -> None:
    faults, late = [], set()
    who = taking_part(case)
    for turn in range(plan.repeats(case)):
        order = who[turn % len(who):] + who[:turn % len(who)]
        for place, one in enumerate(order):
            if one in late:
                continue
            try:
                found = measure.measure(frozen(one.stock, case.size), one, case, run_folder / "m",
                                        limit=plan.limit, turn=turn, place=place)
            except TROUBLE as error:
                faults.append(f"{one.title}, repeat {turn}: {type(error).__name__}: {error}")
                continue
            results.append(measure.as_dict(found))
            if found.outcome != "arrived":
                late.add(one)
    assert not faults, "\n".join(faults)
