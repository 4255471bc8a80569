# SPDX-License-Identifier: GPL-2.0-or-later
"""Bare guests: small programs of our own, linked to run without anything below them."""

from pathlib import Path

import cache
from say import run

SOURCES = Path(__file__).resolve().parents[1]

TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu",
            "ppc64": "powerpc64le-linux-gnu", "s390x": "s390x-linux-gnu"}

START = {"x86_64": 0x200000, "aarch64": 0x40200000, "ppc64": 0, "s390x": 0x100000}

FLAGS = {"x86_64": ["-mgeneral-regs-only", "-mno-red-zone", "-Wl,--oformat=binary"],
         "aarch64": ["-mgeneral-regs-only", "-mstrict-align"],
         "ppc64": ["-mbig-endian", "-mabi=elfv2", "-mcpu=power8", "-mno-vsx", "-mno-altivec",
                   "-mcmodel=medium"],
         "s390x": ["-march=zEC12", "-msoft-float"]}

CFLAGS = ["-std=gnu11", "-O2", "-ffreestanding", "-fno-pic", "-no-pie", "-static", "-nostdlib",
          "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
          "-fno-tree-loop-distribute-patterns", "-Wl,--build-id=none", "-Wl,-z,norelro",
          "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments", "-Wall", "-Wextra", "-Wshadow",
          "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wwrite-strings", "-Werror"]


def compile_bare(arch: str, work: Path, output: Path) -> None:
    bare = SOURCES / "bare"
    flags = [f for f in CFLAGS if arch == "x86_64" or not f.startswith("-fcf-protection")]
    run([f"{TRIPLETS[arch]}-gcc", *flags, *FLAGS[arch], "-I", SOURCES / "x86",
         "-T", bare / "bare.ld", f"-Wl,--defsym=BARE_START={START[arch]:#x}", "-o", output,
         bare / f"{arch}.S", bare / f"{arch}.c", bare / "main.c"],
        log=work / "bare.log", what=f"compiling the bare guest for {arch}")


def build(arch: str) -> Path:
    """The folder of a bare guest: kernel."""
    mark = cache.stamp(SOURCES / "bare", SOURCES / "x86", SOURCES / "make" / "bare.py")
    return cache.get("guest", f"bare-{arch}", mark,
                     lambda work, output: compile_bare(arch, work, output / "kernel"),
                     what=f"making the guest bare-{arch}")
