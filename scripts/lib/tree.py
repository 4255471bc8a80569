# SPDX-License-Identifier: GPL-2.0-or-later
"""The fork's source tree: the pinned base, the patch series and our own files.

    base (qemu/UPSTREAM)  ->  prepare()  ->  patches/GROUP/*.patch in order  ->  overlay/
                                                              and quasar/wire, the stream format

Three variants come from one base: quasar (the portability and hooks groups and the overlay),
stock (nothing: the peer that tests and benchmarks run beside) and emulator (the emulator group:
user-mode emulators that stand in for hosts of other architectures).
"""

import re
import shutil
import subprocess
from pathlib import Path

import cache
import upstream
from say import Failure

TOP = upstream.TOP
PATCHES = TOP / "qemu" / "patches"
OVERLAY = TOP / "qemu" / "overlay"
# Compiled into QEMU as well; the same paths in the tree.
SHARED = ("quasar/wire/*.[ch]", "net-relay/protocol.h")
GROUPS = {"quasar": ("portability", "hooks"), "stock": (), "emulator": ("emulator",)}


def patches(variant: str) -> list[Path]:
    return [p for group in GROUPS[variant] for p in sorted((PATCHES / group).glob("*.patch"))]


def _shared() -> list[Path]:
    return [file for pattern in SHARED for file in sorted(TOP.glob(pattern))]


def stamp(variant: str) -> str:
    """Name everything a tree of this variant is made from."""
    parts: list[str | Path] = [variant, upstream.FILE, Path(__file__), *patches(variant)]
    if variant == "quasar":
        parts += [OVERLAY, *_shared()]
    return cache.stamp(*parts)


def patch_level() -> int:
    return len(patches("quasar"))


def unpack(tarball: Path, into: Path) -> None:
    """Unpack without the firmware sources, which nothing here builds."""
    done = subprocess.run(["tar", "-xf", tarball, "-C", into, "--strip-components=1",
                           "--exclude=*/roms/*/*", "--no-same-owner"],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{tarball.name} cannot be unpacked: {done.stderr.strip()[:200]}")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        raise Failure(f"the base's {path.name} is not as expected: it lacks {old!r}")
    path.write_text(text.replace(old, new))


def prepare(tree: Path) -> None:
    """Make the base build from Debian's firmware-free tarball and on Debian 12.

    Firmware comes from the distribution's packages (scripts/lib/firmware.py), so there is none
    to unpack; pycotap serves QEMU's functional tests alone and Debian 12 has no package of it.
    """
    _replace(tree / "meson.build", "unpack_edk2_blobs = bzip2.found()",
             "unpack_edk2_blobs = false")
    toml = tree / "pythondeps.toml"
    toml.write_text(re.sub(r"^pycotap = .*\n", "", toml.read_text(), flags=re.M))


def apply_patch(tree: Path, patch: Path) -> str:
    """Apply one patch; return what patch(1) said. Offsets are fine, fuzz is not."""
    done = subprocess.run(["patch", "-p1", "-F0", "--force", "--no-backup-if-mismatch",
                           "-i", patch], cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        wrong = [line for line in done.stdout.splitlines() if "FAILED" in line or "find" in line]
        raise Failure(f"{patch.relative_to(TOP)} does not apply: {'; '.join(wrong[:3])}",
                      "scripts/qemu-tree edit helps to mend it; docs/fork.rst tells how")
    return done.stdout


def copy_overlay(tree: Path) -> None:
    """Add our own files, and the sources that the fork shares with the tools."""
    for file in _shared():
        target = tree / file.relative_to(TOP)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for file in sorted(OVERLAY.rglob("*")):
        if not file.is_file():
            continue
        target = tree / file.relative_to(OVERLAY)
        if target.exists():
            raise Failure(f"overlay file {file.relative_to(TOP)} would replace a file of the base",
                          "existing files are changed by a patch")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def make(variant: str, into: Path) -> None:
    """Make a tree of this variant in the empty folder INTO."""
    into.mkdir(parents=True, exist_ok=True)
    unpack(upstream.tarball(), into)
    prepare(into)
    for patch in patches(variant):
        apply_patch(into, patch)
    if variant == "quasar":
        copy_overlay(into)
