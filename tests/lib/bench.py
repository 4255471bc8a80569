# SPDX-License-Identifier: GPL-2.0-or-later
"""A board without a guest: its devices are driven from outside, register by register.

Theory of operation.  QEMU's `qtest` accelerator runs no processor; a text protocol on a socket
reads and writes the guest's memory and ports in its place, and moves the virtual clock.  So a
device is brought into the very state that a test is about, the same on every host and every time,
within milliseconds.  Saved states of two hosts can then be compared byte by byte.
"""

import socket
from dataclasses import dataclass
from pathlib import Path

from deadlines import Deadline
from machine import HostLike, Machine, Setup

TIMEOUT = 60                # an emulated host that is busy takes its time
CLOCK = "base=2026-01-01T00:00:00,clock=vm"


@dataclass(frozen=True)
class Board:
    """A machine without firmware's help or a guest, to be used where a guest would be."""

    name: str
    arch: str
    machine: str
    devices: tuple[str, ...] = ()
    memory: str = "64M"
    accel: str = "qtest"
    has_agent: bool = False

    @property
    def qemu(self) -> str:
        return f"qemu-system-{self.arch}"

    def arguments(self, memory_mb: int | None = None, disk: Path | str | None = None,
                  net: bool | str = True) -> list[str]:
        del memory_mb, disk, net
        return ["-nodefaults", "-no-user-config", "-display", "none", "-accel", self.accel,
                "-machine", self.machine, "-m", self.memory, "-rtc", CLOCK,
                "-serial", "chardev:serial0", "-qtest", "chardev:qtest0",
                "-qtest-log", "/dev/null", *self.devices]


class Qtest:
    """The client of the protocol; numbers are plain, memory is bytes."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._lines = connection.makefile("r", encoding="ascii")

    def ask(self, *words: object) -> list[str]:
        line = " ".join(hex(w) if isinstance(w, int) else str(w) for w in words)
        deadline = Deadline(TIMEOUT, f"qtest: {line[:40]}")
        self._socket.sendall(line.encode() + b"\n")
        while True:
            self._socket.settimeout(deadline.left())
            answer = self._lines.readline().split()
            if not answer or answer[0] not in ("IRQ", "OK"):
                raise AssertionError(f"qtest: {line[:40]}: {' '.join(answer) or 'QEMU has ended'}")
            if answer[0] == "OK":
                return answer[1:]

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.ask("out" + {1: "b", 2: "w", 4: "l"}[size], port, value)

    def inp(self, port: int, size: int = 1) -> int:
        return int(self.ask("in" + {1: "b", 2: "w", 4: "l"}[size], port)[0], 0)

    def write(self, address: int, data: bytes) -> None:
        self.ask("write", address, len(data), "0x" + data.hex())

    def read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self.ask("read", address, size)[0][2:])

    def step(self, nanoseconds: int) -> None:
        """Move the virtual clock on."""
        self.ask("clock_step", nanoseconds)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Bench(Machine):
    """A running board."""

    def __init__(self, host: HostLike, board: Board, folder: Path, *,
                 incoming: str | None = None):
        super().__init__(host, Setup(board, net=False), folder, incoming=incoming)

    def _chardevs(self) -> dict[str, str]:
        return {**super()._chardevs(), "qtest0": "qtest"}

    def _connect(self, listeners: dict) -> None:
        deadline = Deadline(TIMEOUT, "QEMU's test socket")
        self.qtest = Qtest(listeners["qtest"].accept(self.process, deadline))
        super()._connect(listeners)

    def stop(self, timeout: float = 10) -> int:
        status = super().stop(timeout)
        if hasattr(self, "qtest"):
            self.qtest.close()
        return status
