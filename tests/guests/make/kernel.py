# SPDX-License-Identifier: GPL-2.0-or-later
"""A distribution kernel made ready to boot quickly: unpacked image, plain modules.

Under TCG a guest that unpacks its own kernel spends seconds on it, and one that checks the
signatures of its modules spends more; both are done here once, at build time.
"""

import gzip
import lzma
import re
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from say import Failure

LOAD_ADDRESS = 1 << 20      # of a bzImage's 32-bit part
MOST = 200 << 20
SIGNED = b"~Module signature appended~\n"


@dataclass
class Module:
    name: str
    path: Path
    data: bytes
    needs: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)


def _decompress(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return data


def _unsigned(data: bytes) -> bytes:
    """Drop the signature that a distribution appends to a module."""
    if not data.endswith(SIGNED):
        return data
    size = struct.unpack(">I", data[-len(SIGNED) - 4:-len(SIGNED)])[0]
    return data[:-len(SIGNED) - 12 - size]


def elf_section(data: bytes, wanted: str) -> bytes:
    """Return a section of a 64-bit ELF file of either byte order, or nothing."""
    if data[:5] != b"\x7fELF\x02":
        raise Failure("not a 64-bit ELF file")
    order = "<" if data[5] == 1 else ">"
    table = struct.unpack_from(order + "Q", data, 40)[0]
    size, count, names_index = struct.unpack_from(order + "HHH", data, 58)

    def header(index: int) -> tuple[int, int, int]:
        name, offset, length = struct.unpack_from(order + "I20xQQ", data, table + index * size)
        return name, offset, length

    names_at = header(names_index)[1]
    for index in range(count):
        name, offset, length = header(index)
        end = data.index(b"\0", names_at + name)
        if data[names_at + name:end].decode() == wanted:
            return data[offset:offset + length]
    return b""


def load_module(path: Path) -> Module:
    data = _unsigned(_decompress(path))
    module = Module(path.name.split(".ko")[0].replace("-", "_"), path, data)
    for entry in elf_section(data, ".modinfo").split(b"\0"):
        key, _, value = entry.decode(errors="replace").partition("=")
        if key == "depends":
            module.needs += [name.replace("-", "_") for name in value.split(",") if name]
        elif key == "softdep" and value.startswith("pre:"):
            module.needs += [name.replace("-", "_") for name in value[4:].split("post:")[0].split()]
        elif key == "alias":
            module.aliases.append(value)
    return module


class Modules:
    """The modules of an unpacked kernel package, found with everything they need."""

    def __init__(self, folder: Path):
        self._paths = {p.name.split(".ko")[0].replace("-", "_"): p
                       for p in folder.rglob("*.ko*")}
        self.chosen: dict[str, Module] = {}

    def add(self, name: str) -> None:
        """Choose a module and its needs; one that is built in, or does not exist, is passed."""
        if name in self.chosen or name not in self._paths:
            return
        module = load_module(self._paths[name])
        self.chosen[name] = module
        for need in module.needs:
            self.add(need)
        module.needs = [need for need in module.needs if need in self.chosen]

    def _in_order(self, name: str, done: list[str]) -> None:
        if name not in done:
            for need in self.chosen[name].needs:
                self._in_order(need, done)
            done.append(name)

    def order(self, name: str) -> list[str]:
        """NAME and its needs, needs first."""
        done: list[str] = []
        self._in_order(name, done)
        return done

    def dependencies(self) -> str:
        """A modules.dep for modprobe."""
        return "".join(f"{name}.ko: " + " ".join(f"{need}.ko" for need in
                                                 reversed(self.order(name)[:-1])) + "\n"
                       for name in sorted(self.chosen))

    def aliases(self) -> str:
        """A modules.alias for modprobe."""
        return "".join(f"alias {alias} {module.name}\n" for _, module in
                       sorted(self.chosen.items()) for alias in sorted(module.aliases))


def _payload(image: bytes) -> bytes:
    """The compressed kernel inside an x86 bzImage."""
    if image[0x202:0x206] != b"HdrS":
        raise Failure("the x86 kernel is no bzImage")
    sectors = image[0x1f1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    return image[start:start + length]


def x86_elf(image: bytes) -> bytes:
    """The unpacked ELF kernel of a bzImage."""
    payload = _payload(image)
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(payload)
    raise Failure("the kernel is packed in a way that is not known here")


def entry(elf: bytes) -> int:
    return struct.unpack_from(("<" if elf[5] == 1 else ">") + "Q", elf, 24)[0]


def x86_placed(image: bytes, elf: bytes, start: bytes) -> bytes:
    """A bzImage whose kernel needs no unpacking.

    The 16-bit part is the original's.  In place of the program that unpacks, START stands at
    1 MiB, and behind it the kernel, each segment at the address where it is to run.  (An ELF
    kernel with a PVH note would do as well, but QEMU finds no note on big-endian hosts.)
    """
    size, count = struct.unpack_from("<HH", elf, 54)
    table = struct.unpack_from("<Q", elf, 32)[0]
    flat = bytearray(start)
    for index in range(count):
        kind, _, offset, _, where, length, _ = struct.unpack_from("<IIQQQQQ", elf,
                                                                  table + index * size)
        if kind != 1 or length == 0:
            continue
        at = where - LOAD_ADDRESS
        if not len(start) <= at <= MOST - length:
            raise Failure(f"the kernel has a segment at {where:#x}")
        flat += bytes(max(0, at + length - len(flat)))
        flat[at:at + length] = elf[offset:offset + length]
    flat += bytes(-len(flat) % 16)
    setup = bytearray(image[:((image[0x1f1] or 4) + 1) * 512])
    struct.pack_into("<I", setup, 0x1f4, len(flat) // 16)
    return bytes(setup + flat)


def _zstd(payload: bytes) -> bytes:
    """Unpack with the zstd tool: Python's library has no zstd before 3.14."""
    try:
        done = subprocess.run(["zstd", "-dcq"], input=payload, capture_output=True, check=False)
    except FileNotFoundError as missing:
        raise Failure("zstd is not installed", "run scripts/bootstrap") from missing
    if not done.stdout.startswith(b"\x7fELF"):  # trailing bytes make zstd end with an error
        raise Failure("the kernel's zstd payload cannot be unpacked")
    return done.stdout


def shrink(elf: bytes) -> bytes:
    """An ELF file without its section headers and whatever lies behind its segments."""
    order = "<" if elf[5] == 1 else ">"
    table = struct.unpack_from(order + "Q", elf, 32)[0]
    size, count = struct.unpack_from(order + "HH", elf, 54)
    end = table + size * count
    for index in range(count):
        offset, length = struct.unpack_from(order + "8xQ16xQ", elf, table + index * size)
        end = max(end, offset + length)
    head = bytearray(elf[:end])
    struct.pack_into(order + "Q", head, 40, 0)
    struct.pack_into(order + "HHH", head, 58, 0, 0, 0)
    return bytes(head)


def only(folder: Path, pattern: str) -> Path:
    """The one path that matches."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Failure(f"{len(found)} files match {pattern} in the kernel package")
    return found[0]


def release(folder: Path) -> str:
    """The kernel's release, from its file name."""
    return re.sub(r"^vmlinu[xz]-", "", only(folder, "boot/vmlinu[xz]-*").name)
