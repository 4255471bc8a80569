# SPDX-License-Identifier: GPL-2.0-or-later
"""VM files that nobody saved: they are refused before a QEMU is started for them."""

import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import Fake, Launcher
from test_save import BLOCK, START, digest_of, sealed

DEFINITION = """[vm]
guest=x86_64
machine=pc-q35-10.0
cpu=Nehalem
memory=64M
cpus=1
net=none
mac=52:54:00:00:00:01
uuid=3e9a5f0e-8d0b-4e7c-9a39-2d1f1e0b8c01
display=none
sandbox=auto
"""


def make(path: Path, definition: str, **files: bytes) -> Path:
    """A VM file of a state and these files, whose digests agree."""
    body = b""
    entries: dict[str, Any] = {"name": "web", "definition": definition,
                               "sections": 1 + len(files)}
    for i, (key, data) in enumerate({"state": b"x" * 100, **files}.items()):
        entries |= {f"s{i:02}.key": key, f"s{i:02}.offset": START + len(body),
                    f"s{i:02}.size": len(data), f"s{i:02}.digest": digest_of(data)}
        body += data.ljust(-len(data) % BLOCK + len(data), b"\0")
    path.write_bytes(sealed(bytes(START) + body, entries))
    return path


def qcow2(backing: int = 0, features: int = 0) -> bytes:
    head = struct.pack(">4sIQIIQIIQQIIQQ", b"QFI\xfb", 3, backing, 11 if backing else 0, 16,
                       1 << 20, 0, 1, 0, 0, 0, 0, 0, features)
    return head.ljust(1000, b"\0") + b"/etc/passwd".ljust(BLOCK, b"\0")


@pytest.mark.parametrize("words, text", [
    ([], "listen for other hosts: forward 0.0.0.0:80:80"),
    (["--net", "user"], "is not on PATH"), (["--net", "none"], "does not fit net=none"),
    (["--net", "socket:/run/x"], "does not fit net=socket:/run/x"),
    (["--net", "relay:gw/web"], "does not fit net=relay:gw/web"),
    (["--net", "x"], "user, none, relay:HOST"),
])
def test_forwards(dry: Launcher, tmp_path: Path, words: list[str], text: str) -> None:
    """A file does not open this host to others; another network is without its forwards."""
    file = make(tmp_path / "f", DEFINITION.replace("net=none", "net=user") +
                "forward=2222:22;0.0.0.0:80:80;\n")
    assert text in dry.bad(2 if "x" in words else 3, "restore", file, *words)


def test_a_mark_of_another_host(dry: Launcher, tmp_path: Path) -> None:
    """That it was moved from where it was saved does not keep it from starting here."""
    file = make(tmp_path / "f", DEFINITION + "moved=elsewhere\n")
    assert "is not on PATH" in dry.bad(3, "restore", file)


def test_forwards_of_this_host(dry: Launcher, tmp_path: Path) -> None:
    file = make(tmp_path / "f", DEFINITION.replace("net=none", "net=user") + "forward=2222:22;\n")
    assert "is not on PATH" in dry.bad(3, "restore", file)


@pytest.mark.parametrize("backing, features, text", [
    (0, 0, "qemu-system-x86_64 is not on PATH"), (1000, 0, "names another file"),
    (0, 4, "names another file"),
])
def test_an_image_with_another_behind_it(dry: Launcher, tmp_path: Path, backing: int,
                                         features: int, text: str) -> None:
    """QEMU would open what the image names, and show the guest a file of this host."""
    file = make(tmp_path / "f", DEFINITION + "image=/a;\nimage-format=qcow2;\n",
                image0=qcow2(backing, features))
    assert text in dry.bad(3, "restore", file)
    assert not list(dry.root.glob("images/*")) and not list(dry.root.glob("vms/*"))


# A launcher that is killed while it restores


def killed_restore(fake: Fake, file: Path) -> Path:
    """Leaves a QEMU that was told to load and does not, and returns the folder of its files."""
    fake.tell(**{"query-status": {"status": "inmigrate"}})
    process = fake.start("restore", file)
    fake.wait_asked("migrate-incoming")
    process.kill()
    process.wait()
    return fake.root / "images" / "web"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make(tmp_path / "f", DEFINITION + "kernel=/boot/vmlinuz\nimage=/srv/web;\n"
                "image-format=raw;\n", kernel=b"k" * 1000, image0=bytes(4096))


def test_killed_while_it_loads(fake: Fake, file: Path) -> None:
    folder = killed_restore(fake, file)
    assert sorted(p.name for p in folder.iterdir()) == ["image0", "kernel"]
    assert "delete --force" in fake.bad(4, "start", "web")
    assert "already" in fake.bad(3, "restore", file)
    assert "cannot be deleted" in fake.bad(4, "delete", "web")
    fake.good("delete", "--force", "web")
    assert not folder.exists() and not fake.run_folder("web").exists()
    assert fake.good("list", "--format", "names") == ""


def test_killed_and_then_its_qemu_ended(fake: Fake, file: Path) -> None:
    """Its disks are whole and its memory is not there: it must not start from them."""
    folder = killed_restore(fake, file)
    fake.good("stop", "--force", "web")
    assert "restore it again" in fake.bad(3, "start", "web")
    assert killed_restore(fake, file) == folder and folder.exists()
    fake.good("stop", "--force", "web")
    (folder / "notes").touch()      # not ours
    fake.good("delete", "web")
    assert [p.name for p in folder.iterdir()] == ["notes"]


def test_killed_when_it_was_loaded(fake: Fake, file: Path) -> None:
    """From the first instruction on the files are a VM's, which nothing removes."""
    folder = killed_restore(fake, file)
    fake.tell()
    assert "it runs on" in fake.run("start", "web").stderr
    fake.good("delete", "--force", "web")
    assert sorted(p.name for p in folder.iterdir()) == ["image0", "kernel"]


def test_killed_while_it_unpacks(fake: Fake, file: Path) -> None:
    """There is no definition yet, and still a name by which the pieces go."""
    folder = killed_restore(fake, file)
    fake.good("stop", "--force", "web")
    (fake.root / "vms" / "web.conf").unlink()
    fake.good("delete", "web")
    assert not folder.exists() and not fake.run_folder("web").exists()
    fake.bad(1, "delete", "web")


def test_another_folder_of_that_name(fake: Fake, file: Path) -> None:
    folder = killed_restore(fake, file)
    fake.good("stop", "--force", "web")
    folder.rename(folder.with_name("aside"))
    folder.mkdir()
    (folder / "image0").touch()
    assert "cannot create" in fake.bad(3, "restore", file)
    assert (folder / "image0").exists()
