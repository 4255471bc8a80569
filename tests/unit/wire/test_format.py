# SPDX-License-Identifier: GPL-2.0-or-later
"""The golden files, read and written by the second implementation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import quasar_format as qf
from xxh3 import xxh3_64

GOLDEN = Path(__file__).parent / "golden"
SESSION = 0x1122334455667788


@dataclass
class Stream:
    """A stream of a golden file and what is to be found in it."""

    name: str
    expect: str = ""
    data: bytearray = field(default_factory=bytearray)


def load(name: str) -> list[Stream]:
    """The streams of golden/NAME.hex."""
    streams: list[Stream] = []
    for line in (GOLDEN / f"{name}.hex").read_text().splitlines():
        if line.startswith("stream "):
            streams.append(Stream(line[7:]))
        elif line.startswith("expect "):
            streams[-1].expect = line[7:]
        elif line and not line.startswith("#"):
            streams[-1].data += bytes.fromhex(line)
    return streams


ALL = [s for name in ("good", "future", "compressed", "bad") for s in load(name)]
BY_NAME = {s.name: bytes(s.data) for s in ALL}


def verdict(data: bytes) -> str:
    """The stream's verdict in the words of the golden files."""
    count = 0
    try:
        for _ in qf.read_stream(data, SESSION):
            count += 1
    except qf.FormatFault as fault:
        return f"{fault.name} {count}"
    except qf.NoZstd as fault:
        pytest.skip(f"libzstd is not here: {fault}")
    return f"ok {count}"


def frames(name: str) -> list[qf.Frame]:
    """The frames of a good stream."""
    try:
        return list(qf.read_stream(BY_NAME[name], SESSION))
    except qf.NoZstd as fault:
        pytest.skip(f"libzstd is not here: {fault}")


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ALL) > 40


@pytest.mark.parametrize("stream", ALL, ids=lambda s: s.name)
def test_verdict(stream: Stream) -> None:
    assert verdict(bytes(stream.data)) == stream.expect


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0x2D06800538D394C2),
        (b"a", 0xE6C632B61E964E1F),
        (b"abc", 0x78AF5F94892F3950),
    ],
)
def test_checksum(data: bytes, value: int) -> None:
    assert xxh3_64(data) == value


def kv_frame(name: str, sequence: int, payload: bytes, lane: int = 0) -> bytes:
    """A frame with a key/value payload."""
    return qf.pack_frame(qf.Header(qf.NUMBER[name], SESSION, sequence, lane=lane), payload)


def hello_payload() -> bytes:
    """What every-type says in its HELLO."""
    entries: dict[str, int | str | bytes] = {
        "wire.version-min": 1,
        "wire.version-max": 1,
        "wire.lanes": 4,
        "wire.payload-max": 1 << 20,
        "wire.ring-bytes": 64 << 20,
        "vm.name": "caf\u00e9\t1\nline 2",
        "vm.note": "",
        "vm.digest": b"\x00\xff\x80\x7f",
        "vm.page-size": 65536,
        "vm.largest": (1 << 64) - 1,
    }
    return qf.pack_kv(entries, required=("vm.page-size",))


def test_write_every_type() -> None:
    refuse = {"refuse.what": "no room", "refuse.state": "at source", "refuse.hint": "free some"}
    resume = qf.pack_kv({"resume.generation": 2, "resume.next": 0x0102030405060708})
    marks = bytes(8) + SESSION.to_bytes(8, "little")
    marks += b"\x03" + bytes(7) + b"\x01" + bytes(7)
    token = bytes([1, 2, 3, 4, 5, 6, 7, 0x88])
    out = kv_frame("HELLO", 0, hello_payload())
    out += kv_frame("HELLO_REPLY", 0, qf.pack_kv({"wire.version": 1}))
    out += kv_frame("REFUSE", 0, qf.pack_kv(refuse))
    out += kv_frame("RESUME", 0, resume, lane=3)
    out += kv_frame("RESUME_REPLY", 0, resume, lane=3)
    out += qf.pack_frame(qf.Header(qf.NUMBER["ACK"], SESSION), marks)
    out += qf.pack_frame(qf.Header(qf.NUMBER["PING"], SESSION), token)
    out += qf.pack_frame(qf.Header(qf.NUMBER["PONG"], SESSION), token)
    disk = qf.Header(qf.NUMBER["DATA"], SESSION, 1, flags=3, stream=17, offset=0x0123456789)
    out += qf.pack_frame(disk, b"hello, disk")
    for i, name in enumerate(("STAGE", "VOTE", "COMMIT", "ABORT", "RUNNING", "BYE")):
        out += kv_frame(name, i + 2, b"")
    assert out == BY_NAME["every-type"]


SIZES = [0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 512, 1024, 1025, 1088, 1089, 2500, 5000]


def test_write_sizes() -> None:
    out, offset = b"", 0
    for i, size in enumerate(SIZES):
        payload = bytes((n * 131 + (n >> 8) * 17) & 0xFF for n in range(size))
        flags = qf.REQUIRED | (qf.END if i + 1 == len(SIZES) else 0)
        header = qf.Header(9, SESSION, i + 1, flags=flags, stream=1, offset=offset)
        out += qf.pack_frame(header, payload)
        offset += size
    assert out == BY_NAME["sizes"]


def test_write_longer_header() -> None:
    out = b""
    for sequence, kind, length in ((1, "STAGE", 88), (2, "BYE", 512)):
        tail = bytes((0xE0 + i) & 0xFF for i in range(length - 64))
        out += qf.pack_frame(qf.Header(qf.NUMBER[kind], SESSION, sequence), b"", tail)
    assert out == BY_NAME["longer-header"]


def test_read_hello() -> None:
    hello = qf.unpack_kv(frames("every-type")[0].payload)
    assert hello["vm.name"] == "caf\u00e9\t1\nline 2"
    assert hello["vm.largest"] == (1 << 64) - 1
    assert hello["vm.digest"] == b"\x00\xff\x80\x7f"
    assert hello["vm.note"] == ""


def test_stream_is_whole() -> None:
    offset = 0
    for frame in frames("sizes"):
        assert frame.header.offset == offset
        offset += len(frame.payload)
    assert offset == sum(SIZES)


def test_unpacked() -> None:
    by_hand = [frame.payload for frame in frames("by-hand")]
    assert by_hand == [b"abcd" + b"z" * 60, b"y" * 300]
    lines = b"".join(b"line %02d of the text\n" % i for i in range(20))
    assert [frame.payload for frame in frames("real")] == [lines]


def test_every_truncation() -> None:
    data = BY_NAME["every-type"]
    good = [n for n in range(len(data)) if verdict(data[:n]).startswith("ok")]
    assert len(good) == 15
    assert all(verdict(data[:n]).startswith("TRUNCATED") for n in range(len(data)) if n not in good)


def test_every_flipped_bit_of_a_frame() -> None:
    data = qf.pack_frame(qf.Header(9, SESSION, 1, stream=1), b"abc")
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        assert not verdict(bytes(altered)).startswith("ok")
