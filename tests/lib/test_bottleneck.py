# SPDX-License-Identifier: GPL-2.0-or-later
"""A line's queue, bottleneck and flight, with a clock of the tests' own: every figure is exact."""

import random

import pytest
from bottleneck import (ARRIVED, FLIGHT, FLIPPED, LATE, QUEUE, QUEUE_LEAST, TURN_LEAST, End, Flow,
                        Line)

RATE = 80e6                 # 10 MB a second
BYTES = 10_000_000
STEP = 0.001


class Sender(Flow):
    """A flow that always has more, and keeps what came out at the other end."""

    def __init__(self, line: Line, size: int = 1 << 30):
        super().__init__()
        self.line = line
        self.left = size
        self.came: list[tuple[float, bytes | End]] = []

    def fill(self) -> None:
        while self.left and (room := self.line.room(self)):
            size = min(room, self.left)
            self.line.add(self, bytes(size))
            self.left -= size
        if not self.left:
            self.line.sated(self)

    def empty(self, now: float) -> bool:
        before = len(self.came)
        while self.arrived:
            item = self.arrived[0]
            end = isinstance(item, End)
            self.came.append((now, item if end else bytes(item)))
            self.line.take(self, 0 if end else len(item))
        return len(self.came) > before

    def total(self) -> int:
        return sum(len(item) for _, item in self.came if not isinstance(item, End))

    def data(self) -> bytes:
        return b"".join(item for _, item in self.came if not isinstance(item, End))


def run(line: Line, senders: list[Sender], seconds: float, start: float = 0.0,
        chance: random.Random | None = None) -> float:
    """Let time go in steps, or in uneven ones where CHANCE draws them; return its end."""
    now = start
    while now < start + seconds:
        now += chance.uniform(0, LATE / 2) if chance else STEP
        line.advance(now)
        moved = True
        while moved:
            for sender in senders:
                sender.fill()
            line.advance(now)
            moved = any([sender.empty(now) for sender in senders])
        assert line.queued <= line.queue
        assert line.queued == sum(sender.queued for sender in senders)
        assert line.ahead == sum(sender.ahead for sender in senders)
    return now


@pytest.mark.parametrize("count", [1, 4, 16])
def test_rate_is_exact_and_the_flows_have_equal_parts(count: int) -> None:
    line = Line(0, rate=RATE)
    senders = [Sender(line) for _ in range(count)]
    now = run(line, senders, 0.5)           # the first found the queue empty, and was ahead
    before = [sender.total() for sender in senders]
    seconds = run(line, senders, 5, start=now) - now
    parts = [sender.total() - had for sender, had in zip(senders, before)]
    assert sum(parts) == pytest.approx(BYTES * seconds, rel=0.005)
    for part in parts:
        assert part == pytest.approx(sum(parts) / count, rel=0.01)


@pytest.mark.parametrize("queue", [QUEUE, 1 << 20])
def test_caller_that_comes_late_loses_no_rate(queue: int) -> None:
    line = Line(0, rate=RATE, queue=queue)  # the smaller one runs dry while it catches up
    sender = Sender(line)
    seconds = run(line, [sender], 5, chance=random.Random(1))
    assert sender.total() == pytest.approx(BYTES * seconds, rel=0.02)


def test_idle_time_earns_nothing() -> None:
    line = Line(0, rate=RATE)
    run(line, [Sender(line, size=1000)], 0.1)
    late = Sender(line)
    run(line, [late], 1, start=10)
    assert late.total() == pytest.approx(BYTES, rel=0.01)


def test_silent_time_earns_nothing_and_loses_nothing() -> None:
    line = Line(0, rate=RATE, delay=0.01)
    sender = Sender(line, size=BYTES)
    now = run(line, [sender], 0.1)
    line.silence(True, now)
    before, had = sender.total(), sender.ahead + sender.queued
    later = run(line, [sender], 10, start=now)
    assert sender.total() == before and sender.ahead + sender.queued >= had > 0
    assert line.wake() is None
    line.silence(False, later)
    run(line, [sender], 0.1, start=later)
    assert sender.total() == pytest.approx(BYTES * 0.2, rel=0.05)
    run(line, [sender], 1, start=later + 0.1)
    assert sender.total() == BYTES


