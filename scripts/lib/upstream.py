# SPDX-License-Identifier: GPL-2.0-or-later
"""The pinned QEMU release: reads qemu/UPSTREAM, finds the tarball and verifies it."""

import hashlib
import lzma
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import cache
import debian
from say import Failure, note

TOP = Path(__file__).resolve().parents[2]
FILE = TOP / "qemu" / "UPSTREAM"
BROKEN = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)
DOWNLOAD_LIMIT = 400 << 20


@dataclass
class Upstream:
    version: str = ""
    content: str = ""
    content_folders: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    sources: list[list[str]] = field(default_factory=list)


def read(path: Path = FILE) -> Upstream:
    pinned = Upstream()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "version" and len(words) == 2:
            pinned.version = words[1]
        elif words[0] == "sha256" and len(words) >= 2:
            pinned.hashes[words[1]] = " ".join(words[2:])
        elif words[0] == "content" and len(words) > 2:
            pinned.content, pinned.content_folders = words[1], words[2:]
        elif words[0] == "name" and len(words) == 2:
            pinned.names.append(words[1])
        elif words[0] == "source" and len(words) >= 2:
            pinned.sources.append(words[1:])
        else:
            raise Failure(f"{path.name}, line {number} is not understood: {line}")
    return pinned


def content_digest(tarball: Path, folders: list[str]) -> str:
    """Hash the files below FOLDERS: equal for every packing of the same release."""
    rows = []
    try:
        with tarfile.open(tarball) as archive:
            for member in archive:
                _, _, name = member.name.partition("/")
                if member.isfile() and name.split("/")[0] in folders:
                    reader = archive.extractfile(member)
                    assert reader is not None
                    rows.append(f"{hashlib.sha256(reader.read()).hexdigest()}  {name}\n")
    except BROKEN as error:
        raise Failure(f"{tarball.name} is no readable tarball: {error}") from error
    return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()


def version_of(tarball: Path) -> str:
    """Read the release's number from its VERSION file."""
    try:
        with tarfile.open(tarball) as archive:
            for member in archive:
                if member.name.partition("/")[2] == "VERSION":
                    reader = archive.extractfile(member)
                    return reader.read(64).decode(errors="replace").strip() if reader else ""
    except BROKEN as error:
        raise Failure(f"{tarball.name} is no readable tarball: {error}") from error
    raise Failure(f"{tarball.name} holds no QEMU: it has no VERSION file")


def verify(tarball: Path, pinned: Upstream, *, trusted: bool = False) -> str:
    """Say which accepted tarball this is, or fail; TRUSTED: apt has authenticated it."""
    digest = cache.sha256(tarball)
    if digest in pinned.hashes:
        return pinned.hashes[digest]
    if pinned.content and content_digest(tarball, pinned.content_folders) == pinned.content:
        return "another packing of the same release"
    series = pinned.version.rsplit(".", 1)[0]
    found = re.match(rf"qemu[-_]({re.escape(series)}\.\d+)", tarball.name)
    if trusted and found:
        note(f"the package manager offers QEMU {found.group(1)} in place of {pinned.version}; "
             "it is accepted, the patches may not apply")
        return f"QEMU {found.group(1)}, authenticated by the package manager"
    raise Failure(f"{tarball.name} is not QEMU {pinned.version}: its SHA-256 is {digest}",
                  f"accepted hashes stand in qemu/{FILE.name}")


def _from_url(url: str, work: Path) -> list[Path]:
    target = work / url.rsplit("/", 1)[1]
    with urllib.request.urlopen(url, timeout=30) as reply, open(target, "wb") as file:
        received = 0
        while block := reply.read(1 << 20):
            received += len(block)
            if received > DOWNLOAD_LIMIT:
                raise OSError("it is larger than any QEMU release")
            file.write(block)
    return [target]


def _look(source: list[str], names: list[str], work: Path) -> list[Path]:
    """Return the candidates of one source line."""
    kind, *rest = source
    if kind == "file":
        given = os.environ.get("QUASAR_QEMU_TARBALL")
        if given and not Path(given).is_file():
            raise Failure(f"QUASAR_QEMU_TARBALL names no file: {given}")
        return [Path(given)] if given else []
    if kind == "folder":
        folder = Path(rest[0].replace("$QUASAR_CACHE", str(cache.root())))
        return [p for n in names if (p := (TOP / folder) / n).is_file()]
    if kind == "apt":
        files = debian.Apt("amd64", rest[0], "deb-src").source(rest[1], work)
        return [f for f in files if ".orig.tar" in f.name and not f.name.endswith(".asc")]
    if kind == "url":
        return _from_url(rest[0], work)
    raise Failure(f"qemu/{FILE.name} names an unknown kind of source: {kind}")


def _take(candidate: Path, source: list[str], pinned: Upstream, output: Path) -> None:
    which = verify(candidate, pinned, trusted=source[0] == "apt")
    shutil.copyfile(candidate, output / "qemu.tar.xz")
    (output / "origin").write_text(f"{which}\n")


def _fetch(pinned: Upstream, work: Path, output: Path) -> None:
    """Take the first candidate that can be verified; say what was wrong with the others."""
    tried = []
    for source in pinned.sources:
        place = " ".join(source)
        try:
            candidates = _look(source, pinned.names, work)
        except (Failure, OSError, urllib.error.URLError) as error:
            if source[0] == "file":
                raise
            tried.append(f"{place}: {error}")
            continue
        for candidate in candidates:
            try:
                _take(candidate, source, pinned, output)
                return
            except Failure as failure:
                if source[0] == "file":
                    raise
                note(f"refused: {failure}")
                tried.append(f"{place}: {failure}")
        if not candidates:
            tried.append(f"{place}: nothing there")
    raise Failure(f"no source of QEMU {pinned.version} could be used",
                  "tried in this order:\n    " + "\n    ".join(tried)
                  + "\n    set QUASAR_QEMU_TARBALL to a tarball you have")


def tarball() -> Path:
    """Return the verified tarball, fetched once into the cache."""
    pinned = read()
    mark = cache.stamp(FILE, os.environ.get("QUASAR_QEMU_TARBALL", ""))
    entry = cache.get("source", "qemu", mark, lambda w, o: _fetch(pinned, w, o),
                      what=f"fetching QEMU {pinned.version}")
    return entry / "qemu.tar.xz"
