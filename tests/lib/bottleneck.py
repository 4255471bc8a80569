# SPDX-License-Identifier: GPL-2.0-or-later
"""One direction of a link: a bounded queue, a bottleneck of some rate, and a distance.

Theory of operation.  There are no sockets and no clock in here; the caller says what time it is.
Bytes of a flow wait in the queue, pass the bottleneck, are in flight for the link's delay, and
have then arrived, where they stay until the receiver takes them::

    room(), add() -> [queue] -> bottleneck -> [flight: delay] -> [arrived] -> take()

The flows share one bottleneck, a quantum each in turn.  `_free` is the moment from which it can
take the next bytes; it is reckoned, not observed.  So a caller that comes late, on a busy machine,
finds what should have passed by then and lets it pass at once: the rate stays exact, and only a
little of the delay's accuracy is lost.  Time in which nothing could pass earns nothing, though
what the caller itself was late by is still owed, up to LATE.

What is always true: the queue holds at most `queue` bytes, and no flow that waits beside others
takes more than its share of it; at most FLIGHT bytes are past the bottleneck and not taken, and a
flow whose receiver does not take what arrived is left out at ARRIVED, so it stops neither the
sender's host nor its neighbours; the bytes of a flow keep their order, with its end as the last;
nothing arrives sooner than `delay` after it was added.
"""

import enum
from collections import deque

QUEUE = 1 << 18             # bytes before the bottleneck, unless the caller says otherwise
QUEUE_LEAST, QUEUE_MOST = 1 << 12, 1 << 26
FLIGHT = 1 << 27            # bytes past the bottleneck that nobody has taken yet
ARRIVED = 1 << 18           # bytes of one flow that its receiver may leave where they are
TURN = 0.002                # seconds of the bottleneck's time a flow gets at once
TURN_LEAST, TURN_MOST = 1 << 12, 1 << 16
LATE = 0.1                  # seconds the caller may be late without a loss of rate
RATE_LEAST = 1000           # bits a second
DELAY_MOST = 60             # seconds
FLIPPED = 0x10              # the bit of a byte that is damaged


class End(enum.Enum):
    """How a flow ends: its sender is done, or is gone."""

    FIN = "fin"
    RESET = "reset"


Item = memoryview | End


def _size(item: Item) -> int:
    return 0 if isinstance(item, End) else len(item)


class Flow:
    """What one sender has in a line."""

    def __init__(self) -> None:
        self.queue: deque[Item] = deque()
        self.queued = 0                     # bytes in it
        self.arrived: deque[Item] = deque()
        self.waiting = 0                    # bytes in it
        self.ahead = 0                      # bytes past the bottleneck, arrived or not
        self.ended: End | None = None       # nothing is added any more
        self.dropped = False                # nothing of it arrives any more


