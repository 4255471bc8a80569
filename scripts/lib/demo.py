#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration: a Linux guest goes to a host of another architecture and back, alive.

Narration and progress go to stderr, the table of results to stdout.
"""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))
sys.path.insert(0, str(TOP / "scripts" / "lib"))

import places  # noqa: E402
import show  # noqa: E402
import travel  # noqa: E402
from channel import ChannelError  # noqa: E402
from deadlines import TooLate  # noqa: E402
from machine import MachineError  # noqa: E402
from migration import MigrationFailed, Progress  # noqa: E402
from places import Place  # noqa: E402
from qmp import Lost, QmpError  # noqa: E402
from say import Failure, main  # noqa: E402
from travel import Journey, Leg  # noqa: E402

GUEST = "linux-x86_64"
HOME = Place("x86_64")
CLOCK_SECONDS = 15
TROUBLE = (ChannelError, Lost, MachineError, MigrationFailed, QmpError, TooLate)
KINDS = {"ppc64le": "PowerPC, little-endian", "ppc64": "PowerPC, big-endian",
         "aarch64": "Arm, 64 bit", "s390x": "IBM Z, big-endian", "x86_64": "this machine's own"}

Result = TypeVar("Result")


def describe(place: Place) -> str:
    pages = {"4k": "", "64k": ", 64 KiB pages"}[place.page_size]
    return f"{place.arch} ({KINDS[place.arch]}{pages})"


def prepare(away: Place) -> Any:
    """Build both hosts and the guest, or find them built."""
    show.heading("Getting ready",
                 "Both hosts need a QEMU with Quasar's changes, the guest a kernel and a small"
                 " root file system. What is not there yet is built now and kept.")
    began = time.monotonic()
    HOME.build(["x86_64"])
    away.build(["x86_64"])
    guest = places.guest(GUEST)
    show.done("hosts and guest are built", f"{time.monotonic() - began:.1f} s")
    return guest


def start(journey: Journey) -> dict[str, Any]:
    show.heading(f"Starting a Linux guest on {describe(HOME)}",
                 "Debian's own kernel with a small program that writes memory and disk in known"
                 " patterns. A client on this machine asks it for a counter 50 times a second.")
    began = time.monotonic()
    with show.working("the guest boots"):
        journey.boot(HOME)
    report = journey.machine.report()
    show.done(f"Linux {report['kernel']} is up", f"{time.monotonic() - began:.1f} s")
    show.done("it writes memory and disk", f"{report['memory']['rate_kb']} and"
              f" {report['disk']['rate_kb']} KiB/s")
    show.note(f"boot id {report['boot_id']}")
    return report


def move(journey: Journey, place: Place, title: str, words: str) -> Leg:
    show.heading(title, words)
    bar = show.Bar("moving")

    def progress(now: Progress) -> None:
        again = f", round {now.rounds}" if now.rounds > 1 else ""
        bar.update(now.part, f"{now.sent / (1 << 20):.0f} MiB sent{again}")

    leg = journey.move(place, "quasar", progress=progress)
    figures = leg.figures
    bar.finish(f"the guest runs on {place}",
               f"{figures.bytes / (1 << 20):.0f} MiB in {figures.total_ms / 1000:.1f} s")
    show.note(f"it stood still for {figures.silence_ms:.0f} ms while the last changes were sent")
    if place != HOME:
        show.note("its first answers are slow: that host is emulated itself, so each piece of code")
        show.note("is translated twice when it is first met; on a real one it is not")
    with show.working(f"checking the guest, and its clock for {CLOCK_SECONDS} seconds"):
        journey.check(CLOCK_SECONDS, raise_faults=False)
    for fault in leg.faults:
        show.bad(fault)
    if not leg.faults:
        show.done("the same guest: every check passed")
    return leg


def _verdict(leg: Leg, words: tuple[str, ...], good: str) -> str:
    """GOOD unless one of the leg's faults speaks of WORDS."""
    return "NO" if any(word in fault for fault in leg.faults for word in words) else good


def _clock(leg: Leg) -> str:
    """The clock's error in per cent, and how exactly it is known."""
    assert leg.clock
    return f"{100 * (leg.clock.value - 1):+.3f} % (± {100 * leg.clock.error:.3f})"


def _memory(leg: Leg) -> str:
    assert leg.after
    return f"{leg.after['memory']['pages']} pages without error"


def _disk(leg: Leg) -> str:
    assert leg.after
    return f"{leg.after['disk']['size_mb']} MiB without error"


ROWS: tuple[tuple[str, Callable[[Leg], str]], ...] = (
    ("downtime, as QEMU saw it", lambda leg: f"{leg.figures.downtime_ms} ms"),
    ("longest gap a client saw", lambda leg: f"{leg.gap_ms:.0f} ms"),
    ("clock error", _clock),
    ("sent", lambda leg: f"{leg.figures.bytes / (1 << 20):.0f} MiB in"
     f" {leg.figures.rounds} rounds"),
    ("took", lambda leg: f"{leg.figures.total_ms / 1000:.1f} s"),
    ("boot id", lambda leg: _verdict(leg, ("boot_id", "started_ns", "pid "), "the same")),
    ("memory pattern", lambda leg: _verdict(leg, ("memory",), _memory(leg))),
    ("disk pattern", lambda leg: _verdict(leg, ("disk",), _disk(leg))),
    ("new connections", lambda leg: _verdict(leg, ("echo", "http", "address"), "served")),
)


def result(legs: list[Leg], before: dict[str, Any], seconds: float) -> bool:
    """Print the table; tell whether the guest is the same."""
    after = legs[-1].after
    assert after
    same = not any(leg.faults for leg in legs) and before["boot_id"] == after["boot_id"]
    show.table(["", *(f"to {leg.end}" for leg in legs)],
               [[name, *(value(leg) for leg in legs)] for name, value in ROWS])
    if same:
        show.conclusion(True, f"It is the same guest: up for {after['uptime']:.0f} seconds,"
                        f" booted once, and it went to {legs[0].end} and back.")
    else:
        show.conclusion(False, "It is NOT the same guest; what differed stands above.")
    show.note(f"the whole demonstration took {seconds:.0f} seconds")
    return same


def demonstrate() -> int:
    began = time.monotonic()
    away = Place.parse(sys.argv[1] if len(sys.argv) > 1 else "ppc64le")
    show.opening("Quasar moves a running virtual machine to a host of another architecture.")
    guest = prepare(away)
    try:
        with travel.tour(guest) as journey:
            before = start(journey)
            there = move(journey, away, f"Moving it to {describe(away)}",
                         "The guest goes on running while memory and disk are copied. It stops for"
                         " a moment, the rest follows, and it continues over there.")
            back = move(journey, HOME, "Moving it back", "The same again, in the other direction.")
            same = result([there, back], before, time.monotonic() - began)
    except TROUBLE as trouble:
        show.interrupt()
        first, _, rest = str(trouble).partition("\n")
        raise Failure(first, rest or "run it again; if it stays, scripts/check --suite vm"
                      " says more") from trouble
    return 0 if same else 1


if __name__ == "__main__":
    sys.argv[0] = "demo"        # as errors are to name it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(demonstrate)
