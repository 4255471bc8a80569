# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts of several architectures on one machine.

A foreign host is a user-mode emulator, a sysroot and builds for that architecture, brought
together in a folder of small wrappers that is first on PATH: whatever runs there by name - and
whatever that spawns by name - runs as a program of that architecture.  The page size travels in
the emulator's own environment variable, so children inherit it.
"""

import os
import shlex
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import arches
import cache
import own
import qemubuild
import say
import sysroot
from arches import ARCHES, GUESTS, Arch  # noqa: F401  (part of this module's interface)
from say import Failure

PAGE_BYTES = {"4k": 4096, "64k": 65536}
UNAME = Path(__file__).with_name("uname.c")


def _compile_uname(arch: Arch, output: Path) -> None:
    """A uname of the host's architecture: what runs inside asks it where it is."""
    compiler = ["gcc"] if arch.native else [f"{arch.triplet}-gcc",
                                            *sysroot.flags(sysroot.get(arch))]
    say.run([*compiler, "-O2", "-Wall", "-o", output, UNAME],
            log=output.parent.parent / "uname.log", what=f"compiling uname for {arch.name}")


def _write_wrapper(path: Path, emulator: Path, root: Path, program: str) -> None:
    """Write a script that runs PROGRAM, a word of the shell's, under the emulator."""
    words = " ".join(shlex.quote(str(w)) for w in (emulator, "-L", root))
    path.write_text(f'#!/bin/sh\nexec {words} {program} "$@"\n')
    path.chmod(0o755)


@dataclass(frozen=True)
class Host:
    """One kind of host: an architecture, its page size, and whose QEMU is installed there."""
    arch: str
    page_size: str = "4k"
    stock: bool = False

    def __post_init__(self) -> None:
        kind = arches.find(self.arch)
        if self.page_size not in kind.page_sizes:
            raise Failure(f"{self.arch} hosts have no {self.page_size} pages here",
                          f"known are {', '.join(kind.page_sizes)}", status=2)

    @property
    def kind(self) -> Arch:
        return arches.find(self.arch)

    @property
    def name(self) -> str:
        pages = "" if len(self.kind.page_sizes) == 1 else f"-{self.page_size}"
        return f"{self.arch}{pages}{'-stock' if self.stock else ''}"

    def build(self, guests: list[str]) -> Path:
        """Make sure that the host exists with QEMU for these guests; return its QEMU."""
        if not self.kind.native:
            qemubuild.emulators()
            sysroot.get(self.kind)
        qemu = qemubuild.system(self.kind, guests, self.stock)
        if not self.stock:
            own.installed(self.kind)
        return qemu

    def _parts(self) -> list[Path]:
        """The folders whose bin/ make up this host."""
        parts = []
        for guest in GUESTS:
            qemu = qemubuild.find_system(self.kind, [guest], self.stock)
            if qemu and qemu not in parts:
                parts.append(qemu)
        if not self.stock and (tools := own.find_installed(self.kind)):
            parts.append(tools)
        return parts

    def _assemble(self, parts: list[Path], output: Path) -> None:
        programs: dict[str, Path] = {}
        for part in parts:
            for program in sorted((part / "bin").iterdir()):
                programs.setdefault(program.name, program)
        folder = output / "bin"
        folder.mkdir()
        if self.kind.native:
            _compile_uname(self.kind, folder / "uname")
            for name, program in programs.items():
                (folder / name).symlink_to(program)
            return
        _compile_uname(self.kind, output / "uname")
        _write_wrapper(folder / "uname", self.emulator(), self.sysroot(), '"${0%/*}/../uname"')
        for name, program in programs.items():
            _write_wrapper(folder / name, self.emulator(), self.sysroot(),
                           shlex.quote(str(program)))

    def emulator(self) -> Path:
        with cache.in_use():
            return qemubuild.emulators() / "bin" / f"qemu-{self.arch}"

    def sysroot(self) -> Path:
        with cache.in_use():
            return sysroot.get(self.kind)

    def bin(self) -> Path:
        """Return the folder that is first on PATH on this host."""
        parts = self._parts()
        if not parts:
            raise Failure(f"nothing is built for {self.name}",
                          f"run: scripts/host build {self.arch}"
                          + (" --stock" if self.stock else ""), status=1)
        name = self.arch + ("-stock" if self.stock else "")
        tools = [] if self.kind.native else [str(self.emulator()), str(self.sysroot())]
        mark = cache.stamp(name, *tools, *(str(p) for p in parts), UNAME, Path(__file__))
        entry = cache.find("host", name, mark) or \
            cache.get("host", name, mark, lambda _w, o: self._assemble(parts, o),
                      what=f"laying out host {name}")
        return entry / "bin"

    def environment(self) -> dict[str, str]:
        """The environment of a program on this host."""
        result = {**os.environ, "PATH": f"{self.bin()}:{os.environ.get('PATH', '')}",
                  "QUASAR_HOST": self.arch, "QUASAR_CACHE": str(cache.root())}
        result.pop("QEMU_PAGESIZE", None)
        if not self.kind.native:
            result["QEMU_PAGESIZE"] = str(PAGE_BYTES[self.page_size])
        return result

    def command(self, argv: list[str]) -> tuple[list[str], dict[str, str]]:
        """Return argv and environment that run a program of this host, as that very process."""
        environment = self.environment()
        program = shutil.which(argv[0], path=environment["PATH"])
        if not program:
            raise Failure(f"{argv[0]}: no such program on host {self.name}", status=127)
        words = [program, *argv[1:]]
        if not self.kind.native and _is_elf_of(Path(program), self.kind):
            words = [str(self.emulator()), "-L", str(self.sysroot()), *words]
        return words, environment

    def run(self, argv: list[str], **keywords) -> subprocess.CompletedProcess:
        words, environment = self.command(argv)
        return subprocess.run(words, env=environment, check=False, **keywords)


def _is_elf_of(program: Path, arch: Arch) -> bool:
    """Whether PROGRAM is a binary of a foreign architecture: the kernel cannot run it."""
    with open(program, "rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return False
    order = "<" if head[5] == 1 else ">"
    machine = struct.unpack(order + "H", head[18:20])[0]
    return machine == arch.elf_machine and (order == "<") == arch.elf_little


def describe(arch: str) -> dict[str, object]:
    """What `host list` tells of an architecture."""
    host = Host(arch)
    built = {}
    for stock in (False, True):
        guests = [g for g in GUESTS if qemubuild.find_system(host.kind, [g], stock)]
        built["stock" if stock else "quasar"] = guests
    return {"arch": arch, "byte_order": host.kind.byte_order,
            "page_sizes": list(host.kind.page_sizes),
            "runs": "natively" if host.kind.native else "under user-mode emulation",
            "built": built, "own_tools": bool(own.find_installed(host.kind))}
