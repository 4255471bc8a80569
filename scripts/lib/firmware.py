# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' firmware, from the distribution's packages.

Every host gets the same files: a guest finds its firmware's size in its RAM blocks, so unequal
firmware at the two ends would refuse a migration.
"""

import shutil
from pathlib import Path

import cache
import debian

PACKAGES = ("seabios", "qemu-system-data", "ipxe-qemu", "opensbi")
PATTERNS = ("*.bin", "*.rom", "*.img", "*.lid", "*.dtb", "*.ndrv", "openbios-*", "u-boot.e500",
            "palcode-*", "*.elf")


def _collect(work: Path, output: Path) -> None:
    debian.Apt("amd64").unpack(list(PACKAGES), work / "packages")
    for pattern in PATTERNS:
        for file in sorted((work / "packages").rglob(pattern)):
            if file.is_file() and not (output / file.name).exists():
                shutil.copyfile(file, output / file.name)


def mark() -> str:
    """Name the set of files without fetching it."""
    return cache.stamp(debian.codename(), " ".join(PACKAGES), " ".join(PATTERNS))


def get() -> Path:
    return cache.get("firmware", "guests", mark(), _collect,
                     what="firmware from Debian's packages")
