# SPDX-License-Identifier: GPL-2.0-or-later
"""The same moves with the unpatched QEMU, which must fail: else our own tests prove nothing.

When a test here fails, either the base has learnt something (drop the patch) or a test is blind.
"""

from typing import Any

import pytest
import scoreboard
from migration import MigrationFailed

SURELY_OFF = 0.05
SECONDS = 8                 # tens of per cent show at once


def check_clock_is_off(trip: Any) -> None:
    trip.move(trip.route.stops[1])
    leg = trip.check(SECONDS, raise_faults=False)
    trip.note("clock off, as expected")
    assert leg.clock and leg.clock.surely_beyond(SURELY_OFF), f"stock's clock: {leg.clock}"
    assert leg.after and leg.after["boot_id"] == leg.before["boot_id"]


@pytest.mark.route("linux-x86_64", "x86_64", "aarch64", stock=True)
def test_clock_is_off_on_arm(trip: Any) -> None:
    check_clock_is_off(trip)


@pytest.mark.route("linux-x86_64", "x86_64", "s390x", stock=True)
def test_clock_is_off_on_z(trip: Any) -> None:
    check_clock_is_off(trip)


@pytest.mark.route("linux-x86_64", "x86_64", "ppc64le:64k", "x86_64", stock=True)
def test_64k_pages_do_not_come_back(trip: Any) -> None:
    trip.move(trip.route.stops[1])
    boot_id = trip.legs[-1].before["boot_id"]
    with pytest.raises(MigrationFailed, match="Size too large"):
        trip.move(trip.route.stops[2])
    trip.rows.append(scoreboard.refused(trip.route.guest, *map(str, trip.route.stops[1:]),
                                        "'Size too large', as expected"))
    assert trip.machine.report()["boot_id"] == boot_id, "the guest did not stay where it was"
