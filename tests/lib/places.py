# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts as tests name them: ARCH, or ARCH:PAGES, with /stock for the unpatched QEMU."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts" / "lib"))

import hosts  # noqa: E402
import qemubuild  # noqa: E402


@dataclass(frozen=True)
class Place:
    """A kind of host, as one word."""

    arch: str
    page_size: str = "4k"
    stock: bool = False

    @classmethod
    def parse(cls, text: str, stock: bool = False) -> "Place":
        base = text.removesuffix("/stock")
        arch, _, page_size = base.partition(":")
        return cls(arch, page_size or "4k", stock or base != text)

    def __str__(self) -> str:
        pages = "" if self.page_size == "4k" else f" {self.page_size}"
        return f"{self.arch}{pages}{' (stock)' if self.stock else ''}"

    @property
    def host(self) -> hosts.Host:
        return hosts.Host(self.arch, page_size=self.page_size, stock=self.stock)

    def build(self, guests: list[str]) -> None:
        """Make sure that the host is there, with QEMU for these guests."""
        self.host.build(guests)
        self.host.bin()

    def is_built(self, guests: list[str]) -> bool:
        return qemubuild.find_system(self.host.kind, guests, self.stock) is not None

    def command(self, argv: list[str]) -> tuple[list[str], dict[str, str]]:
        return self.host.command(argv)


def guest(name: str, disk_gib: int = 0) -> Any:
    """Build a guest, or take it from the cache; DISK_GIB is for one that has a disk of its own."""
    import guests
    return guests.build(name, disk_gib) if disk_gib else guests.build(name)


def target(guest_name: str) -> str:
    """Return the QEMU target a guest needs: linux-ppc64 runs on qemu-system-ppc64."""
    return guest_name.rpartition("-")[2]
