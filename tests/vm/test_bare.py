# SPDX-License-Identifier: GPL-2.0-or-later
"""Bare guests that move while they dirty 16 MiB as fast as they can: seconds, every architecture.

They check each word before they rewrite it, so a page that was lost or is stale on the other side
shows in the next pass.
"""

from pathlib import Path

import migration
import places
import pytest
from machine import Machine, Setup
from places import Place

PASSES = r"pass (\d+) bad (\d+)"


def check_passes(machine: Machine, after: int) -> int:
    """Wait for two reports of passes made here; return the last pass."""
    for _ in range(2):
        mark = machine.console.mark()
        found = machine.console.wait_line(PASSES, since=mark, timeout=120)
        number, bad = int(found.group(1)), int(found.group(2))
        assert bad == 0, f"{machine.name}: {bad} words were wrong by pass {number}"
        assert number > after, f"{machine.name} went back from pass {after} to {number}"
        after = number
    return after


def travel(request: pytest.FixtureRequest, run_folder: Path) -> None:
    """Take the guest of the test's route from host to host while it dirties memory."""
    guest, *stops = request.node.get_closest_marker("route").args
    setup = Setup(places.guest(guest), net=False)
    folder = run_folder / f"bare{len(list(run_folder.iterdir()))}"
    here = Machine(Place.parse(stops[0]), setup, folder / "0")
    try:
        done = check_passes(here, 0)
        for number, stop in enumerate(stops[1:], 1):
            there = Machine(Place.parse(stop), setup, folder / str(number), incoming="defer")
            try:
                migration.migrate(here, there, "tcp" if number % 2 else "unix")
            except BaseException:
                there.stop()
                raise
            here.stop()
            here = there
            done = check_passes(here, done)
    finally:
        here.stop()


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", "x86_64", "ppc64le:64k", "x86_64")
def test_x86_guest(request: pytest.FixtureRequest, run_folder: Path) -> None:
    travel(request, run_folder)


@pytest.mark.route("bare-x86_64", "x86_64", "ppc64", "s390x", "aarch64:64k", "x86_64")
def test_x86_guest_through_all_hosts(request: pytest.FixtureRequest, run_folder: Path) -> None:
    travel(request, run_folder)


@pytest.mark.quick
@pytest.mark.route("bare-aarch64", "x86_64", "x86_64")
def test_arm_guest(request: pytest.FixtureRequest, run_folder: Path) -> None:
    travel(request, run_folder)


@pytest.mark.quick
@pytest.mark.route("bare-ppc64", "x86_64", "ppc64le", "x86_64")
def test_powerpc_guest(request: pytest.FixtureRequest, run_folder: Path) -> None:
    travel(request, run_folder)


@pytest.mark.quick
@pytest.mark.route("bare-s390x", "x86_64", "x86_64")
def test_z_guest(request: pytest.FixtureRequest, run_folder: Path) -> None:
    travel(request, run_folder)
