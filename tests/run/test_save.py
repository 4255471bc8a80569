# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM into one file and back: what goes on, what is refused, where it is after each failure."""

import hashlib
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TOP, Launcher

sys.path.insert(0, str(TOP / "tests" / "unit" / "wire"))

from quasar_format import pack_kv, unpack_kv  # noqa: E402

BLOCK = 1 << 16
PASS = re.compile(r"pass (\d+) bad 0")
START = 1 << 20


def last_pass(launcher: Launcher, name: str) -> int:
    """The number of the latest pass over its memory that a bare guest reports."""
    launcher.good("console", name, "--until", "pass ", "--timeout", "30")
    text = "pass " + launcher.good("console", name, "--until", " bad 0\n", "--timeout", "30")
    found = PASS.findall(text.replace("\r", ""))
    return int(found[-1]) if found else last_pass(launcher, name)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse image with something at both ends."""
    path = tmp_path / "disk.img"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
        file.write(b"first")
        file.seek((64 << 20) - 4)
        file.write(b"last")
    return path


@pytest.fixture
def disk(quasar: Launcher, guest: Callable[[str], Any], image: Path) -> Launcher:
    """A VM `box` with an image."""
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--image", image)
    return quasar


def test_round_trip(disk: Launcher, image: Path, tmp_path: Path) -> None:
    """The guest counts on, every word of its memory as it was, its image the same."""
    before = last_pass(disk, "box")
    file = tmp_path / "a,b.qsvm"
    disk.good("save", "box", file)
    assert disk.state("box")["state"] == "stopped"
    assert not Path(f"{file}.partial").exists()
    assert file.stat().st_blocks * 512 < 40 << 20       # holes stay holes
    disk.good("restore", file, "--name", "again")
    assert last_pass(disk, "again") > before
    shown = disk.state("again")
    copy = Path(shown["definition"]["image"])
    assert copy == disk.root / "images" / "again" / "image0"
    assert copy.read_bytes() == image.read_bytes()
    assert copy.stat().st_blocks * 512 < 1 << 20
    original = disk.state("box")["definition"]
    assert all(shown["definition"][k] == original[k] for k in ("uuid", "mac", "machine", "memory"))


def test_firmware_goes_along(quasar: Launcher, host: Path, guest: Callable[[str], Any],
                             tmp_path: Path) -> None:
    """Firmware by path is one of the VM's files; a name stays a name."""
    qemu = (host / "qemu-system-x86_64").resolve()
    bios = qemu.parents[1] / "share" / "qemu" / "bios-256k.bin"
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--firmware", os.path.relpath(bios))
    assert quasar.state("box")["definition"]["firmware"] == os.path.abspath(bios)
    quasar.good("save", "box", tmp_path / "f")
    quasar.good("restore", tmp_path / "f", "--name", "again")
    copy = quasar.root / "images" / "again" / "firmware"
    assert quasar.state("again")["definition"]["firmware"] == str(copy)
    assert copy.read_bytes() == bios.read_bytes()
    last_pass(quasar, "again")


def test_restored_paused(bare: Launcher, tmp_path: Path) -> None:
    bare.good("save", "box", tmp_path / "f")
    bare.good("restore", tmp_path / "f", "--name", "again", "--paused")
    assert bare.state("again")["state"] == "paused"
    bare.good("start", "again")
    assert bare.state("again")["state"] == "running"


@pytest.mark.parametrize("words, status, text", [
    (["save", "web", "/tmp/f"], 1, "there is no VM"), (["save", "box"], 2, "usage"),
    (["save", "box", "/etc/passwd"], 3, "exists"),
    (["save", "box", "/nonexistent/f"], 3, "it runs here"),
    (["restore", "/nonexistent/f"], 3, "No such file"),
    (["restore", "/etc/passwd"], 3, "no VM file"),
    (["restore", "/dev/null"], 3, "no VM file"), (["restore", "/"], 3, "no VM file"),
])
def test_wrong_words(bare: Launcher, words: list[str], status: int, text: str) -> None:
    assert text in bare.bad(status, *words)
    assert bare.state("box")["state"] == "running"


def test_not_running(bare: Launcher, tmp_path: Path) -> None:
    bare.good("stop", "--force", "box")
    assert "state: stopped" in bare.bad(1, "save", "box", tmp_path / "f")


def test_image_with_another_behind_it(disk: Launcher, tmp_path: Path) -> None:
    """A qcow2 image that needs a second file would not be whole."""
    disk.good("stop", "--force", "box")
    head = b"QFI\xfb" + struct.pack(">IQIIQ", 3, 1000, 4, 16, 1 << 20)
    overlay = tmp_path / "o.qcow2"
    overlay.write_bytes(head.ljust(1 << 16, b"\0"))
    disk.good("start", "box")
    running = disk.run_folder("box") / "live.conf"
    running.write_text(re.sub("image=.*;", f"image={overlay};", running.read_text())
                       .replace("image-format=raw", "image-format=qcow2"))
    assert "needs another file" in disk.bad(3, "save", "box", tmp_path / "f")
    assert disk.state("box")["state"] == "running"


