# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a state device by device, on states made here."""

import json
import struct
from typing import Any

import pytest
import vmstream


def section(number: int, name: str, data: bytes, version: int = 1) -> bytes:
    head = b"\x04" + struct.pack(">I", number) + bytes([len(name)]) + name.encode()
    return head + struct.pack(">II", 0, version) + data + b"\x7e" + struct.pack(">I", number)


def described(name: str, *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "instance_id": 0, "version": 1, "fields": list(fields), **more}


def field(name: str, size: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "uint", "size": size, **more}


def state(devices: list[dict[str, Any]], *sections: bytes) -> bytes:
    text = json.dumps({"page_size": 4096, "devices": devices}).encode()
    return b"QEVM" + b"".join(sections) + b"\0\x06" + struct.pack(">I", len(text)) + text


CLOCK = described("clock", field("hours", 1), field("ticks", 2, array_len=3))
CARD = described("card", field("regs", 3, struct={"fields": [field("a", 1), field("b", 2)]}),
                 subsections=[{"vmsd_name": "card/more", "version": 1,
                               "fields": [field("c", 1)]}])
CARD_DATA = b"\1\2\3\x05\x09card/more" + struct.pack(">I", 1) + b"\7"


def one(clock: bytes = b"\1\0\2\0\3\0\4", card: bytes = CARD_DATA) -> bytes:
    return state([CLOCK, CARD], section(3, "clock", clock), section(4, "card", card))


def test_devices_and_fields() -> None:
    devices = vmstream.parse(one())
    assert list(devices) == ["clock/0", "card/0"]
    assert devices["clock/0"].fields == (("hours", 0, 1), ("ticks", 1, 6))
    assert devices["card/0"].fields == (("regs.a", 0, 1), ("regs.b", 1, 2), ("card/more.c", 18, 1))
    assert devices["card/0"].value("c") == b"\7"
    assert devices["card/0"].value("regs.b") == b"\2\3"
    with pytest.raises(KeyError, match="card/0 has no field d"):
        devices["card/0"].value("d")


def test_data_that_looks_like_a_foot() -> None:
    """A section ends where the next one begins, whatever its data look like."""
    foot = b"\x7e" + struct.pack(">I", 3)
    assert vmstream.parse(one(clock=foot + b"\0\0"))["clock/0"].data == foot + b"\0\0"
    foot = b"\x7e" + struct.pack(">I", 4)
    last = foot + CARD_DATA[5:]
    assert vmstream.parse(one(card=last))["card/0"].data == last


def test_same_states() -> None:
    assert vmstream.differences(vmstream.parse(one()), vmstream.parse(one())) == []


def test_a_field_that_differs_is_named() -> None:
    other = vmstream.parse(one(clock=b"\1\0\2\3\0\0\4"))
    faults = vmstream.differences(vmstream.parse(one()), other)
    assert faults == ["clock/0: ticks: 000200030004 and 000203000004"]
    assert vmstream.differences(vmstream.parse(one()), other, ("clock/0: ticks",)) == []


def test_sizes_and_devices_that_differ() -> None:
    less = vmstream.parse(state([CLOCK], section(3, "clock", b"\1\0\2")))
    assert vmstream.differences(vmstream.parse(one()), less) == [
        "card/0: only in one of the two", "clock/0: 7 bytes and 3"]


def test_not_a_state() -> None:
    with pytest.raises(vmstream.BadStream, match="no description"):
        vmstream.parse(b"QEVM{}")
    with pytest.raises(vmstream.BadStream, match="no section of clock"):
        vmstream.parse(state([CLOCK]))
    with pytest.raises(vmstream.BadStream, match="has no end"):
        vmstream.parse(state([CLOCK, CARD], section(3, "clock", b"\1")[:-1],
                             section(4, "card", CARD_DATA)))
