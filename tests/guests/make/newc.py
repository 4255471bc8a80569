# SPDX-License-Identifier: GPL-2.0-or-later
"""Write cpio archives in the "newc" format, the same bytes for the same contents."""

import stat
from pathlib import Path

TRAILER = "TRAILER!!!"


def _entry(number: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
    record = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    record += b"\0" * (-len(record) % 4)
    return record + data + b"\0" * (-len(data) % 4)


class Archive:
    """Files by path; folders above them are added, and everything is sorted when written."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        self._add(path, stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def _add(self, path: str, mode: int, data: bytes = b"",
             device: tuple[int, int] = (0, 0)) -> None:
        path = path.strip("/")
        for parent in reversed(Path(path).parents):
            if str(parent) != "." and str(parent) not in self._entries:
                self._entries[str(parent)] = (stat.S_IFDIR | 0o755, b"", (0, 0))
        self._entries[path] = (mode, data, device)

    def data(self) -> bytes:
        parts = [_entry(number, name, mode, data, device)
                 for number, (name, (mode, data, device))
                 in enumerate(sorted(self._entries.items()), 1)]
        parts.append(_entry(0, TRAILER, 0, b"", (0, 0)))
        whole = b"".join(parts)
        return whole + b"\0" * (-len(whole) % 512)


def read(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Parse an archive into {name: (mode, data)}; ValueError when it is not well-formed."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        head = archive[at:at + 110]
        if len(head) < 110 or head[:6] != b"070701":
            raise ValueError(f"no newc header at {at}")
        fields = [int(head[6 + 8 * i:14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110:at + 110 + name_size - 1].decode()
        data_at = at + 110 + name_size + (-(110 + name_size) % 4)
        if data_at + size > len(archive):
            raise ValueError(f"{name} ends behind the archive's end")
        if name == TRAILER:
            return found
        found[name] = (fields[1], archive[data_at:data_at + size])
        at = data_at + size + (-size % 4)
