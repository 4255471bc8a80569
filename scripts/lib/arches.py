# SPDX-License-Identifier: GPL-2.0-or-later
"""The host architectures Quasar runs on, and what each is called by whom."""

from dataclasses import dataclass

from say import Failure

GUESTS = ("x86_64", "aarch64", "ppc64", "s390x")     # QEMU's system targets


@dataclass(frozen=True)
class Arch:
    name: str                      # as uname -m has it
    debian: str                    # Debian's name; empty where Debian has no such port
    triplet: str
    byte_order: str
    page_sizes: tuple[str, ...]    # of kernels in use, smallest first
    elf_machine: int
    native: bool = False

    @property
    def elf_little(self) -> bool:
        return self.byte_order == "little"


_TABLE = (
    Arch("x86_64", "amd64", "x86_64-linux-gnu", "little", ("4k",), 62, native=True),
    Arch("ppc64le", "ppc64el", "powerpc64le-linux-gnu", "little", ("4k", "64k"), 21),
    Arch("ppc64", "", "powerpc64-linux-gnu", "big", ("4k", "64k"), 21),
    Arch("aarch64", "arm64", "aarch64-linux-gnu", "little", ("4k", "64k"), 183),
    Arch("s390x", "s390x", "s390x-linux-gnu", "big", ("4k",), 22),
)
ARCHES = {arch.name: arch for arch in _TABLE}
EMULATED = tuple(arch.name for arch in _TABLE if not arch.native)


def find(name: str) -> Arch:
    if name not in ARCHES:
        raise Failure(f"there is no host architecture '{name}'",
                      f"known are {', '.join(ARCHES)}", status=2)
    return ARCHES[name]