def test_small_messages_take_the_delay_and_keep_their_order() -> None:
    line = Line(0, rate=RATE, delay=0.05)
    flow = Sender(line, size=0)
    for number in range(100):
        line.add(flow, b"%02d" % number)
        line.advance(number * STEP)
        flow.empty(number * STEP)
    line.end(flow, End.FIN)
    run(line, [flow], 0.2, start=100 * STEP)
    assert flow.data() == b"".join(b"%02d" % number for number in range(100))
    assert flow.came[-1][1] is End.FIN
    assert [when for when, _ in flow.came][0] == pytest.approx(0.05, abs=2 * STEP)
    whens = [when for when, _ in flow.came[:-1]]
    assert all(when >= number * STEP + 0.05 for number, when in enumerate(whens))
    assert whens[-1] == pytest.approx(0.149, abs=2 * STEP)


def test_shorter_delay_does_not_overtake() -> None:
    line = Line(0, delay=0.5)
    flow = Sender(line, size=0)
    line.add(flow, b"first")
    line.advance(0)
    line.shape(rate=None, delay=0.0, queue=QUEUE)
    line.add(flow, b"second")
    line.advance(0.1)
    assert not flow.arrived
    line.advance(0.5)
    flow.empty(0.5)
    assert flow.data() == b"firstsecond"


def test_wake_names_the_next_moment() -> None:
    line = Line(0, rate=RATE, delay=0.05)
    assert line.wake() is None
    flow = Sender(line, size=0)
    line.add(flow, bytes(100_000))
    line.advance(0)
    first = line.wake()
    assert first is not None and 0 < first <= 0.0021        # when the next quantum may pass
    for _ in range(100):
        when = line.wake()
        if when is None:
            break
        line.advance(when)
    assert line.wake() is None and flow.waiting == 100_000


def test_flow_nobody_takes_stops_alone() -> None:
    line = Line(0, rate=RATE)
    stuck, other = Sender(line), Sender(line)
    for step in range(1, 1001):
        now = step * STEP
        for sender in (stuck, other):
            sender.fill()
        line.advance(now)
        other.empty(now)
    assert ARRIVED <= stuck.ahead < 2 * ARRIVED
    assert other.total() == pytest.approx(BYTES - stuck.ahead, rel=0.02)


def test_flight_is_bounded_though_the_line_has_no_limit() -> None:
    line = Line(0, delay=30.0)
    senders = [Sender(line) for _ in range(4)]
    for step in range(3000):
        for sender in senders:
            sender.fill()
        line.advance(step * STEP)
        assert line.ahead <= FLIGHT
    assert line.ahead > FLIGHT * 0.7
    assert min(s.ahead for s in senders) > 0.9 * max(s.ahead for s in senders)


@pytest.mark.parametrize("queue", [QUEUE_LEAST, 10_000, QUEUE])
def test_every_flow_gets_through_a_queue_of_any_size(queue: int) -> None:
    line = Line(0, rate=RATE, queue=queue)
    senders = [Sender(line, size=20_000) for _ in range(8)]
    run(line, senders, 1)
    assert [sender.total() for sender in senders] == [20_000] * 8


def test_dropped_flow_leaves_nothing_behind() -> None:
    line = Line(0, rate=RATE, delay=0.01)
    gone, other = Sender(line), Sender(line)
    run(line, [gone, other], 0.2)
    line.drop(gone)
    now = run(line, [other], 0.1, start=0.2)
    before = other.total()
    run(line, [other], 1, start=now)
    assert not gone.arrived and gone.ahead == gone.queued == 0
    assert other.total() - before == pytest.approx(BYTES, rel=0.01)


@pytest.mark.parametrize("after", [0, 1, TURN_LEAST - 1, TURN_LEAST, 60_000])
def test_one_bit_is_flipped_where_it_was_asked_for(after: int) -> None:
    line = Line(0, rate=8e6)
    sender = Sender(line, size=100)
    run(line, [sender], 0.1)
    line.flip(after)
    sender.left = 100_000
    run(line, [sender], 1, start=0.1)
    sent = sender.data()
    damaged = [i for i in range(100, len(sent)) if sent[i]]
    assert len(sent) == 100_100 and line.flipped == 1
    assert damaged == [100 + after] and sent[100 + after] == FLIPPED


@pytest.mark.parametrize(("shape", "complaint"), [
    ({"rate": 10}, "rate of 10 bit/s"),
    ({"delay": -1}, "delay of -1 s"),
    ({"delay": 61}, "delay of 61 s"),
    ({"queue": 0}, "queue of 0 bytes"),
    ({"queue": 1 << 30}, "queue of 1073741824 bytes"),
    ({"rate": 1e10, "delay": 1}, "in flight"),
])
def test_what_cannot_be_kept_is_refused(shape: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Line(0, **shape)
