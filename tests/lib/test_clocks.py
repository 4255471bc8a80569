# SPDX-License-Identifier: GPL-2.0-or-later
"""The arithmetic of clock rates and their bounds."""

import random

import clocks
import pytest
from channel import Answer
from clocks import COUNT, LEAST, Rate, Reading, Stopwatch, best, burst, rate

SECOND = 1_000_000_000


def test_exact_readings_give_an_exact_rate() -> None:
    first = Reading(0, 100, 100)
    last = Reading(20 * SECOND, 100 + 20 * SECOND, 100 + 20 * SECOND)
    assert rate(first, last) == Rate(1.0, 0.0, 20.0)


def test_round_trips_bound_the_error() -> None:
    first = Reading(0, 0, 20_000_000)                              # 20 ms
    last = Reading(10 * SECOND, 10 * SECOND, 10 * SECOND + 20_000_000)
    found = rate(first, last)
    assert found.value == pytest.approx(1.0)
    assert found.error == pytest.approx(0.02 / 9.98)


def test_true_rate_is_always_within_the_bound() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        truth = chance.choice([0.22, 0.45, 0.5, 0.999, 1.0, 1.004, 1.7, 2.0])
        readings = []
        for at in (0, chance.uniform(1, 30) * SECOND):
            trip = chance.uniform(0, 0.2) * SECOND
            looked = at + chance.choice([0.0, 1.0, chance.random()]) * trip
            readings.append(Reading(round(5e9 + truth * looked), round(at), round(at + trip)))
        found = rate(*readings)
        assert abs(found.value - truth) <= found.error + 1e-8


def test_what_is_sure() -> None:
    assert Rate(1.001, 0.003, 20).surely_within(0.005)
    assert not Rate(1.001, 0.0045, 20).surely_within(0.005)
    assert not Rate(1.001, 0.0045, 20).surely_beyond(0.005)
    assert Rate(0.5, 0.01, 20).surely_beyond(0.05)
    assert not Rate(0.94, 0.02, 20).surely_beyond(0.05)
    assert str(Rate(0.5, 0.00125, 20)) == "0.50000 ± 0.00125"


def test_readings_out_of_order_or_too_close_are_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        rate(Reading(0, 10, 10), Reading(5, 5, 5))
    with pytest.raises(ValueError, match="too close"):
        rate(Reading(0, 0, 100), Reading(5, 50, 150))


def test_best_is_the_quickest() -> None:
    slow, quick = Reading(1, 0, 50), Reading(2, 100, 110)
    assert best([slow, quick]) is quick


class Clock:
    """A guest whose clock runs at a given rate, asked by a host with a clock of its own."""

    def __init__(self, truth: float, trips_ms: list[int] | None = None):
        self.truth, self.now, self.asked = truth, 1000, 0
        self.trips_ms = trips_ms or [2, 7, 1, 3]

    def ask(self, command: str) -> Answer:
        assert command == "clock"
        trip = 1_000_000 * self.trips_ms[self.asked % len(self.trips_ms)]
        self.asked += 1
        before = self.now
        self.now += trip
        return Answer({"monotonic_ns": int((before + trip // 2) * self.truth)}, before, self.now)


def test_burst_keeps_the_quickest_of_its_readings() -> None:
    clock = Clock(1.0)
    assert burst(clock.ask).trip_ns == 1_000_000
    assert clock.asked == COUNT


def test_burst_goes_on_until_a_reading_is_good() -> None:
    clock = Clock(1.0, [300] * 99 + [9])
    assert burst(clock.ask).trip_ns == 9_000_000
    assert clock.asked == 100


def test_burst_ends_in_time_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "PATIENCE", -1)
    clock = Clock(1.0, [300, 200])
    assert burst(clock.ask).trip_ns == 200_000_000
    assert clock.asked == LEAST


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.0])
def test_stopwatch(truth: float) -> None:
    clock = Clock(truth)
    watch = Stopwatch(clock.ask)
    clock.now += 20 * SECOND
    found = watch.read(seconds=0)
    assert abs(found.value - truth) <= found.error
    assert found.error < 0.001 * truth
