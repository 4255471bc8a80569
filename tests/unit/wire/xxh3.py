# SPDX-License-Identifier: GPL-2.0-or-later
"""XXH3, 64 bits, seed 0: the checksum of the stream format, slow and portable."""

from __future__ import annotations

M64 = (1 << 64) - 1
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MX_1, MX_2 = 0x165667919E3779F9, 0x9FB21C651E98DF25

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & M64


def _fold(a: int, b: int) -> int:
    product = a * b
    return (product & M64) ^ (product >> 64)


def _finish_short(h: int) -> int:
    h = (h ^ h >> 33) * P64_2 & M64
    h = (h ^ h >> 29) * P64_3 & M64
    return h ^ h >> 32


def _finish(h: int) -> int:
    h = (h ^ h >> 37) * MX_1 & M64
    return h ^ h >> 32


def _mix16(data: bytes, at: int, key: int) -> int:
    return _fold(
        _u64(data, at) ^ _u64(SECRET, key), _u64(data, at + 8) ^ _u64(SECRET, key + 8)
    )


def _up_to_16(data: bytes) -> int:
    n = len(data)
    if n > 8:
        low = _u64(data, 0) ^ _u64(SECRET, 24) ^ _u64(SECRET, 32)
        high = _u64(data, n - 8) ^ _u64(SECRET, 40) ^ _u64(SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _finish((n + swapped + high + _fold(low, high)) & M64)
    if n >= 4:
        both = _u32(data, n - 4) + (_u32(data, 0) << 32)
        h = both ^ _u64(SECRET, 8) ^ _u64(SECRET, 16)
        h ^= _rotate(h, 49) ^ _rotate(h, 24)
        h = h * MX_2 & M64
        h = (h ^ (h >> 35) + n) * MX_2 & M64
        return h ^ h >> 28
    if n > 0:
        mixed = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return _finish_short(mixed ^ _u32(SECRET, 0) ^ _u32(SECRET, 4))
    return _finish_short(_u64(SECRET, 56) ^ _u64(SECRET, 64))


def _up_to_128(data: bytes) -> int:
    n = len(data)
    acc = n * P64_1
    for i in reversed(range((n - 1) // 32 + 1)):
        acc += _mix16(data, 16 * i, 32 * i)
        acc += _mix16(data, n - 16 * (i + 1), 32 * i + 16)
    return _finish(acc & M64)


def _up_to_240(data: bytes) -> int:
    n = len(data)
    acc = n * P64_1 + sum(_mix16(data, 16 * i, 16 * i) for i in range(8))
    acc = _finish(acc & M64)
    acc += sum(_mix16(data, 16 * i, 16 * (i - 8) + 3) for i in range(8, n // 16))
    acc += _mix16(data, n - 16, 136 - 17)
    return _finish(acc & M64)


def _accumulate(acc: list[int], data: bytes, at: int, key: int) -> None:
    for i in range(8):
        value = _u64(data, at + 8 * i)
        keyed = value ^ _u64(SECRET, key + 8 * i)
        acc[i ^ 1] = (acc[i ^ 1] + value) & M64
        acc[i] = (acc[i] + (keyed & 0xFFFFFFFF) * (keyed >> 32)) & M64


def _scramble(acc: list[int]) -> None:
    for i in range(8):
        acc[i] = (acc[i] ^ acc[i] >> 47 ^ _u64(SECRET, 128 + 8 * i)) * P32_1 & M64


def _long(data: bytes) -> int:
    n = len(data)
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    # Stripes of 64 bytes, 16 a block; the last bytes are a stripe of their own.
    for stripe in range((n - 1) // 64):
        _accumulate(acc, data, 64 * stripe, 8 * (stripe % 16))
        if stripe % 16 == 15:
            _scramble(acc)
    _accumulate(acc, data, n - 64, 128 - 7)
    h = n * P64_1
    for i in range(4):
        at = 11 + 16 * i
        h += _fold(acc[2 * i] ^ _u64(SECRET, at), acc[2 * i + 1] ^ _u64(SECRET, at + 8))
    return _finish(h & M64)


def xxh3_64(data: bytes) -> int:
    """The checksum of data as an unsigned number."""
    if len(data) <= 16:
        return _up_to_16(data)
    if len(data) <= 128:
        return _up_to_128(data)
    if len(data) <= 240:
        return _up_to_240(data)
    return _long(data)
