# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks are not blind: a single flipped bit in memory or on disk must show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sameness
import travel
from deadlines import Deadline
from places import Place

STEP = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1
LEAD_IN = 1 << 20           # bytes the disk writer leaves alone


def _stir(x: int) -> int:
    x = (x ^ x >> 31) * 0xD6E8FEB86659FD93 & WORD
    x = (x ^ x >> 29) * 0xC2B2AE3D27D4EB4F & WORD
    return x ^ x >> 32


def page_start(index: int, generation: int) -> bytes:
    """Return how a page of the guest's memory pattern begins (tests/guests/agent/pattern.c)."""
    head = index << 32 | generation
    word = _stir(head ^ 1 << 20)
    words = [head]
    for _ in range(63):
        word = word + STEP & WORD
        words.append(word ^ word >> 32)
    return b"".join(w.to_bytes(8, "little") for w in words)


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.quick
@pytest.mark.route("linux-x86_64", "x86_64")
def test_flipped_bit_on_the_way_shows(frozen: Callable[[str, Place], travel.Frozen],
                                      run_folder: Path) -> None:
    ready = frozen("linux-x86_64", Place("x86_64"))
    folder = run_folder / "damaged"
    folder.mkdir()
    state = bytearray(ready.state.read_bytes())
    index, where = next((i, at) for i in reversed(range(4096))
                        if (at := state.find(page_start(i, 1))) >= 0)
    state[where + 500] ^= 1
    damaged = travel.Frozen(ready.guest, folder / "state", ready.disk, ready.boot_id)
    damaged.state.write_bytes(state)
    with travel.Journey(ready.setup(folder), folder) as journey:
        memory = journey.thaw(Place("x86_64"), damaged).verify()["memory"]
    assert memory["errors"] == 1 and memory["first_wrong_page"] == index
    assert sameness.pattern_faults("memory", memory, full=True)


@pytest.mark.quick
@pytest.mark.route("linux-x86_64", "x86_64")
def test_flipped_bit_on_disk_shows(trip: Any) -> None:
    deadline = Deadline(20, "the first block on disk")
    while trip.machine.report()["disk"]["writes"] == 0:
        assert deadline.left()
    trip.machine.agent.request("stop")
    flip(trip.setup.disk, LEAD_IN + 3000)
    disk = trip.machine.verify()["disk"]
    assert disk["errors"] == 1 and disk["first_wrong_block"] == 0
    assert sameness.pattern_faults("disk", disk, full=True)
