# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: the links, the guest's loads, and how often.

Not every load makes sense on every link, and a whole table of all of them would take a day.  Each
case asks one question; a case whose guest writes to its disk is for those alone that take the disk
along.
"""

from dataclasses import dataclass

DOWNTIME_MS = 300           # what each is allowed: QEMU's default


@dataclass(frozen=True)
class Size:
    """A guest, and how much of its memory and disk holds the pattern that its loads rewrite."""

    name: str
    memory_mb: int
    dirty_mb: int
    disk_mb: int
    write_mb: int
    guest: str = "linux-x86_64"


SMALL = Size("small", memory_mb=256, dirty_mb=48, disk_mb=256, write_mb=32)
LARGE = Size("large", memory_mb=1024, dirty_mb=512, disk_mb=1024, write_mb=128)
# What its disk and most of its memory hold is what computers hold, not a pattern.
DEBIAN = Size("debian", memory_mb=512, dirty_mb=16, disk_mb=4096, write_mb=8,
              guest="debian-x86_64")


@dataclass(frozen=True)
class Link:
    """A network, as the shaping proxy makes it; without a rate there is no proxy."""

    name: str
    title: str
    size: Size                          # slow links would take all day with a large guest
    rate: float | None = None           # bits a second
    round_trip: float = 0.0             # seconds
    queue: int = 1 << 18                # bytes: a fast link needs more, or the proxy's turns show


LINKS = {link.name: link for link in (
    Link("loopback", "loopback", LARGE),
    Link("1g", "1 Gb/s, 1 ms", LARGE, 1e9, 0.001, 2 << 20),
    Link("100m", "100 Mb/s, 20 ms", SMALL, 100e6, 0.02),
    Link("debian", "100 Mb/s, 20 ms, Debian", DEBIAN, 100e6, 0.02),
    Link("25m", "25 Mb/s, 50 ms", SMALL, 25e6, 0.05),
)}


@dataclass(frozen=True)
class Case:
    link: str
    dirty: int              # MB of memory a second that the guest rewrites
    write: int              # MB of its disk a second

    @property
    def name(self) -> str:
        return f"{self.link}-{self.dirty}-{self.write}"

    @property
    def size(self) -> Size:
        return LINKS[self.link].size

    @property
    def disks_only(self) -> bool:
        return self.write > 0


@dataclass(frozen=True)
class Plan:
    cases: tuple[Case, ...]
    limit: float            # seconds after which a move is given up
    often: int              # repeats on the fast links
    seldom: int             # and on the slow ones, where the link's rate leaves little to chance

    def repeats(self, case: Case) -> int:
        return self.often if case.size is LARGE else self.seldom


QUICK = Plan((Case("loopback", 50, 0), Case("1g", 10, 5), Case("100m", 0, 0)),
             limit=45, often=2, seldom=1)

# About an hour.
FULL = Plan((
    Case("loopback", 0, 0), Case("loopback", 50, 0), Case("loopback", 10, 30),
    Case("1g", 10, 0), Case("1g", 50, 0), Case("1g", 10, 5),
    Case("100m", 0, 0), Case("100m", 10, 0), Case("100m", 0, 5),
    Case("debian", 0, 0), Case("25m", 0, 0),
), limit=150, often=3, seldom=1)