def test_full_disk(disk: Launcher, tmp_path: Path) -> None:
    """A file that may not grow so far: the guest goes on, and nothing is left of the file."""
    import resource
    before = last_pass(disk, "box")
    done = disk.run("save", "box", tmp_path / "f", preexec_fn=lambda: (
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        resource.setrlimit(resource.RLIMIT_FSIZE, (START + (1 << 16), resource.RLIM_INFINITY))))
    assert done.returncode == 4, done.stderr
    assert "it runs here" in done.stderr
    assert not list(tmp_path.glob("f*"))
    assert last_pass(disk, "box") > before


def test_name_taken(bare: Launcher, tmp_path: Path) -> None:
    bare.good("save", "box", tmp_path / "f")
    assert "--name gives it another name" in bare.bad(3, "restore", tmp_path / "f")
    bare.bad(2, "restore", tmp_path / "f", "--name", "../x")
    assert bare.good("list", "--format", "names") == "box\n"


def test_folder_taken(bare: Launcher, tmp_path: Path) -> None:
    bare.good("save", "box", tmp_path / "f")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kernel").write_text("mine")
    line = bare.bad(3, "restore", tmp_path / "f", "--name", "x", "--images", tmp_path / "there")
    assert "--images names another" in line
    assert (tmp_path / "there" / "kernel").read_text() == "mine"


def test_damage_shows(disk: Launcher, tmp_path: Path) -> None:
    """A flipped bit anywhere, or a missing end, is refused, and nothing is left behind."""
    file = tmp_path / "f"
    disk.good("save", "box", file)
    whole = file.read_bytes()
    image_at = whole.rindex(b"first")
    places = [0, 8, 12, 20, 60, 90, 600, START + 100, START + 5000, image_at, whole.rindex(b"last")]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        disk.bad(3, "restore", file, "--name", "again")
    for size in (0, 15, 16, 100, START, START + 100, image_at):
        file.write_bytes(whole[:size])
        disk.bad(3, "restore", file, "--name", "again")
    assert disk.good("list", "--format", "names") == "box\n"
    assert not list((disk.root / "images").iterdir())
    file.write_bytes(whole)
    disk.good("restore", file, "--name", "again")


def index_of(data: bytes) -> dict[str, Any]:
    [length] = struct.unpack_from("<I", data, 12)
    return unpack_kv(data[48:48 + length])


def sealed(data: bytes, entries: dict[str, Any]) -> bytes:
    """The same file with another index."""
    body = pack_kv(entries)
    head = b"QSVMFILE" + struct.pack("<II", 1, len(body))
    head += hashlib.sha256(body).digest() + body
    return head.ljust(START, b"\0") + data[START:]


def digest_of(data: bytes) -> str:
    """A section's digest, by its description alone."""
    found = hashlib.sha256(struct.pack("<Q", len(data)))
    for at in range(0, len(data), BLOCK):
        if any(block := data[at:at + BLOCK]):
            found.update(struct.pack("<Q", at) + block)
    return found.hexdigest()


def test_digests_are_as_described(disk: Launcher, tmp_path: Path) -> None:
    disk.good("save", "box", tmp_path / "f")
    data = (tmp_path / "f").read_bytes()
    entries = index_of(data)
    assert [entries[f"s{i:02}.key"] for i in range(entries["sections"])] == \
        ["state", "image0", "kernel"]
    for i in range(entries["sections"]):
        offset, size = entries[f"s{i:02}.offset"], entries[f"s{i:02}.size"]
        assert offset % BLOCK == 0
        assert digest_of(data[offset:offset + size]) == entries[f"s{i:02}.digest"]


def test_state_of_something_else(disk: Launcher, tmp_path: Path) -> None:
    """Digests agree, QEMU refuses: nothing is left but the file."""
    file = tmp_path / "f"
    disk.good("save", "box", file)
    data = bytearray(file.read_bytes())
    entries = index_of(bytes(data))
    data[START:START + 4] = b"EVIL"
    entries["s00.digest"] = digest_of(bytes(data[START:START + entries["s00.size"]]))
    file.write_bytes(sealed(bytes(data), entries))
    line = disk.bad(1, "restore", file, "--name", "again")
    assert "was not restored" in line and "only in its file" in line
    assert disk.good("list", "--format", "names") == "box\n"
    assert not list((disk.root / "images").iterdir())


