# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on a disk that arrived, seen from outside by the tools of its file system.

The guest has frozen its file system before it was ended (crossing.py): everything is in its place
and the journal is empty.  So the image is checked as it lies there, nothing is replayed, and a
journal that holds something is a fault of its own.  Nothing here writes to an image or mounts it.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

TOOLS = "/usr/sbin:/sbin"               # not on everybody's PATH
REPLAY = "skipping journal recovery"    # what e2fsck says of a journal with content
OWNERSHIP = "changing ownership"        # which nobody but root may, and nobody needs
SHOWN = 12                              # lines, of what a tool complains about
CHUNK = 1 << 20


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Run one of e2fsprogs; what its status means is for the caller to know."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{TOOLS}")
    assert program, f"{name} is not installed; scripts/bootstrap does it (e2fsprogs)"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False,
                          errors="replace", stdin=subprocess.DEVNULL,
                          env={**os.environ, "LC_ALL": "C"})


def faults(image: Path) -> list[str]:
    """Say what e2fsck finds wrong, without mending it."""
    done = tool("e2fsck", "-fn", image)
    said = (done.stdout + done.stderr).strip()
    if done.returncode == 0 and REPLAY not in said:
        return []
    tail = "\n    ".join(said.splitlines()[-SHOWN:])
    return [f"e2fsck ended with status {done.returncode}:\n    {tail}"]


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            found.update(block)
    return found.hexdigest()


def _ask(image: Path, request: str) -> None:
    """Have debugfs read something, without the bitmaps, which a journal may be ahead of.

    It writes its version to stderr, and complaints, with a status of 0.
    """
    done = tool("debugfs", "-c", "-R", request, image)
    said = [line for line in done.stderr.splitlines()[1:] if OWNERSHIP not in line]
    assert done.returncode == 0 and not said, f"debugfs: {request}: {' '.join(said[:SHOWN])}"


def digest(image: Path, file: str, folder: Path) -> str:
    """Return the SHA-256 of a file in the image; FOLDER is for a copy of it."""
    copy = folder / "file"
    copy.unlink(missing_ok=True)
    _ask(image, f"dump {file} {copy}")
    assert copy.exists(), f"the image has no file {file}"
    try:
        return _digest(copy)
    finally:
        copy.unlink()


def contents(image: Path, top: str, folder: Path) -> dict[str, str]:
    """Return what each file and link below TOP holds; FOLDER is for a copy of them."""
    copy = folder / "tree"
    copy.mkdir()
    try:
        _ask(image, f"rdump {top} {copy}")
        found = {}
        for path in sorted(copy.rglob("*")):
            name = str(path.relative_to(copy))
            if path.is_symlink():
                found[name] = f"-> {os.readlink(path)}"
            elif path.is_file():
                found[name] = _digest(path)
        return found
    finally:
        shutil.rmtree(copy)


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Say which files are not what they were."""
    names = sorted(name for name in before.keys() | after.keys()
                   if before.get(name) != after.get(name))
    if not names:
        return []
    return [f"{len(names)} files differ from those of the frozen guest: "
            + " ".join(names[:SHOWN])]
