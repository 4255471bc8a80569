# SPDX-License-Identifier: GPL-2.0-or-later
"""What a saved state holds, device by device: two hosts must write the same.

Theory of operation.  QEMU ends a state with a description of it in JSON: each device with its
fields, their types and sizes, in the order in which they were written.  Devices follow one
another in the state as sections: a head with the device's name, the data, a foot that repeats the
section's number.  So each device's bytes are found by walking along the description, and an
offset in them is turned back into a field's name by adding up the sizes.  Memory (the sections
that are written while the guest runs) is not in the description and is stepped over.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FULL, SUBSECTION, DESCRIPTION, FOOTER = b"\x04", b"\x05", b"\x06", b"\x7e"


class BadStream(Exception):
    """The file does not hold a state with its description."""


@dataclass(frozen=True)
class Device:
    """One device's part of a state."""

    name: str
    data: bytes
    fields: tuple[tuple[str, int, int], ...] = field(repr=False)    # path, offset, size

    def value(self, path: str) -> bytes:
        """Return the bytes of the field whose path ends so."""
        for found, start, size in self.fields:
            if found == path or found.endswith("." + path):
                return self.data[start:start + size]
        raise KeyError(f"{self.name} has no field {path}")


def _description(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the description and where it begins: it is the last thing in the file."""
    start = len(data)
    while (start := data.rfind(b"{", 0, start)) > 0:
        head = data[start - 5:start]
        if head == DESCRIPTION + struct.pack(">I", len(data) - start):
            return json.loads(data[start:]), start - 5
    raise BadStream("no description at the end")


def _walk(fields: list[dict[str, Any]], prefix: str, at: int) -> tuple[list, int]:
    found = []
    for one in fields:
        path = prefix + one["name"] + (f"[{one['index']}]" if "index" in one else "")
        size = one["size"] * one.get("array_len", 1)
        if "struct" in one and "array_len" not in one:
            inner, end = _walk_state(one["struct"], path + ".", at)
            if end == at + size:
                found += inner
                at = end
                continue
        found.append((path, at, size))
        at += size
    return found, at


def _walk_state(state: dict[str, Any], prefix: str, at: int) -> tuple[list, int]:
    """Name the fields of a device or structure, its subsections after them."""
    found, at = _walk(state.get("fields", []), prefix, at)
    for sub in state.get("subsections", []):
        name = sub["vmsd_name"]
        at += len(SUBSECTION) + 1 + len(name) + 4
        inner, at = _walk_state(sub, f"{prefix}{name}.", at)
        found += inner
    return found, at


def _find_section(data: bytes, device: dict[str, Any], at: int, limit: int) -> tuple[int, bytes]:
    """Return where the device's data begins, and its section's number."""
    name = device["name"].encode()
    head = bytes([len(name)]) + name + struct.pack(">I", device["instance_id"])
    while (at := data.find(head, at, limit)) >= 0:
        if data[at - 5:at - 4] == FULL:
            return at + len(head) + 4, data[at - 4:at]      # 4: the version
        at += 1
    raise BadStream(f"no section of {device['name']}")


def parse(data: bytes) -> dict[str, Device]:
    """Cut a state into its devices."""
    described, limit = _description(data)
    heads, at = [], 0
    for device in described["devices"]:
        start, number = _find_section(data, device, at, limit)
        heads.append((device, start, number))
        at = start
    found = {}
    for index, (device, start, number) in enumerate(heads):
        if index + 1 < len(heads):
            following = heads[index + 1][0]
            end = heads[index + 1][1] - len(following["name"]) - 1 - 8 - 5
        else:
            end = data.rindex(FOOTER + number, start, limit) + 5
        if data[end - 5:end] != FOOTER + number:
            raise BadStream(f"the section of {device['name']} has no end")
        name = f"{device['name']}/{device['instance_id']}"
        fields, _ = _walk_state(device, "", 0)
        found[name] = Device(name, data[start:end - 5], tuple(fields))
    return found


def read(path: Path) -> dict[str, Device]:
    return parse(path.read_bytes())


def differences(one: dict[str, Device], other: dict[str, Device],
                skip: tuple[str, ...] = ()) -> list[str]:
    """Name each field, as `device: field`, that two states do not have in common."""
    faults = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            faults.append(f"{name}: only in one of the two")
            continue
        left, right = one[name], other[name]
        if len(left.data) != len(right.data):
            faults.append(f"{name}: {len(left.data)} bytes and {len(right.data)}")
        elif left.data != right.data:
            faults += [f"{name}: {path}: {left.data[at:at + size][:16].hex()} and"
                       f" {right.data[at:at + size][:16].hex()}" for path, at, size in left.fields
                       if left.data[at:at + size] != right.data[at:at + size]] or [f"{name}: ?"]
    return [f for f in faults if not f.startswith(skip)]
