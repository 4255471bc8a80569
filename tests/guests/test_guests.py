# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be checked of the guests without starting one."""

import json
import shutil
import stat
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import guests
import kernel
import linux
import newc
import pytest
import qcow2
from say import Failure


def small_archive() -> newc.Archive:
    archive = newc.Archive()
    archive.file("b/two", b"22", 0o755)
    archive.file("a", b"odd")
    archive.link("b/link", "two")
    archive.character("dev/console", 5, 1)
    return archive


def test_archive_holds_what_was_put_in() -> None:
    found = newc.read(small_archive().data())
    assert list(found) == ["a", "b", "b/link", "b/two", "dev", "dev/console"]
    assert found["a"] == (stat.S_IFREG | 0o644, b"odd")
    assert found["b/two"] == (stat.S_IFREG | 0o755, b"22")
    assert found["b/link"] == (stat.S_IFLNK | 0o777, b"two")
    assert stat.S_ISDIR(found["b"][0]) and stat.S_ISCHR(found["dev/console"][0])


def test_archive_does_not_depend_on_order() -> None:
    other = newc.Archive()
    other.character("dev/console", 5, 1)
    other.link("b/link", "two")
    other.file("a", b"odd")
    other.file("b/two", b"22", 0o755)
    assert other.data() == small_archive().data()


def test_archive_is_padded_and_dateless() -> None:
    data = small_archive().data()
    assert len(data) % 512 == 0
    assert data[:6] == b"070701"
    assert data[6 + 5 * 8:6 + 6 * 8] == b"00000000"           # mtime
    assert newc.TRAILER.encode() in data


@pytest.mark.parametrize("damage", [b"", b"070702" + b"0" * 200])
def test_damaged_archive_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="no newc header"):
        newc.read(damage)


def test_truncated_archive_is_refused() -> None:
    with pytest.raises(ValueError):
        newc.read(small_archive().data()[:130])


