# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests that travel between hosts of unlike architecture, byte order and page size.

Each stop checks everything: same boot, patterns of memory and disk without an error while both
are written, services that answer new connections, and the guest's clock within 0.5% of the
host's over 20 seconds.
"""

from typing import Any

import pytest


@pytest.mark.quick
@pytest.mark.route("linux-x86_64", "x86_64", "ppc64le", "x86_64")
def test_to_powerpc_and_back(trip: Any) -> None:
    trip.go()


@pytest.mark.route("linux-x86_64", "x86_64", "ppc64le:64k", "x86_64")
def test_to_64k_pages_and_back(trip: Any) -> None:
    trip.go(transport="unix")


@pytest.mark.route("linux-x86_64", "x86_64", "s390x", "x86_64")
def test_to_z_and_back(trip: Any) -> None:
    trip.go()


@pytest.mark.route("linux-x86_64", "x86_64", "aarch64")
def test_to_arm(trip: Any) -> None:
    trip.go()


@pytest.mark.route("linux-x86_64", "x86_64", "ppc64", "x86_64")
def test_to_big_endian_powerpc_and_back(trip: Any) -> None:
    trip.go(transport="unix")


@pytest.mark.route("linux-ppc64", "x86_64", "ppc64le", "x86_64")
def test_powerpc_guest_comes_home_and_goes_back(trip: Any) -> None:
    trip.go()
