# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests that travel between hosts of unlike architecture, byte order and page size.

Each stop checks everything: same boot, patterns of memory and disk without an error while both
are written, services that answer new connections, and the guest's clock within 0.5% of the
host's over 20 seconds.
"""

from typing import Any

import pytest


def check_tour(trip: Any, transport: str = "tcp") -> None:
    """Take the whole route; go() raises with every fault of a stop, and none may be left over."""
    trip.go(transport)
    assert len(trip.legs) == len(trip.route.stops) - 1
    assert [leg.faults for leg in trip.legs] == [[]] * len(trip.legs)


@pytest.mark.quick
@pytest.mark.route("linux-x86_64", "x86_64", "ppc64le", "x86_64")
def test_to_powerpc_and_back(trip: Any) -> None:
    check_tour(trip)


@pytest.mark.route("linux-x86_64", "x86_64", "ppc64le:64k", "x86_64")
def test_to_64k_pages_and_back(trip: Any) -> None:
    check_tour(trip, "unix")


@pytest.mark.route("linux-x86_64", "x86_64", "s390x", "x86_64")
def test_to_z_and_back(trip: Any) -> None:
    check_tour(trip)


@pytest.mark.route("linux-x86_64", "x86_64", "aarch64")
def test_to_arm(trip: Any) -> None:
    check_tour(trip)


@pytest.mark.route("linux-x86_64", "x86_64", "ppc64", "x86_64")
def test_to_big_endian_powerpc_and_back(trip: Any) -> None:
    check_tour(trip, "unix")


@pytest.mark.route("linux-ppc64", "x86_64", "ppc64le", "x86_64")
def test_powerpc_guest_comes_home_and_goes_back(trip: Any) -> None:
    check_tour(trip)