class Line:
    """One direction, shared by its flows."""

    def __init__(self, now: float, *, rate: float | None = None, delay: float = 0.0,
                 queue: int = QUEUE):
        self.queued = 0
        self.ahead = 0
        self.flipped = 0
        self._silent = False
        self._turn: deque[Flow] = deque()               # those with something in the queue
        self._eager: set[Flow] = set()                  # those with more to add
        self._flight: deque[tuple[float, Flow, Item]] = deque()
        self._free = now
        self._idle_since: float | None = now            # nothing could pass from then on
        self._passed = 0
        self._flips: list[int] = []                     # positions in all that passes
        self.shape(rate=rate, delay=delay, queue=queue)

    # What it is like

    def shape(self, *, rate: float | None, delay: float, queue: int) -> None:
        """Set rate (bits a second, None for any), delay (seconds) and queue (bytes)."""
        if rate is not None and rate < RATE_LEAST:
            raise ValueError(f"a rate of {rate:g} bit/s is below {RATE_LEAST}")
        if not 0 <= delay <= DELAY_MOST:
            raise ValueError(f"a delay of {delay:g} s is not within 0 to {DELAY_MOST}")
        if not QUEUE_LEAST <= queue <= QUEUE_MOST:
            raise ValueError(f"a queue of {queue} bytes is not within {QUEUE_LEAST} "
                             f"to {QUEUE_MOST}")
        if rate is not None and rate * delay / 8 > FLIGHT / 2:
            raise ValueError(f"{rate:g} bit/s over {delay:g} s are {rate * delay / 8:.0f} bytes in "
                             f"flight, and more than {FLIGHT // 2}")
        self.rate, self.delay, self.queue = rate, delay, queue
        self._quantum = TURN_MOST if rate is None else \
            min(TURN_MOST, max(TURN_LEAST, int(rate * TURN / 8)))

    def silence(self, silent: bool, now: float) -> None:
        """Let nothing pass or arrive until it is lifted; nothing is lost."""
        if self._silent and not silent:
            self._free = max(self._free, now)
        self._silent = silent

    @property
    def silent(self) -> bool:
        return self._silent

    def flip(self, after: int) -> None:
        """Damage one bit, AFTER bytes from those that pass the bottleneck next."""
        self._flips.append(self._passed + after)

    # The sender's end

    def room(self, flow: Flow) -> int:
        """Return how many bytes the flow, which has some, may add now."""
        self._eager.add(flow)
        room = min(self.queue // len(self._eager) - flow.queued, self.queue - self.queued)
        if flow.queue and room < self._quantum:
            return 0                        # crumbs are not worth a read
        return max(0, room)

    def sated(self, flow: Flow) -> None:
        """The flow has no more for now: the others may share its part of the queue."""
        self._eager.discard(flow)

    def add(self, flow: Flow, data: bytes) -> None:
        """Put bytes into the queue, no more than room() told."""
        self._enqueue(flow, memoryview(data))

    def end(self, flow: Flow, how: End) -> None:
        """Put the flow's end behind its bytes."""
        flow.ended = how
        self.sated(flow)
        self._enqueue(flow, how)

    def _enqueue(self, flow: Flow, item: Item) -> None:
        if not flow.queue:
            self._turn.append(flow)
        flow.queue.append(item)
        flow.queued += _size(item)
        self.queued += _size(item)

    # The receiver's end

    def take(self, flow: Flow, size: int) -> None:
        """Take SIZE bytes of the first item that arrived, or the end it is."""
        item = flow.arrived[0]
        if size == _size(item):
            flow.arrived.popleft()
        else:
            assert not isinstance(item, End)
            flow.arrived[0] = item[size:]
        flow.waiting -= size
        flow.ahead -= size
        self.ahead -= size

    def drop(self, flow: Flow) -> None:
        """Forget all of a flow, wherever it is: nobody will take it."""
        if flow.queue:
            self._turn.remove(flow)
        self.sated(flow)
        self.queued -= flow.queued
        self.ahead -= flow.ahead
        flow.queue.clear()
        flow.arrived.clear()
        flow.queued = flow.waiting = flow.ahead = 0
        flow.dropped = True

    # Time

    def advance(self, now: float) -> list[Flow]:
        """Let pass and arrive what is due by NOW; return the flows something arrived for."""
        reached: dict[Flow, None] = {}
        if not self._silent:
            self._serve(now)
            while self._flight and self._flight[0][0] <= now:
                _, flow, item = self._flight.popleft()
                if not flow.dropped:
                    flow.arrived.append(item)
                    flow.waiting += _size(item)
                    reached[flow] = None
        return list(reached)

    def wake(self) -> float | None:
        """Return when advance() has something to do, unless something else happens first."""
        if self._silent:
            return None
        due = [self._flight[0][0]] if self._flight else []
        if self._idle_since is None:
            due.append(self._free)
        return min(due, default=None)

    def _may_pass(self, flow: Flow) -> bool:
        return flow.waiting < ARRIVED and flow.ahead <= FLIGHT - TURN_MOST - self.ahead

    def _serve(self, now: float) -> None:
        blocked = 0
        while blocked < len(self._turn):
            flow = self._turn[0]
            if not self._may_pass(flow):
                self._turn.rotate(-1)
                blocked += 1
                continue
            if self._idle_since is not None:
                owed = min(LATE, max(0.0, self._idle_since - self._free))
                self._free = max(self._free, now - owed)
                self._idle_since = None
            if self.rate and self._free > now:
                return
            blocked = 0
            self._pass(flow, now)
        if self._idle_since is None:
            self._idle_since = now

    def _pass(self, flow: Flow, now: float) -> None:
        """Let one quantum of a flow pass and give the next one its turn."""
        left = self._quantum
        while flow.queue and left > 0:
            item = flow.queue.popleft()
            if _size(item) > left:
                assert not isinstance(item, End)
                flow.queue.appendleft(item[left:])
                item = item[:left]
            size = _size(item)
            left -= size
            flow.queued -= size
            flow.ahead += size
            self.queued -= size
            self.ahead += size
            self._free = self._free + size * 8 / self.rate if self.rate else now
            due = max(self._free, now) + self.delay      # those before it arrive before it
            self._flight.append((due, flow, self._damaged(item)))
            self._passed += size
        self._turn.popleft()
        if flow.queue:
            self._turn.append(flow)

    def _damaged(self, item: Item) -> Item:
        """Return the item, with those bits flipped whose place has come."""
        size = _size(item)
        here = [at - self._passed for at in self._flips if at < self._passed + size]
        if not here or isinstance(item, End):
            return item
        data = bytearray(item)
        for at in here:
            data[at] ^= FLIPPED
        self._flips = [at for at in self._flips if at >= self._passed + size]
        self.flipped += len(here)
        return memoryview(data)