def test_cpio_agrees(tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("cpio is not installed")
    done = subprocess.run(["cpio", "-t"], input=small_archive().data(), capture_output=True,
                          cwd=tmp_path, check=True, timeout=20)
    assert done.stdout.decode().split() == ["a", "b", "b/link", "b/two", "dev", "dev/console"]


def test_initramfs_is_deterministic(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "one.ko").write_bytes(b"module")
    (tmp_path / "release").write_text("6.0\n")
    first = linux.initramfs("x86_64", tmp_path, b"busybox", b"agent")
    assert first == linux.initramfs("x86_64", tmp_path, b"busybox", b"agent")
    found = newc.read(first)
    assert found["lib/modules/6.0/one.ko"][1] == b"module"
    assert found["init"][0] & 0o111
    assert b"modprobe -qa virtio_pci" in found["init"][1]
    assert found["bin/sh"][1] == b"busybox"


def elf(order: str, section: bytes, payload: bytes) -> bytes:
    """A 64-bit ELF file with one named section and no segments."""
    names = b"\0" + section + b"\0.shstrtab\0"
    names_at = 64 + len(payload)
    table = -(-(names_at + len(names)) // 8) * 8
    head = b"\x7fELF\x02" + (b"\1" if order == "<" else b"\2") + b"\1" + bytes(9)
    head += struct.pack(order + "HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    body = (head + payload + names).ljust(table, b"\0")
    rows = bytes(64)
    rows += struct.pack(order + "IIQQQQIIQQ", 1, 1, 0, 0, 64, len(payload), 0, 0, 1, 0)
    rows += struct.pack(order + "IIQQQQIIQQ", len(section) + 2, 3, 0, 0, names_at, len(names), 0,
                        0, 1, 0)
    return body + rows


def write_module(folder: Path, name: str, depends: str, order: str = "<") -> None:
    info = f"depends={depends}\0alias=test:{name}*\0softdep=pre: soft\0".encode()
    (folder / f"{name}.ko").write_bytes(elf(order, b".modinfo", info))


@pytest.mark.parametrize("order", ["<", ">"])
def test_modules_come_with_their_needs(tmp_path: Path, order: str) -> None:
    write_module(tmp_path, "top-one", "middle,built-in", order)
    write_module(tmp_path, "middle", "low", order)
    write_module(tmp_path, "low", "", order)
    write_module(tmp_path, "unused", "", order)
    modules = kernel.Modules(tmp_path)
    modules.add("top_one")
    modules.add("does_not_exist")
    assert set(modules.chosen) == {"top_one", "middle", "low"}
    assert modules.order("top_one") == ["low", "middle", "top_one"]
    assert "top_one.ko: middle.ko low.ko\n" in modules.dependencies()
    assert "alias test:low* low\n" in modules.aliases()


def test_module_signature_is_dropped(tmp_path: Path) -> None:
    plain = elf("<", b".modinfo", b"depends=\0")
    signature = b"s" * 300
    signed = plain + signature + bytes(8) + struct.pack(">I", len(signature)) + kernel.SIGNED
    (tmp_path / "m.ko").write_bytes(signed)
    assert kernel.load_module(tmp_path / "m.ko").data == plain


def placed_elf(where: int) -> bytes:
    head = b"\x7fELF\x02\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, where, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 120, 0, where, 4, 4, 0) + b"code"


def test_kernel_is_placed_where_it_runs() -> None:
    setup = bytearray(b"s" * 1024)
    setup[0x1f1] = 1
    image = kernel.x86_placed(bytes(setup) + b"packed", placed_elf(0x1000000), b"start")
    assert image[1024:1029] == b"start"
    at = 1024 + 0x1000000 - kernel.LOAD_ADDRESS
    assert image[at:at + 4] == b"code"
    assert struct.unpack_from("<I", image, 0x1f4)[0] * 16 == len(image) - 1024


@pytest.mark.parametrize("where", [0x1000, kernel.LOAD_ADDRESS, 1 << 40])
def test_kernel_in_an_impossible_place_is_refused(where: int) -> None:
    with pytest.raises(Failure, match="segment"):
        kernel.x86_placed(bytes(1024), placed_elf(where), b"start")


def test_unknown_kernel_image_is_refused() -> None:
    with pytest.raises(Failure, match="no bzImage"):
        kernel.x86_elf(bytes(4096))


def read_qcow2(image: Path) -> bytes:
    """Read an image by its tables, as little as that needs; checks every reference count."""
    data = image.read_bytes()
    size, = struct.unpack_from(">Q", data, 24)
    l1_size, l1_at, table_at = struct.unpack_from(">4xIQQ", data, 32)
    block_at, = struct.unpack_from(">Q", data, table_at)
    counts = struct.unpack_from(f">{len(data) // qcow2.CLUSTER}H", data, block_at)
    assert set(counts) == {1}
    out = bytearray(size)
    for i in range(l1_size):
        l2_at = struct.unpack_from(">Q", data, l1_at + 8 * i)[0] & ~qcow2.COPIED
        for k in range(qcow2.PER_TABLE if l2_at else 0):
            at = struct.unpack_from(">Q", data, l2_at + 8 * k)[0] & ~qcow2.COPIED
            place = (i * qcow2.PER_TABLE + k) * qcow2.CLUSTER
            if at:
                out[place:place + qcow2.CLUSTER] = data[at:at + qcow2.CLUSTER]
    return bytes(out)


def test_qcow2_holds_the_raw_data(tmp_path: Path) -> None:
    raw = bytearray(5 << 20)
    raw[0:3] = b"one"
    raw[3 << 20:(3 << 20) + 3] = b"two"
    raw[-1:] = b"3"
    (tmp_path / "raw").write_bytes(raw)
    qcow2.from_raw(tmp_path / "raw", tmp_path / "image")
    assert read_qcow2(tmp_path / "image") == bytes(raw)
    assert (tmp_path / "image").stat().st_size < 1 << 20


def test_qcow2_overlay_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(1 << 20))
    qcow2.from_raw(tmp_path / "raw", tmp_path / "base")
    qcow2.overlay(tmp_path / "base", tmp_path / "top")
    assert qcow2.virtual_size(tmp_path / "top") == 1 << 20
    data = (tmp_path / "top").read_bytes()
    at, length = struct.unpack_from(">QI", data, 8)
    assert data[at:at + length].decode() == str(tmp_path / "base")


def test_qcow2_passes_qemus_own_check(tmp_path: Path) -> None:
    if not shutil.which("qemu-img"):
        pytest.skip("qemu-img is not on PATH")
    (tmp_path / "raw").write_bytes(b"x" * 100000 + bytes(9 << 20))
    qcow2.from_raw(tmp_path / "raw", tmp_path / "base.qcow2")
    qcow2.overlay(tmp_path / "base.qcow2", tmp_path / "top.qcow2")
    for name in ("base.qcow2", "top.qcow2"):
        subprocess.run(["qemu-img", "check", tmp_path / name], check=True, timeout=30,
                       capture_output=True)


def test_names() -> None:
    assert guests.names() == ["linux-x86_64", "linux-aarch64", "linux-ppc64", "linux-s390x",
                              "debian-x86_64", "bare-x86_64", "bare-aarch64", "bare-ppc64",
                              "bare-s390x"]
    with pytest.raises(Failure, match="no guest linux-vax"):
        guests.split("linux-vax")


def guest(name: str, **changes) -> guests.Guest:
    kind, arch = guests.split(name)
    spec = guests.MACHINES[arch]
    made = guests.Guest(name, arch, Path("/k"), Path("/i"), "console", None, spec.machine,
                        spec.cpu, f"qemu-system-{arch}", Path("/"), has_agent=kind != "bare")
    return replace(made, **changes)


@pytest.mark.parametrize("name", guests.names())
def test_arguments_pin_machine_and_processor(name: str) -> None:
    argv = guest(name).arguments(memory_mb=300)
    machine = argv[argv.index("-machine") + 1]
    assert "-10.0" in machine.split(",")[0]
    assert argv[argv.index("-cpu") + 1] not in ("host", "max")
    assert argv[argv.index("-m") + 1] == "300"
    assert argv[argv.index("-serial") + 1] == "chardev:serial0"
    assert ("netdev=net0" in " ".join(argv)) == (not name.startswith("bare"))


def test_arguments_for_disks_and_cards(tmp_path: Path) -> None:
    one = guest("linux-s390x")
    assert "virtio-blk-ccw,id=disk0,drive=disk0" in one.arguments(disk=Path("/x/a.qcow2"))
    assert "driver=qcow2,node-name=disk0,file.driver=file,file.filename=/x/a,,b.qcow2" \
        in one.arguments(disk=Path("/x/a,b.qcow2"))
    assert "virtio-blk-ccw,id=disk0,drive=mine" in one.arguments(disk="mine")
    assert not any("netdev" in word for word in one.arguments(net=False))
    other = guest("linux-x86_64").arguments(net="e1000", agent=False, append="quiet")
    assert f"e1000,id=nic0,netdev=net0,mac={guests.MAC},romfile=" in other
    assert "console quiet" in other and not any("agent0" in word for word in other)


def test_own_disk_is_never_used_directly(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(1 << 20))
    qcow2.from_raw(tmp_path / "raw", tmp_path / "disk.qcow2")
    one = guest("debian-x86_64", disk=tmp_path / "disk.qcow2")
    with pytest.raises(Failure, match="starts from a disk"):
        one.arguments()
    top = one.overlay(tmp_path / "top.qcow2")
    assert any(str(top) in word for word in one.arguments(disk=top))


def test_command_line(tmp_path: Path) -> None:
    script = Path(guests.__file__).parents[1] / "guest"
    environment = {"PATH": "/usr/bin:/bin", "QUASAR_CACHE": str(tmp_path)}
    done = subprocess.run([script, "list", "--json"], env=environment, capture_output=True,
                          check=True, timeout=20)
    assert [row["name"] for row in json.loads(done.stdout)] == guests.names()
    done = subprocess.run([script, "build", "nonsense"], env=environment, capture_output=True,
                          check=False, timeout=20)
    assert done.returncode == 2
    assert b"there is no guest nonsense" in done.stderr and b"Traceback" not in done.stderr
