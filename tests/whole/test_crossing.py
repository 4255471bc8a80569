# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian guest between unlike hosts, while it rewrites memory and disk.

What the downtime is held to.  `downtime-limit` bounds what is still to be sent when the guest is
stopped, by the rate of sending.  The rest of the stop costs what it costs: the state of the
devices, its loading, the flush of the new image, and here the digests of the memory at both ends,
which an emulated host computes slowly.  That part has nothing to do with the loads.  So each route
is gone once with a guest at rest, and on each leg the guest under load may stand still for the
limit in force plus ALLOWED times what it stood still at rest; the half more is for the noise of a
machine that runs two hosts at once.  What is held to it is the silence, from the stop here to the
start there, which the table has beside the downtime that the source tells.
"""

from collections.abc import Callable
from pathlib import Path

import ledger
import pytest
from crossing import Origin, complain, cross, end, set_loads, under_way
from places import Place

ROUTES = (("x86_64", "ppc64le", "x86_64"), ("x86_64", "s390x"))
REST = (0, 0)
LOADS = tuple((dirty, write) for dirty in (10, 50, 200) for write in (5, 30))   # MB/s
QUICK_ROUTES, QUICK_LOADS = ROUTES[:1], LOADS[:1]
ALLOWED = 1.5

Silences = dict[tuple[str, ...], list[float]]
Note = Callable[[ledger.Row], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    quick = metafunc.config.getoption("--quick")
    routes, loads = (QUICK_ROUTES, QUICK_LOADS) if quick else (ROUTES, LOADS)
    metafunc.parametrize("route", routes, ids=["-".join(route) for route in routes])
    metafunc.parametrize("loads", [REST, *loads],
                         ids=[f"{dirty}+{write}" for dirty, write in (REST, *loads)])


def go(origin: Origin, folder: Path, note: Note, route: tuple[str, ...], loads: tuple[int, int],
       rest: list[float] | None) -> list[float]:
    """Go a route and check everything; return the silence of each leg, in milliseconds."""
    faults, silences = [], []
    with under_way(origin, folder) as journey:
        if loads != REST:
            assert journey.machine
            set_loads(journey.machine, *loads)
        for number, stop in enumerate(route[1:]):
            passage = cross(journey, origin, Place.parse(stop))
            leg = passage.leg
            silence = leg.figures.silence_ms
            most = passage.limit_ms + ALLOWED * rest[number] if rest else None
            if most is not None and silence > most:
                leg.faults.append(f"it stood still for {silence:.0f} ms, {most:.0f} at most were"
                                  " expected")
            note(ledger.under_load(passage, *loads, most))
            silences.append(silence)
            faults += [f"{leg.start} -> {leg.end}: {fault}" for fault in leg.faults]
        faults += end(journey, origin)
    complain(" -> ".join(route), faults)
    return silences


def test_crossing(route: tuple[str, ...], loads: tuple[int, int], origin: Origin, new_folder: Path,
                  silences: Silences, note: Note) -> None:
    if route not in silences:
        silences[route] = go(origin, new_folder / "rest", note, route, REST, None)
    if loads != REST:
        go(origin, new_folder / "load", note, route, loads, silences[route])
