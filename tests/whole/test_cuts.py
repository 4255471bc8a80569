# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian guest over links whose connections are all cut ten times.

What makes the comparison fair.  A journey over a link without cuts and one over the same link with
them begin with the same frozen guest and copies of the same disk; the guest is at rest, so what it
changes meanwhile is little and no load decides how many rounds there are; the settings are the
same; and the two kinds take turns, so that both see the machine as it is.  An idle system still
does something of its own, and a later round may fall before or after it: that varies, so each kind
goes REPEATS times and their medians are compared; the table has all of them.  The moments of the
cuts are drawn from a fixed seed and spread over the time that the first journey took without cuts:
all ten lie within the move, whatever the link, and a move that ends before its tenth cut fails the
test.

What is compared is what the link delivered, both ways, headers and repeats of the session's own
included.  What a cut destroys on its way was delivered to nobody; it is in the column `MiB
written`, which counts all that the source handed to its connections.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import ledger
import pytest
from crossing import HOME, Origin, complain, cross, end, under_way
from migration import Address
from places import Place
from shaper import RandomCuts, Shaper

CUTS = 10
REPEATS = 2
SPREAD = (0.02, 0.09)       # between cuts, as parts of the whole time: ten end before it does
SETTLED = 1.0               # seconds for the thread that cuts to have noted its last one
MORE = 1.05                 # what ten cuts may cost, as a multiple of the bytes without them

Note = Callable[[ledger.Row], None]


@dataclass(frozen=True)
class Link:
    """A network, as the shaping proxy makes it."""

    title: str
    rate: float                 # bits a second
    round_trip: float           # seconds
    level: int                  # of compression: for links that are slower than the compressor
    queue: int = 1 << 18        # bytes: a fast link needs more, or the proxy's turns show


LINKS = (
    Link("25 Mb/s, 50 ms", 25e6, 0.05, level=1),
    Link("100 Mb/s, 20 ms", 100e6, 0.02, level=1),
    Link("1 Gb/s, 1 ms", 1e9, 0.001, level=0, queue=2 << 20),
)
QUICK_LINKS = LINKS[2:]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    links = QUICK_LINKS if metafunc.config.getoption("--quick") else LINKS
    metafunc.parametrize("link", links, ids=[f"{link.rate / 1e6:.0f}m" for link in links])


@dataclass(frozen=True)
class Sent:
    passed: int                 # bytes that the link delivered, both ways
    seconds: float


def send(origin: Origin, folder: Path, note: Note, link: Link,
         between: tuple[float, float] | None, seed: int) -> Sent:
    """Move the guest and check it; BETWEEN: seconds between two cuts, if there are any."""
    with under_way(origin, folder) as journey, ExitStack() as stack:
        shapers: list[Shaper] = []
        cutters: list[RandomCuts] = []

        def through(target: Address) -> Address:
            shaper = stack.enter_context(Shaper(target, rate=link.rate, delay=link.round_trip / 2,
                                                queue=link.queue))
            shapers.append(shaper)
            if between:
                cutters.append(stack.enter_context(RandomCuts(
                    shaper, times=CUTS, seconds=between, seed=seed, kinds=("all",))))
            assert isinstance(shaper.address, tuple)
            return shaper.address

        passage = cross(journey, origin, Place(HOME), through=through, level=link.level)
        figures = shapers[0].figures()
        passed = figures.up + figures.down
        note(ledger.over_link(passage, link.title, sum(len(one.cuts) for one in cutters), passed))
        for cutter in cutters:
            cutter.wait(SETTLED)            # it fails when not all were made
        complain(f"over {link.title}", passage.leg.faults + end(journey, origin))
        return Sent(passed, passage.leg.figures.total_ms / 1000)


def test_cuts(link: Link, origin: Origin, new_folder: Path, note: Note) -> None:
    whole: list[Sent] = []
    cut: list[Sent] = []
    for turn in range(REPEATS):
        whole.append(send(origin, new_folder / f"whole{turn}", note, link, None, turn))
        between = (SPREAD[0] * whole[0].seconds, SPREAD[1] * whole[0].seconds)
        cut.append(send(origin, new_folder / f"cut{turn}", note, link, between, turn))
    without, with_cuts = (median(one.passed for one in kind) for kind in (whole, cut))
    assert with_cuts <= MORE * without, \
        f"{CUTS} cuts cost {with_cuts / without - 1:.1%} more bytes over {link.title}"
