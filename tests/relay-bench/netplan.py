# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured of the relay and its peers, and for how long.

Two kinds of guest.  A *namespace* has the kernel's own TCP and a tap device for a card, and no
emulated processor stands in the way: throughput, latency and processor time are measured with it,
over each MTU and delay.  A *VM* is the Linux guest under QEMU, the only way to have ``-netdev
user`` itself; its emulated processor is the limit of what it can carry, and that is equal for all
of its contestants.  It shows whether a netdev is a further limit, at one MTU and without a delay.

Two places for a delay.  *Outside*, between the NAT and the server, it is alike for all: each of
them ends the guest's TCP and begins another.  On the *link*, between guest and NAT, only those can
have one whose NAT is elsewhere than the guest.  That is what a relay is for, and where libslirp's
64 KiB for a round trip show; ``-netdev user`` has its NAT in the guest's QEMU and no link.  So
libslirp over a link is the relay's with ``nat=slirp``.

The proxy that delays ends TCP too and never is the window's limit; it takes processor time of its
own, the same for all.  Without a delay there is none.
"""

from dataclasses import dataclass

OUTSIDE, LINK, NONE = "outside", "link", "none"
UP, DOWN, BETWEEN, ECHO = "up", "down", "between", "echo"
WAYS = {UP: "guest to host", DOWN: "host to guest", BETWEEN: "guest to guest",
        ECHO: "there and back"}
NAMESPACE, VM = "namespace", "VM"
LATENCY_MTU = 1500


@dataclass(frozen=True)
class Case:
    """A guest, an MTU and a delay: set up once for each contestant, then measured each way."""

    guest: str
    mtu: int
    place: str              # of the delay
    delay: float            # seconds, one way
    ways: tuple[str, ...]

    @property
    def name(self) -> str:
        where = self.place if self.delay else "near"
        pair = "-pair" if self.ways == (BETWEEN,) else ""
        return f"{self.guest}{pair}-{self.mtu}-{where}-{self.delay * 1000:g}"

    @property
    def latency(self) -> bool:
        return self.mtu == LATENCY_MTU

    def title(self) -> str:
        if not self.delay:
            return f"no delay, MTU {self.mtu}"
        where = "outside" if self.place == OUTSIDE else "between guest and NAT"
        return f"{self.delay * 1000:g} ms {where}, MTU {self.mtu}"


@dataclass(frozen=True)
class Plan:
    name: str
    mtus: tuple[int, ...]
    delays: tuple[float, ...]       # beside none; seconds, one way
    seconds: float          # of a stream
    asking: float           # of questions and answers
    turns: int
    limit: float            # seconds for everything; what is left then is not measured

    def cases(self) -> list[Case]:
        """Return what is measured; what was asked for comes first, should the time be too short."""
        both = (UP, DOWN)
        found = [Case(NAMESPACE, mtu, NONE, 0.0, both) for mtu in self.mtus]
        found += [Case(NAMESPACE, mtu, LINK, delay, both)
                  for delay in self.delays for mtu in self.mtus]
        found.append(Case(VM, LATENCY_MTU, NONE, 0.0, (ECHO,)))
        found += [Case(NAMESPACE, mtu, NONE, 0.0, (BETWEEN,)) for mtu in self.mtus]
        return found + [Case(NAMESPACE, mtu, OUTSIDE, delay, both)
                        for delay in self.delays for mtu in self.mtus]


QUICK = Plan("quick", (1500, 65520), (0.01,), seconds=0.7, asking=0.3, turns=1, limit=130)
FULL = Plan("full", (1500, 65520), (0.001, 0.01, 0.05), seconds=1.4, asking=0.5, turns=2,
            limit=710)
