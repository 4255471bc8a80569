# SPDX-License-Identifier: GPL-2.0-or-later
"""Write qcow2 images without a tool: whole images from raw data, and empty overlays.

Only what these two need of the format is here: version 3, 64 KiB clusters, 16-bit reference
counts.  Clusters are laid out in the order header, reference table, reference blocks, L1 table,
then each L2 table followed by its data.
"""

import struct
from pathlib import Path

CLUSTER = 1 << 16
PER_TABLE = CLUSTER // 8            # entries of an L2 or reference table cluster
PER_BLOCK = CLUSTER // 2            # counts in a reference block
COPIED = 1 << 63


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def _header(size: int, l1_entries: int, l1_at: int, table_at: int, table_clusters: int,
            backing: bytes = b"", backing_format: bytes = b"") -> bytes:
    extensions = b""
    if backing_format:
        padded = backing_format + bytes(-len(backing_format) % 8)
        extensions = struct.pack(">II", 0xe2792aca, len(backing_format)) + padded
    extensions += struct.pack(">II", 0, 0)
    backing_at = 104 + len(extensions) if backing else 0
    head = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, backing_at, len(backing), 16, size,
                       0, l1_entries, l1_at, table_at, table_clusters, 0, 0, 0, 0, 0, 4, 104)
    return (head + extensions + backing).ljust(CLUSTER, b"\0")


def _references(clusters: int) -> tuple[int, int]:
    """Clusters of the reference table and blocks that count CLUSTERS others and themselves."""
    blocks, tables = 1, 1
    while True:
        total = clusters + blocks + tables
        need_blocks = _ceil(total, PER_BLOCK)
        need_tables = _ceil(need_blocks, PER_TABLE)
        if (need_blocks, need_tables) == (blocks, tables):
            return tables, blocks
        blocks, tables = need_blocks, need_tables


def _used(raw: Path) -> list[int]:
    """The numbers of the clusters that are not all zero."""
    zero = bytes(CLUSTER)
    found = []
    with open(raw, "rb") as file:
        index = 0
        while data := file.read(CLUSTER):
            if data != zero[:len(data)]:
                found.append(index)
            index += 1
    return found


def _write_references(file, tables: int, blocks: int, total: int) -> None:
    """Cluster 1 on: the table, then the blocks; every cluster is used once."""
    first_block = (1 + tables) * CLUSTER
    table = b"".join(struct.pack(">Q", first_block + i * CLUSTER) for i in range(blocks))
    file.write(table.ljust(tables * CLUSTER, b"\0"))
    file.write((b"\0\1" * total).ljust(blocks * CLUSTER, b"\0"))


def from_raw(raw: Path, image: Path) -> None:
    """Write IMAGE with the contents of RAW; zero clusters take no room."""
    size = raw.stat().st_size
    used = _used(raw)
    l2_tables = sorted({index // PER_TABLE for index in used})
    l1_entries = _ceil(size, CLUSTER * PER_TABLE)
    l1_clusters = _ceil(l1_entries * 8, CLUSTER)
    tables, blocks = _references(1 + l1_clusters + len(l2_tables) + len(used))
    l1_at = (1 + tables + blocks) * CLUSTER
    l2_at = l1_at + l1_clusters * CLUSTER
    data_at = l2_at + len(l2_tables) * CLUSTER
    l1 = [0] * l1_entries
    for place, number in enumerate(l2_tables):
        l1[number] = (l2_at + place * CLUSTER) | COPIED
    where = {index: data_at + place * CLUSTER for place, index in enumerate(used)}
    with open(image, "wb") as file, open(raw, "rb") as source:
        file.write(_header(size, l1_entries, l1_at, CLUSTER, tables))
        _write_references(file, tables, blocks, data_at // CLUSTER + len(used))
        file.write(struct.pack(f">{l1_entries}Q", *l1).ljust(l1_clusters * CLUSTER, b"\0"))
        for number in l2_tables:
            entries = [where[i] | COPIED if i in where else 0
                       for i in range(number * PER_TABLE, (number + 1) * PER_TABLE)]
            file.write(struct.pack(f">{PER_TABLE}Q", *entries))
        for index in used:
            source.seek(index * CLUSTER)
            file.write(source.read(CLUSTER).ljust(CLUSTER, b"\0"))


def virtual_size(image: Path) -> int:
    with open(image, "rb") as file:
        return struct.unpack_from(">Q", file.read(32), 24)[0]


def overlay(base: Path, image: Path) -> None:
    """Write an empty image on top of BASE, another qcow2 image."""
    size = virtual_size(base)
    l1_entries = _ceil(size, CLUSTER * PER_TABLE)
    l1_clusters = _ceil(l1_entries * 8, CLUSTER)
    tables, blocks = _references(1 + l1_clusters)
    l1_at = (1 + tables + blocks) * CLUSTER
    name = str(base.absolute()).encode()
    if len(name) > 1023:
        raise ValueError("the base's path is too long for a qcow2 header")
    with open(image, "wb") as file:
        file.write(_header(size, l1_entries, l1_at, CLUSTER, tables, name, b"qcow2"))
        _write_references(file, tables, blocks, l1_at // CLUSTER + l1_clusters)
        file.write(bytes(l1_clusters * CLUSTER))
