# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast a guest's clock goes, measured from outside, with a bound on the error.

Theory of operation.  A reading is a request for the guest's clock, timed at the host before it is
sent and after its answer came: the guest looked at its clock at some moment in between, and
nothing more is known.  Half the round trip is therefore the most a reading can be wrong, however
slow an emulated host is.  Several readings make a *burst*, of which the quickest is kept.  Two
bursts give a rate, guest time over host time, and the sum of both half round trips over the time
between them bounds its error.  It is a bound, not an estimate: a true rate outside is impossible.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from channel import Answer

LIMIT = 0.005               # what a neutral host may be off
GOOD_NS = 10_000_000        # a round trip this short is good enough: 0.05% of 20 seconds
COUNT = 30                  # readings of a burst at least, unless they take too long
LEAST = 3
PATIENCE = 15               # seconds


@dataclass(frozen=True)
class Reading:
    guest_ns: int
    before_ns: int
    after_ns: int

    @property
    def trip_ns(self) -> int:
        return self.after_ns - self.before_ns

    @property
    def middle_ns(self) -> float:
        return (self.before_ns + self.after_ns) / 2


@dataclass(frozen=True)
class Rate:
    value: float            # guest seconds a host second; 1 is right
    error: float            # the true rate is within value +- error
    seconds: float          # host time it was measured over

    @property
    def off(self) -> float:
        """How far the clock is off, as far as it is known."""
        return abs(self.value - 1)

    def surely_within(self, limit: float) -> bool:
        return self.off + self.error <= limit

    def surely_beyond(self, limit: float) -> bool:
        return self.off - self.error > limit

    def __str__(self) -> str:
        return f"{self.value:.5f} ± {self.error:.5f}"


def best(readings: list[Reading]) -> Reading:
    """Return the reading that is known most exactly."""
    return min(readings, key=lambda r: r.trip_ns)


def rate(first: Reading, last: Reading) -> Rate:
    elapsed = last.middle_ns - first.middle_ns
    if elapsed <= 0:
        raise ValueError("the readings are not in order")
    value = (last.guest_ns - first.guest_ns) / elapsed
    # The host time between the two looks is ELAPSED give or take SLACK.
    slack = (first.trip_ns + last.trip_ns) / 2
    if slack >= elapsed:
        raise ValueError("the readings are too close to each other")
    return Rate(value, abs(value) * slack / (elapsed - slack), elapsed / 1e9)


def burst(ask: Callable[[str], Answer], field: str = "monotonic_ns") -> Reading:
    """Read the clock again and again; return the best reading.

    A guest that has just arrived on an emulated host answers slowly at first, and a busy machine
    always: so the burst goes on until one reading is good, within PATIENCE.
    """
    readings: list[Reading] = []
    began = time.monotonic()
    while len(readings) < COUNT or best(readings).trip_ns > GOOD_NS:
        if len(readings) >= LEAST and time.monotonic() > began + PATIENCE:
            break
        answer = ask("clock")
        readings.append(Reading(int(answer.value[field]), answer.sent_ns, answer.received_ns))
    return best(readings)


class Stopwatch:
    """Two bursts with whatever the caller does in between."""

    def __init__(self, ask: Callable[[str], Answer]):
        self._ask = ask
        self._first = burst(ask)

    def read(self, seconds: float = 20) -> Rate:
        """Return the rate since the start, measured over at least SECONDS of host time."""
        left = self._first.after_ns + int(seconds * 1e9) - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)      # time itself is what is waited for
        return rate(self._first, burst(self._ask))


def clock_rate(ask: Callable[[str], Answer], seconds: float = 20) -> Rate:
    """Measure the rate over SECONDS; ASK is a channel's request()."""
    return Stopwatch(ask).read(seconds)
