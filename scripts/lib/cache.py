#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The build cache: folders named by a stamp over everything they were made from.

Theory of operation.  An entry lives in ROOT/KIND/NAME-STAMP and is complete when, and only
when, its manifest ROOT/KIND/NAME-STAMP.manifest exists.  It is made in ROOT/work under an
exclusive lock, moved into place by one rename, and its manifest is written last: a build that
was killed leaves no entry, only a work folder that the next build of anything removes.  Two
builds of the same entry meet at the lock; the second finds the first one's work and takes it.
The manifest lists each file with size, time and SHA-256.  Users of an entry compare sizes and
times (fast, notices truncation and edits); builders compare the contents too, and make a
damaged entry anew.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from say import Failure, note, step

_compare_contents = True        # what get() does with an entry that is there
KEEP = 6          # entries of one name kept; the least recently used ones beyond are dropped


def root() -> Path:
    if given := os.environ.get("QUASAR_CACHE"):
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quasar"


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stamp(*parts: str | Path) -> str:
    """Hash strings, files and (recursively) folders into a short name."""
    digest = hashlib.sha256()

    def add(text: str) -> None:
        digest.update(f"{len(text)}:{text}".encode())

    for part in parts:
        if isinstance(part, str):
            add(part)
            continue
        for file in [part] if part.is_file() else sorted(part.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                mode = "x" if os.access(file, os.X_OK) else "-"
                where = "" if file == part else str(file.relative_to(part))
                add(f"{where} {mode} {sha256(file)}")
    return digest.hexdigest()[:16]


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a named lock; say so when somebody else has it."""
    path = root() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"waiting for another build of {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted(files + [d for d in folders if (Path(folder) / d).is_symlink()]):
            yield Path(folder) / name


def _describe(top: Path, contents: bool) -> dict[str, list]:
    table = {}
    for path in _walk(top):
        info = path.lstat()
        if path.is_symlink():
            row = ["link", os.readlink(path)]
        else:
            row = [info.st_size, info.st_mtime_ns] + ([sha256(path)] if contents else [])
        table[str(path.relative_to(top))] = row
    return table


def _damage(entry: Path, manifest: Path, contents: bool) -> str | None:
    """Name the first difference between an entry and its manifest."""
    try:
        wanted = json.loads(manifest.read_text())
    except (ValueError, OSError) as error:
        return f"its manifest cannot be read ({error})"
    if not isinstance(wanted, dict):
        return "its manifest is no table"
    found = _describe(entry, contents)
    for name in wanted.keys() | found.keys():
        if name not in found:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} was not there when it was built"
        if not _same(entry / name, found[name], wanted[name]):
            return f"{name} was changed"
    return None


def _same(path: Path, found: list, wanted: list) -> bool:
    """Compare what is found of a file with its row; where times alone differ, the hash decides."""
    if found == wanted[:len(found)]:
        return True
    if found[0] != wanted[0] or "link" in (found[0], wanted[0]) or len(wanted) < 3:
        return False
    return (found[2] if len(found) > 2 else sha256(path)) == wanted[2]


def find(kind: str, name: str, mark: str, *, contents: bool = False) -> Path | None:
    """Return a complete, undamaged entry or None; with CONTENTS every byte is compared."""
    entry = root() / kind / f"{name}-{mark}"
    manifest = entry.with_name(entry.name + ".manifest")
    if not manifest.exists():
        return None
    if problem := _damage(entry, manifest, contents):
        note(f"the cached {kind} {name} is damaged: {problem}; it will be made again")
        return None
    with suppress(FileNotFoundError):       # another build may just have dropped it
        os.utime(manifest)
    return entry


@contextmanager
def in_use() -> Iterator[None]:
    """While programs are run rather than built, entries are checked by sizes and times alone."""
    global _compare_contents
    before, _compare_contents = _compare_contents, False
    try:
        yield
    finally:
        _compare_contents = before


def _sweep() -> None:
    """Remove the work folders of builds that were killed: those whose lock nobody holds."""
    for work in (root() / "work").glob("*"):
        with open(root() / "locks" / f"{work.name}.lock", "a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(work, ignore_errors=True)


def _drop(entry: Path) -> None:
    entry.with_name(entry.name + ".manifest").unlink(missing_ok=True)
    shutil.rmtree(entry, ignore_errors=True)


def _prune(kind: str, name: str, keep: Path) -> None:
    """Drop the least recently used entries of a name beyond KEEP."""
    used = []
    for manifest in (root() / kind).glob(f"{name}-*.manifest"):
        with suppress(FileNotFoundError):
            if len(manifest.name) == len(keep.name) + len(".manifest"):
                used.append((manifest.stat().st_mtime, manifest))
    for _, manifest in sorted(used, reverse=True)[KEEP:]:
        _drop(manifest.with_suffix(""))


def get(kind: str, name: str, mark: str, build: Callable[[Path, Path], None], *,
        what: str = "") -> Path:
    """Return the entry, made by BUILD(work folder, output folder) when it is not there."""
    if entry := find(kind, name, mark, contents=_compare_contents):
        return entry
    entry = root() / kind / f"{name}-{mark}"
    with lock(f"{kind}-{entry.name}"):
        if ready := find(kind, name, mark, contents=True):
            return ready
        step(what or f"making {kind} {name}")
        _sweep()
        _drop(entry)
        place = root() / "work" / f"{kind}-{entry.name}"
        work = place / str(os.getpid())     # what a killed build still writes goes elsewhere
        output = work / "out"
        try:
            output.mkdir(parents=True)
            build(work, output)
            manifest = json.dumps(_describe(output, True))
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, OSError):
                raise Failure(f"making {kind} {name}: {error}") from error
            raise
        entry.parent.mkdir(parents=True, exist_ok=True)
        output.rename(entry)
        temporary = work / "manifest"
        temporary.write_text(manifest)
        temporary.rename(entry.with_name(entry.name + ".manifest"))
        shutil.rmtree(place, ignore_errors=True)
        _prune(kind, name, entry)
    return entry


if __name__ == "__main__":
    print(root())
