# SPDX-License-Identifier: GPL-2.0-or-later
"""A link that misbehaves, between a program that dials and one that listens.

    with Shaper(("127.0.0.1", port), rate=25e6, delay=0.02) as link:
        migrate to link.address ...
        link.cut("random")

Theory of operation.  The link is a proxy in a process of its own (shaperproxy.py), so that the
work of a test does not disturb its timing; it lives no longer than this object or its process.
*Up* is the way from whoever dials, *down* the way back.  All connections share one bottleneck in
each direction (bottleneck.py).  Requests to the proxy are answered when they have taken effect.

What the link is not: TCP runs between each end and the proxy, so nothing is lost and sent again,
no window has to open, and a connection is accepted before its first byte has travelled.
"""

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from bottleneck import QUEUE
from deadlines import Deadline, TooLate

PROGRAM = Path(__file__).with_name("shaperproxy.py")
PATIENCE = 30               # seconds the proxy may take to answer on a busy machine
KEEP: Any = object()
POLL = 0.01                 # seconds between looks at the figures

Address = tuple[str, int] | Path | str
Direction = Literal["up", "down", "both"]


class ShaperError(Exception):
    """The proxy refused a request, or is gone."""


@dataclass(frozen=True)
class Figures:
    up: int                 # bytes the target was given
    down: int               # bytes the dialling side was given
    made: int               # connections accepted
    cut: int
    refused: int            # accepted and reset, because refuse() asked for it
    failed: int             # accepted and reset, because the target could not be reached
    open: int
    queued: int             # bytes before the bottlenecks now
    flipped: int            # bits damaged
    cpu_seconds: float      # what the proxy's process has used


def _plain(address: Address) -> list | str:
    return list(address) if isinstance(address, tuple) else str(address)


def _found(value: list | str) -> tuple[str, int] | Path:
    return Path(value) if isinstance(value, str) else (value[0], value[1])


class Shaper:
    """The link; use it as a context, or call close()."""

    def __init__(self, target: Address, *, listen: Address = ("127.0.0.1", 0),
                 rate: float | None = None, delay: float = 0.0, queue: int = QUEUE):
        """Open a link to TARGET that is dialled at LISTEN, by default some port of loopback.

        Both are an IPv4 address and port or the path of a unix socket.  RATE is in bits a second
        (None: no limit), DELAY in seconds one way, QUEUE in bytes that wait before the bottleneck.
        """
        self._turn = threading.Lock()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(PATIENCE)
        self._answers = self._control.makefile("rb")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        try:
            found = self._ask("open", target=_plain(target), listen=_plain(listen),
                              rate=rate, delay=delay, queue=queue)["address"]
        except BaseException:
            self.close()
            raise
        self.address = _found(found)

    def __enter__(self) -> "Shaper":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the proxy; what is open then is reset."""
        self._answers.close()
        self._control.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        request = json.dumps({"do": what, **arguments})
        with self._turn:
            try:
                self._control.sendall(request.encode() + b"\n")
                line = self._answers.readline()
            except TimeoutError as error:
                raise TooLate(f"the link's answer to '{what}': nothing within {PATIENCE} "
                              "seconds") from error
            except OSError as error:
                raise ShaperError(f"{what}: the link's process is gone: {error}") from error
        if not line:
            raise ShaperError(f"{what}: the link's process ended with status "
                              f"{self._process.wait(PATIENCE)}")
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise ShaperError(f"{what}: {answer['error']}")
        return answer

    def lead(self, target: Address, *, listen: Address = ("127.0.0.1", 0)) -> \
            tuple[str, int] | Path:
        """Lead to another target as well, over the same bottlenecks; return where to dial it."""
        return _found(self._ask("lead", target=_plain(target), listen=_plain(listen))["address"])

    # Its properties

    def shape(self, direction: Direction = "both", *, rate: float | None = KEEP,
              delay: float = KEEP, queue: int = KEEP) -> None:
        """Change rate, delay or queue from now on; what is not named stays as it is."""
        wanted = {"rate": rate, "delay": delay, "queue": queue}
        self._ask("shape", direction=direction,
                  **{name: value for name, value in wanted.items() if value is not KEEP})

    # Its faults

    def cut(self, which: Literal["all", "random"] | int = "all",
            chance: random.Random | None = None) -> int:
        """Reset all connections, one at random, or the one with that number among the open ones.

        Return how many that were.  New ones are accepted again at once.
        """
        drawn = (chance or random).random()
        return self._ask("cut", which=which, chance=drawn)["closed"]

    def refuse(self, on: bool = True) -> None:
        """Reset whoever connects, as if the host could not be reached; the others go on."""
        self._ask("refuse", on=on)

    def silence(self, on: bool = True, direction: Direction = "both") -> None:
        """Let nothing through, and no news of an end either, until it is lifted.

        What is under way then arrives after all, as a black hole's bytes do when TCP repeats
        them; nobody gets a connection meanwhile.
        """
        self._ask("silence", on=on, direction=direction)

    def corrupt(self, direction: Direction = "up", after_bytes: int = 0) -> None:
        """Flip one bit of the byte that passes after that many others from now on."""
        self._ask("corrupt", direction=direction, after_bytes=after_bytes)

    # What it saw

    def figures(self) -> Figures:
        return Figures(**self._ask("figures"))

    def wait_figures(self, wanted: Callable[[Figures], bool], what: str,
                     timeout: float = 30) -> Figures:
        """Look at the figures until they are as wanted."""
        deadline = Deadline(timeout, what)
        while not wanted(found := self.figures()):
            time.sleep(min(POLL, deadline.left()))
        return found


@dataclass(frozen=True)
class Cut:
    when: float             # time.monotonic()
    which: str              # "all" or "random"
    closed: int             # connections it ended


class RandomCuts:
    """Cuts a link at random moments, from a thread; use it as a context.

    Each cut comes a random time within SECONDS after the one before, and ends one connection or
    all of them, if KINDS has both.  One that meets no connection is drawn anew and not counted,
    for a session that is still dialling cannot be cut.  The same SEED draws the same moments and
    kinds.
    """

    def __init__(self, link: Shaper, *, times: int = 10,
                 seconds: tuple[float, float] = (0.2, 2.0), seed: int = 0,
                 kinds: tuple[Literal["all", "random"], ...] = ("all", "random")):
        self.cuts: list[Cut] = []
        self._link = link
        self._times = times
        self._seconds = seconds
        self._kinds = kinds
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="random cuts", daemon=True)

    def __enter__(self) -> "RandomCuts":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._tell()

    def _tell(self) -> None:
        """Raise what went wrong in the thread, once."""
        error, self._error = self._error, None
        if error:
            raise error

    def wait(self, timeout: float = 60) -> list[Cut]:
        """Wait until all cuts were made; return them."""
        self._thread.join(timeout)
        self._tell()
        if self._thread.is_alive():
            raise TooLate(f"{self._times} cuts: {len(self.cuts)} within {timeout:g} seconds")
        return self.cuts

    def _run(self) -> None:
        try:
            while len(self.cuts) < self._times:
                if self._stop.wait(self._chance.uniform(*self._seconds)):
                    return
                which = self._chance.choice(self._kinds)
                when = time.monotonic()
                if closed := self._link.cut(which, self._chance):
                    self.cuts.append(Cut(when, which, closed))
        except (ShaperError, TooLate) as error:
            self._error = error
