# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest and a host for tests of the harness: nothing is emulated, fakeqemu.py plays QEMU."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import Machine, Setup

PROGRAM = Path(__file__).with_name("fakeqemu.py")


@dataclass(frozen=True)
class Guest:
    mode: str = "good"
    name: str = "fake"
    qemu: str = "fakeqemu"
    has_agent: bool = True

    def arguments(self, memory_mb: int | None = None, disk: Path | str | None = None,
                  net: bool | str = True) -> list[str]:
        return [self.mode]


class Host:
    def command(self, argv: list[str]) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, str(PROGRAM), *argv[1:]], dict(os.environ)

    def __str__(self) -> str:
        return "nowhere"


def machine(folder: Path, mode: str = "good", incoming: str | None = None) -> Machine:
    return Machine(Host(), Setup(Guest(mode)), folder, incoming=incoming)
