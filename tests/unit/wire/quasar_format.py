# SPDX-License-Identifier: GPL-2.0-or-later
"""A second implementation of the stream format, from docs/format.rst alone.

It exists to prove the specification: it shares nothing with quasar/wire, is
made for clearness and not for speed, and must agree with the golden files.
"""

from __future__ import annotations

import ctypes
import re
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from xxh3 import xxh3_64

MAGIC = b"\x89QSF"
HEADER = struct.Struct("<4sBBHHHHHQQQIIQQ")
PAYLOAD_MAX = 16 << 20
CONTROL_MAX = 64 << 10
NUMBER_MAX = (1 << 63) - 1

REQUIRED, END = 0x0001, 0x0002
NONE, ZSTD = 0, 1

# Name, number, payload, numbered?
TYPES = {
    1: ("HELLO", "kv", False),
    2: ("HELLO_REPLY", "kv", False),
    3: ("REFUSE", "kv", False),
    4: ("RESUME", "kv", False),
    5: ("RESUME_REPLY", "kv", False),
    6: ("ACK", "marks", False),
    7: ("PING", "token", False),
    8: ("PONG", "token", False),
    9: ("DATA", "bytes", True),
    10: ("STAGE", "kv", True),
    11: ("VOTE", "kv", True),
    12: ("COMMIT", "kv", True),
    13: ("ABORT", "kv", True),
    14: ("RUNNING", "kv", True),
    15: ("BYE", "kv", True),
}
NUMBER = {name: number for number, (name, _, _) in TYPES.items()}


class FormatFault(Exception):
    """What is wrong with a stream; the first argument is the fault's name."""

    @property
    def name(self) -> str:
        return str(self.args[0])


class NoZstd(Exception):
    """A compressed block, and no library here that can unpack it."""


@dataclass(frozen=True)
class Header:
    """The fields of a frame header but for the magic and its own checksum."""

    type: int
    session: int
    sequence: int = 0
    version: int = 1
    codec: int = NONE
    header_len: int = 64
    flags: int = REQUIRED
    lane: int = 0
    stream: int = 0
    offset: int = 0
    stored_len: int = 0
    plain_len: int = 0
    payload_sum: int = 0


@dataclass(frozen=True)
class Frame:
    """A verified frame; payload as stored when the type is unknown."""

    header: Header
    payload: bytes


def check(condition: bool, fault: str) -> None:
    """Raise the fault unless the condition holds."""
    if not condition:
        raise FormatFault(fault)


# -- writing ----------------------------------------------------------------


def pack_header(header: Header, tail: bytes = b"") -> bytes:
    """The bytes of a header, tail being what lies behind the first 64."""
    h = header
    fields = (MAGIC, h.version, h.codec, h.header_len, h.type, h.flags, h.lane)
    fields += (h.stream, h.session, h.sequence, h.offset)
    fields += (h.stored_len, h.plain_len, h.payload_sum)
    return HEADER.pack(*fields, xxh3_64(HEADER.pack(*fields, 0) + tail)) + tail


def pack_frame(header: Header, payload: bytes, tail: bytes = b"") -> bytes:
    """A frame whose payload travels as it is."""
    filled = replace(
        header,
        stored_len=len(payload),
        plain_len=len(payload),
        payload_sum=xxh3_64(payload),
        header_len=64 + len(tail),
    )
    return pack_header(filled, tail) + payload


def pack_kv(entries: dict[str, int | str | bytes], required: tuple[str, ...] = ()) -> bytes:
    """A key/value payload."""
    out = b""
    for key, value in sorted(entries.items()):
        if isinstance(value, int):
            kind, raw = 1, value.to_bytes(8, "little")
        elif isinstance(value, str):
            kind, raw = 2, value.encode()
        else:
            kind, raw = 3, value
        out += struct.pack("<BBHI", kind, key in required, len(key), len(raw))
        out += key.encode() + raw
    return out


# -- reading ----------------------------------------------------------------


def _header_len(data: bytes) -> int:
    have = min(len(data), len(MAGIC))
    check(data[:have] == MAGIC[:have], "MAGIC")
    check(len(data) <= 4 or data[4] == 1, "VERSION")
    check(len(data) >= 8, "TRUNCATED")
    length = int.from_bytes(data[6:8], "little")
    check(64 <= length <= 512 and length % 8 == 0, "HEADER_LENGTH")
    check(len(data) >= length, "TRUNCATED")
    return length


def _check_sizes(h: Header, known: bool, max_payload: int) -> None:
    limit = max_payload
    if known and TYPES[h.type][0] != "DATA":
        limit = min(limit, {"kv": CONTROL_MAX, "marks": 1024, "token": 8}[TYPES[h.type][1]])
    check(h.stored_len <= limit, "TOO_LARGE")
    if known:
        check(h.plain_len <= limit, "TOO_LARGE")
        least = {"marks": 16, "token": 8}.get(TYPES[h.type][1], 0)
        check(h.plain_len >= least, "SHAPE")
        check(TYPES[h.type][1] != "marks" or h.plain_len % 16 == 0, "SHAPE")


def _check_known(h: Header) -> None:
    _, shape, numbered = TYPES[h.type]
    check(h.codec == NONE or (h.codec == ZSTD and shape == "bytes"), "CODEC")
    if h.codec == NONE:
        check(h.stored_len == h.plain_len, "SHAPE")
    else:
        check(0 < h.stored_len < h.plain_len, "SHAPE")
    check(numbered == (h.sequence > 0), "SHAPE")
    if shape == "bytes":
        check(h.stream > 0, "SHAPE")
    else:
        check(h.stream == 0 and h.offset == 0 and not h.flags & END, "SHAPE")
    check(h.offset + h.plain_len <= NUMBER_MAX, "SHAPE")