HOSTILE = {
    "another image": lambda e: {"definition": e["definition"].replace("image=", "image=/dev/sda;")
                                .replace("image-format=", "image-format=raw;")},
    "an image of the definition less": lambda e: {
        "definition": re.sub("image(-format)?=.*\n", "", e["definition"])},
    "one image for two": lambda e: {
        "definition": re.sub("kernel=.*\n", "", e["definition"])
        .replace("image=", "image=/dev/sda;").replace("image-format=", "image-format=raw;"),
        "s02.key": "image0"},
    "an iso": lambda e: {"definition": e["definition"] + "iso=/etc/passwd\n"},
    "firmware by path": lambda e: {"definition": e["definition"] + "firmware=/etc/passwd\n"},
    "a socket": lambda e: {"definition": e["definition"].replace("net=none", "net=socket:/run/x")},
    "no definition": lambda e: {"definition": "[vm]\n"},
    "a key of the future": lambda e: {"definition": e["definition"] + "surprise=1\n"},
    "a section of another name": lambda e: {"s02.key": "../../x"},
    "a section twice": lambda e: {"s02.key": "image0"},
    "a section elsewhere": lambda e: {"s01.offset": e["s01.offset"] + BLOCK},
    "a section beyond the end": lambda e: {"s02.size": 1 << 40},
    "sizes that wrap": lambda e: {"s00.size": (1 << 64) - BLOCK},
    "no section": lambda e: {"sections": 0},
    "too many sections": lambda e: {"sections": 1 << 32},
    "another name": lambda e: {"name": "../../etc/x"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(disk: Launcher, tmp_path: Path, case: str) -> None:
    """No path, socket or right of this host comes out of a file."""
    file = tmp_path / "f"
    disk.good("save", "box", file)
    disk.good("delete", "box")
    data = file.read_bytes()
    entries = index_of(data)
    file.write_bytes(sealed(data, {**entries, **HOSTILE[case](entries)}))
    line = disk.bad(3, "restore", file)
    assert "error: " in line
    assert disk.good("list", "--format", "names") == ""
    assert not [p for p in (disk.root / "images").glob("**/*")]
    file.write_bytes(data)
    disk.good("restore", file)


def test_a_file_cannot_open_the_sandbox(bare: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "f"
    bare.good("save", "box", file)
    data = file.read_bytes()
    entries = index_of(data)
    definition = entries["definition"].replace("sandbox=auto", "sandbox=off")
    assert "sandbox=off" in definition
    file.write_bytes(sealed(data, {**entries, "definition": definition}))
    bare.good("restore", file, "--name", "again")
    pid = bare.state("again")["pid"]
    assert re.search(r"^Seccomp:\s*2$", Path(f"/proc/{pid}/status").read_text(), re.M)


@pytest.mark.parametrize("milliseconds", [0, 2, 4, 5, 6, 8, 10, 14, 20, 40, 80, 160])
def test_killed_launcher(disk: Launcher, tmp_path: Path, milliseconds: int) -> None:
    """Killed while it saves, the VM is here or in a whole file, and another start tells which."""
    file = tmp_path / "f"
    process = disk.start("save", "box", file)
    time.sleep(milliseconds / 1000)
    process.kill()
    process.wait()
    state = disk.state("box")["state"]
    if state == "stopped":
        assert file.exists()
    elif file.exists():
        assert "restore continues it" in disk.bad(1, "start", "box")
    elif (disk.run_folder("box") / "saving").exists():
        disk.good("start", "box")
    if file.exists():
        disk.good("restore", file, "--name", "again")
        assert disk.state("again")["state"] == "running"
        assert disk.state("box")["state"] == "stopped"
    else:
        assert disk.state("box")["state"] == "running"
        # Only a file that was created and not yet noted stays, empty.
        partial = Path(f"{file}.partial")
        assert not partial.exists() or partial.stat().st_size == 0


def test_another_file_of_that_name(bare: Launcher, tmp_path: Path) -> None:
    """A launcher died while it saved; what lies at the name since then is not the VM."""
    file = tmp_path / "f"
    mine = tmp_path / "mine"
    mine.write_bytes(b"")
    info = mine.stat()
    mark = bare.run_folder("box") / "saving"
    mark.write_text(f"{info.st_dev} {info.st_ino} {file}")
    file.write_text("something else")
    assert "it runs on" in bare.run("start", "box").stderr
    assert bare.state("box")["state"] == "running"
    assert file.read_text() == "something else" and not mark.exists()
    mark.write_text(f"{info.st_dev} {info.st_ino} {file}")
    mine.rename(file)
    assert "restore continues it" in bare.bad(1, "start", "box")
    assert bare.state("box")["state"] == "stopped"


def test_somebody_else_saves_there(bare: Launcher, tmp_path: Path) -> None:
    partial = tmp_path / "f.partial"
    partial.write_text("another's")
    assert "exists" in bare.bad(3, "save", "box", tmp_path / "f")
    assert partial.read_text() == "another's"
    assert bare.state("box")["state"] == "running"


def test_the_file_is_private(bare: Launcher, tmp_path: Path) -> None:
    """It holds the guest's memory."""
    bare.good("save", "box", tmp_path / "f")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
