# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs that share a machine lose no result, and no failure."""

import threading
from functools import partial

import checks
import pytest
from say import Failure
from tally import Tally

TIMEOUT = 10


def counted(passed: int, failed: tuple[str, ...] = ()) -> Tally:
    return Tally(passed=passed, failed=list(failed), skipped=[("one", "for a reason")])


def test_every_result_counts() -> None:
    whole = Tally()
    for found in checks.side_by_side([partial(counted, n) for n in range(20)] +
                                     [partial(counted, 0, ("wrong",))]):
        whole.add(found)
    assert (whole.passed, whole.failed, len(whole.skipped)) == (190, ["wrong"], 21)
    assert whole.report() == 1


def test_two_at_a_time() -> None:
    meeting = threading.Barrier(2, timeout=TIMEOUT)

    def job() -> Tally:
        meeting.wait()
        return counted(1)

    assert len(checks.side_by_side([job] * 6)) == 6


def test_a_failure_is_told_and_begins_nothing_more() -> None:
    begun = []

    def fail() -> Tally:
        raise Failure("it cannot be built")

    def job() -> Tally:
        begun.append(True)
        return counted(1)

    with pytest.raises(Failure, match="cannot be built"):
        checks.side_by_side([fail, fail] + [job] * 50)
    assert len(begun) < 50
