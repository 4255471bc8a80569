# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay beside its peers: each case with all its contestants.

A test passes when the relay carried every byte; how fast is for the page to say.  What a peer did
wrong, or that it is not installed, stands in its row.  When the run's time is over, the rows that
are left say so.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netmeasure
import pytest
from netcontest import taking_part
from netplan import NAMESPACE, Case, Plan
from tapguest import usable


@pytest.fixture(scope="session")
def no_namespaces() -> str:
    return usable()


def test_case(case: Case, plan: Plan, record: Callable[[Any], None], deadline: float,
              no_namespaces: str, scene_folder: Path) -> None:
    if case.guest == NAMESPACE and no_namespaces:
        pytest.skip(no_namespaces)
    who, faults, late = taking_part(case), [], 0
    for turn in range(plan.turns):
        for one in who[turn % len(who):] + who[:turn % len(who)]:
            if time.monotonic() > deadline:
                rows = netmeasure.skipped(one, case, turn)
                late += len(rows)
            else:
                rows = netmeasure.measure(one, case, plan, turn, scene_folder)
            for row in rows:
                record(netmeasure.as_dict(row))
                if one.ours and (row.outcome == netmeasure.FAILED or row.lost):
                    faults.append(f"{one.title}, {row.way}: {row.reason or f'{row.lost} lost'}")
    assert not faults, "\n".join(faults)
    if late:
        pytest.skip(f"{late} measurements were not made: the run's time was over")