def unpack_header(data: bytes, max_payload: int = PAYLOAD_MAX) -> Header:
    """Reads and verifies the header at the beginning of data."""
    length = _header_len(data)
    (_, version, codec, header_len, kind, flags, lane, stream, session, sequence, offset,
     stored_len, plain_len, payload_sum, header_sum) = HEADER.unpack_from(data)  # fmt: skip
    check(xxh3_64(data[:56] + bytes(8) + data[64:length]) == header_sum, "HEADER_SUM")
    h = Header(kind, session, sequence, version, codec, header_len, flags, lane, stream,
               offset, stored_len, plain_len, payload_sum)  # fmt: skip
    check(not flags & 0x00FC, "FLAGS")
    check(kind in TYPES or not flags & REQUIRED, "TYPE")
    check(session != 0, "SESSION")
    check(lane < 64, "LANE")
    check(sequence <= NUMBER_MAX, "SHAPE")
    _check_sizes(h, kind in TYPES, max_payload)
    if kind in TYPES:
        _check_known(h)
    return h


def _zstd_content_size(data: bytes) -> tuple[int, int]:
    """Declared size of the content, and where the blocks begin."""
    check(data[:4] == b"\x28\xb5\x2f\xfd" and len(data) > 5, "COMPRESSION")
    descriptor = data[4]
    single = descriptor >> 5 & 1
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    check(width > 0 and len(data) >= at + width, "COMPRESSION")
    size = int.from_bytes(data[at : at + width], "little")
    return size + (256 if width == 2 else 0), at + width


def _zstd_blocks(data: bytes, at: int) -> Iterator[tuple[int, int, int, int]]:
    """Kind, size, start and end of each block of the one frame that is there."""
    last = False
    while not last:
        check(len(data) >= at + 3, "COMPRESSION")
        head = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(head & 1), head >> 1 & 3, head >> 3
        check(kind < 3, "COMPRESSION")
        end = at + 3 + (1 if kind == 1 else size)
        check(len(data) >= end, "COMPRESSION")
        yield kind, size, at + 3, end
        at = end
    check(len(data) == at + (4 if data[4] & 4 else 0), "COMPRESSION")


def _zstd_by_library(data: bytes, plain_len: int) -> bytes:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as fault:
        raise NoZstd(str(fault)) from fault
    library.ZSTD_decompress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(plain_len)
    got = library.ZSTD_decompress(
        out, ctypes.c_size_t(plain_len), data, ctypes.c_size_t(len(data))
    )
    check(got == plain_len, "COMPRESSION")
    return out.raw


def unpack_zstd(data: bytes, plain_len: int) -> bytes:
    """One zstd frame: raw and repeated blocks here, others by the library."""
    size, at = _zstd_content_size(data)
    check(size <= plain_len, "BOMB")
    check(size == plain_len, "COMPRESSION")
    blocks = list(_zstd_blocks(data, at))
    if any(kind == 2 for kind, _, _, _ in blocks):
        return _zstd_by_library(data, plain_len)
    out = b""
    for kind, length, start, end in blocks:
        check(len(out) + length <= plain_len, "BOMB")
        out += data[start:end] * (length if kind == 1 else 1)
    check(len(out) == plain_len, "COMPRESSION")
    return out


def _check_string(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as fault:
        raise FormatFault("KV") from fault
    allowed = "\t\n"
    check(all(c in allowed or unicodedata.category(c) != "Cc" for c in text), "KV")
    return text


def _unpack_value(kind: int, raw: bytes) -> int | str | bytes:
    if kind == 1:
        check(len(raw) == 8, "KV")
        return int.from_bytes(raw, "little")
    return _check_string(raw) if kind == 2 else raw


def unpack_kv(data: bytes) -> dict[str, int | str | bytes]:
    """Reads a key/value payload."""
    entries: dict[str, int | str | bytes] = {}
    at, last = 0, ""
    while at < len(data):
        check(len(entries) < 256 and len(data) - at >= 8, "KV")
        kind, flags, key_len, length = struct.unpack_from("<BBHI", data, at)
        at += 8
        check(key_len + length <= len(data) - at and flags & 0xFE == 0, "KV")
        key = data[at : at + key_len].decode("latin-1")
        check(bool(re.fullmatch(r"[a-z][a-z0-9.-]{0,63}", key)) and key > last, "KV")
        check(kind != 0 and (kind <= 3 or not flags), "KV")
        raw = data[at + key_len : at + key_len + length]
        entries[key], last = _unpack_value(kind, raw), key
        at += key_len + length
    return entries


def read_stream(data: bytes, session: int) -> Iterator[Frame]:
    """The frames of one direction of one session, each as it is verified."""
    wanted: dict[int, int] = {}
    while data:
        h = unpack_header(data)
        check(h.session == session, "SESSION")
        stored = data[h.header_len : h.header_len + h.stored_len]
        check(len(stored) == h.stored_len, "TRUNCATED")
        check(xxh3_64(stored) == h.payload_sum, "PAYLOAD_SUM")
        payload = stored
        if h.type in TYPES and h.codec == ZSTD:
            payload = unpack_zstd(stored, h.plain_len)
        if TYPES.get(h.type, ("", "", 0))[1] == "kv":
            unpack_kv(payload)
        if h.sequence:
            check(h.sequence <= wanted.get(h.lane, 1), "SEQUENCE_GAP")
            wanted[h.lane] = max(wanted.get(h.lane, 1), h.sequence + 1)
        yield Frame(h, payload)
        data = data[h.header_len + h.stored_len :]
