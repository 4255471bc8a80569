# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM into one file while it runs on: when it is paused, what is refused, where it is after that.

The first half has real QEMUs; in the second QEMU is played (see qemuplayer.py), so that a launcher
can be killed at any point, and so that files can be read which no QEMU wrote.
"""

import hashlib
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Fake, Launcher
from test_job_states import Source, jobs, kill, source, wait_phase  # noqa: F401
from test_jobs import hurry
from test_migrate import ask, empty_qcow2, kill_qemu, left_files
from test_move_states import STARTED, session
from test_save import BLOCK, digest_of, disk, image, last_pass  # noqa: F401
from test_strangers import DEFINITION

from deadlines import Deadline
from quasar_format import pack_kv, unpack_kv

TAIL = 48


def begin(launcher: Launcher, file: Path, *words: str) -> subprocess.Popen:
    """A save that is under way and takes a while."""
    saver = launcher.start("save", "box", file, "--live", "--bandwidth", "1M", "--progress",
                           "json", *words)
    assert saver.stdout
    for line in saver.stdout:
        if json.loads(line)["phase"] == "bulk":
            return saver
    assert saver.stderr
    raise AssertionError(saver.stderr.read())


def any_pause(launcher: Launcher, name: str = "box") -> None:
    """However busy the machine is, the guest does not outrun what writes it."""
    ask(launcher, name, "migrate-set-parameters", **{"downtime-limit": 20000})


def nothing_beside(folder: Path) -> None:
    assert not list(folder.glob("f*")), list(folder.glob("f*"))


# With a real QEMU


def test_round_trip(disk: Launcher, image: Path, tmp_path: Path) -> None:    # noqa: F811
    """It runs until all is written; then it is in the file, as it was and not a moment older."""
    file = tmp_path / "f"
    before = last_pass(disk, "box")
    saver = begin(disk, file)
    assert disk.state("box")["state"] == "running"
    meanwhile = last_pass(disk, "box")
    assert meanwhile > before and not file.exists()
    hurry(disk)
    out, errors = saver.communicate(timeout=90)
    assert saver.returncode == 0, errors
    assert json.loads(out.splitlines()[-1])["phase"] == "done"
    assert disk.state("box")["state"] == "stopped"
    assert [path.name for path in tmp_path.glob("f*")] == ["f"]
    assert file.stat().st_mode & 0o777 == 0o600
    disk.good("restore", file, "--name", "again")
    assert last_pass(disk, "again") > meanwhile
    shown = disk.state("again")["definition"]
    original = disk.state("box")["definition"]
    assert all(shown[k] == original[k] for k in ("uuid", "mac", "machine", "memory"))
    disk.good("stop", "--force", "again")
    copy = disk.root / "images" / "again"
    assert sorted(path.name for path in copy.iterdir()) == ["image0", "kernel"]
    assert (copy / "image0").read_bytes() == image.read_bytes()
    assert (copy / "image0").stat().st_blocks * 512 < 1 << 20
    phases = [row["phase"] for row in
              json.loads(disk.good("report", "box", "--format", "json"))["phases"]]
    assert "bulk" in phases and phases[-3:] == ["pack", "publish", "end"]
    assert not {"pause", "state"} & set(phases)


def test_images_of_both_formats(quasar: Launcher, guest: Callable[[str], Any],
                                tmp_path: Path) -> None:
    """Each is made anew, as large as the guest saw it, also where it needed another behind it."""
    under, cow, odd = tmp_path / "under", tmp_path / "cow", tmp_path / "odd"
    under.write_bytes(b"from below".ljust(1 << 20, b"\0"))
    head = bytearray(empty_qcow2(1 << 20))
    name = str(under).encode()
    struct.pack_into(">QI", head, 8, 1024, len(name))
    head[1024:1024 + len(name)] = name
    cow.write_bytes(head)
    odd.write_bytes(b"odd".ljust(70000, b"\0"))
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--image", cow, "--image", odd)
    any_pause(quasar)
    assert "needs another file" in quasar.bad(3, "save", "box", tmp_path / "f")
    quasar.good("save", "box", tmp_path / "f", "--live")
    under.unlink()
    quasar.good("restore", tmp_path / "f", "--name", "again")
    quasar.good("stop", "--force", "again")
    copy = quasar.root / "images" / "again"
    assert b"from below" in (copy / "image0").read_bytes()
    assert struct.unpack(">Q", (copy / "image0").read_bytes()[24:32]) == (1 << 20,)
    assert (copy / "image1").read_bytes() == odd.read_bytes().ljust(70144, b"\0")


def test_a_paused_one(bare: Launcher, tmp_path: Path) -> None:
    before = last_pass(bare, "box")
    ask(bare, "box", "stop")
    bare.good("save", "box", tmp_path / "f", "--live")
    bare.good("restore", tmp_path / "f", "--name", "again", "--paused")
    assert bare.state("again")["state"] == "paused"
    bare.good("start", "again")
    assert last_pass(bare, "again") > before


def test_detached(bare: Launcher, tmp_path: Path) -> None:
    any_pause(bare)
    done = bare.run("save", "box", tmp_path / "f", "--live", "--detach")
    assert (done.returncode, done.stdout) == (0, "box#1\n"), done.stderr
    done = bare.run("watch", "box")
    assert done.returncode == 0 and "is saved in" in done.stderr
    assert bare.state("box")["state"] == "stopped" and (tmp_path / "f").exists()


@pytest.mark.parametrize("alive", [True, False])
def test_cancelled(bare: Launcher, tmp_path: Path, alive: bool) -> None:
    before = last_pass(bare, "box")
    saver = begin(bare, tmp_path / "f")
    if not alive:
        kill(saver)
    done = bare.run("cancel", "box")
    assert done.returncode == 0 and "it runs here" in done.stderr, done.stderr
    if alive:
        assert saver.wait(60) == 130
    nothing_beside(tmp_path)
    assert last_pass(bare, "box") > before
    any_pause(bare)
    bare.good("save", "box", tmp_path / "f", "--live")
    bare.good("restore", tmp_path / "f", "--name", "again")


def test_its_qemu_is_killed(bare: Launcher, tmp_path: Path) -> None:
    """What it leaves of its file goes too."""
    saver = begin(bare, tmp_path / "f")
    assert len(list((tmp_path / "f.partial").iterdir())) == 1
    kill_qemu(bare, "box")
    _, errors = saver.communicate(timeout=60)
    assert saver.returncode == 1 and b"its QEMU ended; state: stopped" in errors, errors
    nothing_beside(tmp_path)
    bare.good("start", "box")


def test_both_are_killed(bare: Launcher, tmp_path: Path) -> None:
    saver = begin(bare, tmp_path / "f")
    kill(saver)
    kill_qemu(bare, "box")
    assert list((tmp_path / "f.partial").iterdir())
    assert "its QEMU ended; state: stopped" in bare.bad(1, "resume", "box")
    nothing_beside(tmp_path)


@pytest.mark.parametrize("milliseconds", [0, 5, 10, 20, 40, 80, 160, 320, 640])
def test_killed_launcher(disk: Launcher, tmp_path: Path, milliseconds: int) -> None:  # noqa: F811
    """Killed at any time, the VM is here or in a whole file, and another start tells which."""
    file = tmp_path / "f"
    before = last_pass(disk, "box")
    any_pause(disk)
    saver = disk.start("save", "box", file, "--live")
    time.sleep(milliseconds / 1000)
    kill(saver)
    if disk.state("box")["state"] != "stopped" and (disk.run_folder("box") / "saving").exists():
        assert (disk.run("start", "box").returncode != 0) == file.exists()
    if file.exists():
        assert disk.state("box")["state"] == "stopped"
        disk.good("restore", file, "--name", "again")
        assert last_pass(disk, "again") > before
    else:
        assert disk.state("box")["state"] == "running"
        assert last_pass(disk, "box") > before
    # Only a folder that was made and not yet noted stays, empty.
    partial = tmp_path / "f.partial"
    assert not partial.exists() or not list(partial.iterdir())


@pytest.mark.parametrize("phase", ["bulk", "done", "pack", "publish", "end"])
def test_killed_and_resumed(disk: Launcher, tmp_path: Path, phase: str) -> None:     # noqa: F811
    file = tmp_path / "f"
    before = last_pass(disk, "box")
    any_pause(disk)
    saver = disk.start("save", "box", file, "--live")
    deadline = Deadline(60, phase)
    record = disk.root / "jobs" / "1.job"
    while saver.poll() is None and not (record.exists() and f"-{phase}=" in record.read_text()):
        deadline.left()
    kill(saver)
    done = disk.run("resume", "box")
    if file.exists():
        assert done.returncode == 0 or "has ended" in done.stderr, done.stderr
        assert disk.state("box")["state"] == "stopped"
        disk.good("restore", file, "--name", "again")
        assert last_pass(disk, "again") > before
    else:
        assert done.returncode == 4 and "was not saved" in done.stderr, done.stderr
        assert last_pass(disk, "box") > before
    assert not (tmp_path / "f.partial").exists()


def test_damage_shows(disk: Launcher, tmp_path: Path) -> None:       # noqa: F811
    """A flipped bit anywhere, or a missing end, is refused, and nothing is left behind."""
    file = tmp_path / "f"
    any_pause(disk)
    disk.good("save", "box", file, "--live")
    whole = file.read_bytes()
    entries, index = index_of(whole)
    machine = entries["machine"]
    places = [0, 30, 100, machine // 2, machine - 1, entries["s00.offset"] + 100, index + 9,
              len(whole) - TAIL, len(whole) - TAIL + 8, len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        done = disk.run("restore", file, "--name", "again")
        assert done.returncode == (1 if place < machine else 3), (place, done.stderr)
    for size in (0, 15, 100, machine, machine + 1, index, len(whole) - 1):
        file.write_bytes(whole[:size])
        disk.bad(3, "restore", file, "--name", "again")
    assert disk.good("list", "--format", "names") == "box\n"
    assert not list((disk.root / "images").iterdir())
    file.write_bytes(whole)
    disk.good("restore", file, "--name", "again")


# Where QEMU is played


@pytest.fixture
def played(source: Source, tmp_path: Path) -> Fake:     # noqa: F811
    """A VM `web` whose QEMU says that it writes."""
    tell(source.fake, "here", "bulk", idle=True)
    return source.fake


def tell(fake: Fake, where: str, stage: str, status: str = "running", idle: bool = False,
         **more: Any) -> None:
    """What QEMU says of its session from now on; idle: of a session once it was told to begin."""
    ended = {"query-migrate": {"status": "active" if stage == "bulk" else "completed"}}
    fake.tell(**{**STARTED, "query-status": {"status": status}, **ended,
                 **({} if idle else session(where, stage)), **more})


def start_saving(fake: Fake, tmp_path: Path, status: str = "running") -> subprocess.Popen:
    """As far as the stage in which QEMU writes."""
    tell(fake, "here", "bulk", status, idle=True)
    saver = fake.start("save", "web", tmp_path / "f", "--live", text=True)
    fake.wait_asked("migrate")
    assert "stop" not in asked(fake)
    tell(fake, "here", "bulk", status)
    wait_phase(fake, "bulk")
    return saver


def asked(fake: Fake) -> list[str]:
    path = Path(fake.environment["FAKE_QEMU"]).with_suffix(".asked")
    return path.read_text().split() if path.exists() else []


def wrote(tmp_path: Path, content: bytes = b"machine") -> Path:
    path = tmp_path / "f.partial" / "machine"
    path.write_bytes(content)
    return path


def test_what_is_put_behind_it(played: Fake, tmp_path: Path) -> None:
    """QEMU's bytes stay as they are; the rest agrees with its description."""
    saver = start_saving(played, tmp_path)
    machine = os.urandom(100000)
    number = wrote(tmp_path, machine).stat().st_ino
    tell(played, "here", "done", "postmigrate")
    out, errors = saver.communicate(timeout=60)
    assert saver.returncode == 0, errors
    assert "stop" not in asked(played) and "cont" not in asked(played)
    assert (tmp_path / "f").stat().st_ino == number
    assert not (tmp_path / "f.partial").exists()
    data = (tmp_path / "f").read_bytes()
    entries, index = index_of(data)
    assert (data[:100000], entries["machine"], entries["images"]) == (machine, 100000, 0)
    assert (entries["sections"], entries["s00.key"]) == (1, "kernel")
    offset, size = entries["s00.offset"], entries["s00.size"]
    assert offset == 2 * BLOCK and size == 1 << 20 and index == offset + size
    assert digest_of(data[offset:offset + size]) == entries["s00.digest"]
    assert played.state("web")["state"] == "stopped"


def test_qemu_fails(played: Fake, tmp_path: Path) -> None:
    saver = start_saving(played, tmp_path)
    wrote(tmp_path)
    tell(played, "here", "failed", **{"query-quasar": {
        "where": "here", "stage": "failed", "reason": "No space left on device"}})
    _, errors = saver.communicate(timeout=60)
    assert saver.returncode == 4, errors
    assert "QEMU says: No space left on device; state: it runs here" in errors
    nothing_beside(tmp_path)


def test_qemu_says_done_and_there_is_nothing(played: Fake, tmp_path: Path) -> None:
    saver = start_saving(played, tmp_path)
    tell(played, "here", "done", "postmigrate")
    _, errors = saver.communicate(timeout=60)
    assert saver.returncode == 4 and "cannot open what QEMU wrote" in errors
    assert "cont" in asked(played)
    nothing_beside(tmp_path)


def test_a_name_taken_meanwhile(played: Fake, tmp_path: Path) -> None:
    saver = start_saving(played, tmp_path)
    wrote(tmp_path)
    (tmp_path / "f").write_text("dear")
    tell(played, "here", "done", "postmigrate")
    _, errors = saver.communicate(timeout=60)
    assert saver.returncode == 4 and "File exists" in errors
    assert (tmp_path / "f").read_text() == "dear" and "cont" in asked(played)
    assert not (tmp_path / "f.partial").exists()


def test_somebody_else_saves_there(played: Fake, tmp_path: Path) -> None:
    (tmp_path / "f.partial").mkdir()
    (tmp_path / "f.partial" / "machine").write_text("another's")
    assert "exists" in played.bad(3, "save", "web", tmp_path / "f", "--live")
    assert (tmp_path / "f.partial" / "machine").read_text() == "another's"
    assert "migrate" not in asked(played)


def test_a_file_is_missing(played: Fake, tmp_path: Path) -> None:
    """Found out before anything is written."""
    (tmp_path / "kernel").unlink()
    assert "No such file" in played.bad(3, "save", "web", tmp_path / "f", "--live")
    assert not {"migrate", "stop", "cont"} & set(asked(played))
    nothing_beside(tmp_path)


@pytest.mark.parametrize("words", [[], ["--live"]])
def test_while_it_moves(played: Fake, tmp_path: Path, words: list[str]) -> None:
    """A move whose launcher has died is not cancelled by this."""
    played.tell(**STARTED, **session("here", "rounds"))
    assert "is leaving for" in played.bad(4, "save", "web", tmp_path / "f", *words)
    assert not {"migrate", "migrate_cancel", "stop"} & set(asked(played))
    nothing_beside(tmp_path)


def hold_at(phase: str, fake: Fake, tmp_path: Path) -> None:
    """Has the launcher wait in this phase, or makes it look as if it had got so far."""
    machine = tmp_path / "f.partial" / "machine"
    kernel = tmp_path / "kernel"
    if phase == "bulk":
        return
    wrote(tmp_path)
    kernel.unlink()
    os.mkfifo(kernel)       # nobody writes to it
    tell(fake, "here", "done", "postmigrate")
    wait_phase(fake, "pack")
    if phase == "pack":
        return
    info = machine.stat()
    mark = fake.run_folder("web") / "saving"
    mark.write_text(f"{info.st_dev} {info.st_ino} {tmp_path / 'f'}")
    if phase == "end":
        machine.rename(tmp_path / "f")


@pytest.mark.parametrize("way", ["resume", "start", "cancel"])
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("phase", ["bulk", "pack", "publish", "end"])
def test_killed(played: Fake, tmp_path: Path, phase: str, paused: bool, way: str) -> None:
    """At any point; whoever comes next finds out where the VM is, and nothing else is left."""
    status = "paused" if paused else "running"
    saver = start_saving(played, tmp_path, status)
    hold_at(phase, played, tmp_path)
    kill(saver)
    tell(played, "here", "failed" if phase == "bulk" else "done",
         status if phase == "bulk" else "postmigrate")
    done = played.run(way, "web")
    commands = asked(played)
    if phase == "end":
        assert done.returncode == {"resume": 0}.get(way, 1), done.stderr
        assert "is saved in" in done.stderr or "was saved in" in done.stderr
        assert played.state("web")["state"] == "stopped" and "cont" not in commands
        assert [path.name for path in tmp_path.glob("f*")] == ["f"]
        return
    assert done.returncode == {"resume": 4}.get(way, 0), done.stderr
    assert "migrate_cancel" in commands and "quit" not in commands
    assert ("cont" in commands) == (not paused or way == "start")
    assert ("is paused" in done.stderr) == (paused and way != "start")
    nothing_beside(tmp_path)
    assert not list(played.run_folder("web").glob("saving*"))


def test_paused_before_and_after(played: Fake, tmp_path: Path) -> None:
    """QEMU can call it paused no more; `start` lets it go on all the same."""
    saver = start_saving(played, tmp_path, "paused")
    tell(played, "here", "done", "postmigrate")
    _, errors = saver.communicate(timeout=60)
    assert saver.returncode == 4 and "it is paused here" in errors
    assert "cont" not in asked(played)
    played.good("start", "web")
    assert "cont" in asked(played)


def test_watched(played: Fake, tmp_path: Path) -> None:
    saver = start_saving(played, tmp_path)
    watcher = played.start("watch", "web", "--progress", "json", text=True)
    assert watcher.stdout and json.loads(watcher.stdout.readline())["phase"] == "bulk"
    wrote(tmp_path)
    tell(played, "here", "done", "postmigrate")
    _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0 and "is saved in" in errors and saver.wait(60) == 0


def test_asked_twice_to_end(played: Fake, tmp_path: Path) -> None:
    saver = start_saving(played, tmp_path)
    for _ in range(2):
        saver.send_signal(signal.SIGINT)
        played.wait_asked("migrate_cancel")
    tell(played, "here", "failed")
    _, errors = saver.communicate(timeout=60)
    assert saver.returncode == 130 and "it runs here" in errors
    [job] = jobs(played)
    assert job["state"] == "cancelled"
    nothing_beside(tmp_path)


@pytest.mark.parametrize("words, text", [
    (["--bandwidth", "1M"], "--bandwidth goes with --live"),
    (["--progress", "none"], "--progress goes with --live"),
    (["--live", "--bandwidth", "fast"], "--bandwidth takes"),
    (["--live", "--bandwidth", "2000G"], "--bandwidth takes"),
    (["--live", "--progress", "much"], "--progress takes"),
])
def test_wrong_words(dry: Launcher, words: list[str], text: str) -> None:
    assert text in dry.bad(2, "save", "web", "/tmp/f", *words)


# Files that nobody saved


def index_of(data: bytes) -> tuple[dict[str, Any], int]:
    """And where it begins."""
    assert data[-TAIL:][:8] == b"QSVMFILE"
    version, length = struct.unpack_from("<II", data, len(data) - TAIL + 8)
    assert version == 2
    body = data[len(data) - TAIL - length:len(data) - TAIL]
    assert hashlib.sha256(body).digest() == data[-32:]
    return unpack_kv(body), len(data) - TAIL - length


def make(path: Path, definition: str, images: list[int], changes: dict[str, Any] | None = None,
         version: int = 2, **files: bytes) -> Path:
    """A VM file that begins with something, and these files; then the changes to its index."""
    data = b"machine".ljust(BLOCK, b"\0")
    entries: dict[str, Any] = {"name": "web", "definition": definition, "machine": 7,
                               "images": len(images), "sections": len(files)}
    entries |= {f"image{i}.size": size for i, size in enumerate(images)}
    for i, (key, content) in enumerate(files.items()):
        entries |= {f"s{i:02}.key": key, f"s{i:02}.offset": len(data),
                    f"s{i:02}.size": len(content), f"s{i:02}.digest": digest_of(content)}
        data += content.ljust(-len(content) % BLOCK + len(content), b"\0")
    body = pack_kv({k: v for k, v in {**entries, **(changes or {})}.items() if v is not None})
    path.write_bytes(data + body + b"QSVMFILE" + struct.pack("<II", version, len(body)) +
                     hashlib.sha256(body).digest())
    return path


WITH_IMAGE = DEFINITION + "image=/dev/sda;\nimage-format=raw;\n"
WITH_KERNEL = DEFINITION + "kernel=/etc/passwd\n"
HOSTILE: dict[str, tuple[str, list[int], dict[str, Any], dict[str, bytes]]] = {
    "no machine": (DEFINITION, [], {"machine": 0}, {}),
    "none said": (DEFINITION, [], {"machine": None}, {}),
    "a machine beyond the end": (DEFINITION, [], {"machine": 1 << 40}, {}),
    "a machine as long as can be": (DEFINITION, [], {"machine": (1 << 64) - 1}, {}),
    "a machine over a section": (WITH_KERNEL, [], {"machine": BLOCK + 1}, {"kernel": b"k"}),
    "a section over the machine": (WITH_KERNEL, [], {"s00.offset": 0}, {"kernel": b"k"}),
    "a section over the index": (WITH_KERNEL, [], {"s00.size": BLOCK + 1}, {"kernel": b"k"}),
    "a section beyond the end": (WITH_KERNEL, [], {"s00.size": 1 << 40}, {"kernel": b"k"}),
    "a size that wraps": (WITH_KERNEL, [], {"s00.size": (1 << 64) - BLOCK}, {"kernel": b"k"}),
    "another digest": (WITH_KERNEL, [], {"s00.digest": "0" * 64}, {"kernel": b"k"}),
    "no kernel": (WITH_KERNEL, [], {}, {}),
    "a kernel too much": (DEFINITION, [], {}, {"kernel": b"k"}),
    "a state": (DEFINITION, [], {}, {"state": b"s"}),
    "an image as a section": (WITH_IMAGE, [512], {}, {"image0": b"i"}),
    "an image less": (WITH_IMAGE, [], {}, {}),
    "an image more": (WITH_IMAGE, [512, 512], {}, {}),
    "images without number": (WITH_IMAGE, [512], {"images": 1 << 32}, {}),
    "an image without size": (WITH_IMAGE, [512], {"image0.size": None}, {}),
    "an image of nothing": (WITH_IMAGE, [0], {}, {}),
    "an image of half a sector": (WITH_IMAGE, [513], {}, {}),
    "an image of all there is": (WITH_IMAGE, [(1 << 64) - 512], {}, {}),
    "another name": (DEFINITION, [], {"name": "../../etc/x"}, {}),
    "sections without number": (DEFINITION, [], {"sections": 1 << 32}, {}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(dry: Launcher, tmp_path: Path, case: str) -> None:
    definition, images, changes, files = HOSTILE[case]
    make(tmp_path / "f", definition, images, changes, **files)
    line = dry.bad(3, "restore", tmp_path / "f")
    assert "is not on PATH" not in line and left_files(dry) == []


@pytest.mark.parametrize("definition, images, files", [
    (DEFINITION, [], {}), (WITH_IMAGE, [512], {}), (WITH_KERNEL, [], {"kernel": b"k"}),
    (WITH_IMAGE.replace("=raw", "=qcow2"), [1 << 40], {}),
])
def test_harmless_files(dry: Launcher, tmp_path: Path, definition: str, images: list[int],
                        files: dict[str, bytes]) -> None:
    """The same with nothing wrong: only QEMU is missing."""
    make(tmp_path / "f", definition, images, **files)
    assert "is not on PATH" in dry.bad(3, "restore", tmp_path / "f")
    assert left_files(dry) == []


def test_odd_ends(dry: Launcher, tmp_path: Path) -> None:
    file = make(tmp_path / "f", DEFINITION, [])
    data = file.read_bytes()
    length = struct.unpack_from("<I", data, len(data) - TAIL + 12)[0]
    for more in (data + b"\0", data[1:][:-1], data[-TAIL:], data[-TAIL - length:],
                 data[:-TAIL + 12] + b"\xff" * 4 + data[-32:]):
        file.write_bytes(more)
        assert "this is no VM file" in dry.bad(3, "restore", file)
    for version in (0, 1, 3):
        make(file, DEFINITION, [], version=version)
        assert "another version wrote it" in dry.bad(3, "restore", file)


# Restoring, where QEMU is played


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return make(tmp_path / "f", WITH_IMAGE + "kernel=/etc/passwd\n", [1 << 20], kernel=b"k" * 100)


def test_restored(fake: Fake, saved: Path) -> None:
    """QEMU gets the machine by itself, from its first byte to its last, and empty images."""
    fake.tell(**session("peer", "prepare"))
    restorer = fake.start("restore", saved, text=True)
    fake.wait_asked("query-quasar")
    folder = fake.root / "images" / "web"
    assert (folder / "machine").read_bytes() == b"machine"
    fake.tell(**STARTED, **session("here", "done"))
    _, errors = restorer.communicate(timeout=60)
    assert restorer.returncode == 0, errors
    assert "cont" in asked(fake)
    assert sorted(path.name for path in folder.iterdir()) == ["image0", "kernel"]
    assert (folder / "image0").read_bytes() == bytes(1 << 20)
    assert (folder / "kernel").read_bytes() == b"k" * 100


def test_not_restored(fake: Fake, saved: Path) -> None:
    """It was loaded, and found out to be damaged at its end: it does not run."""
    fake.tell(**{"query-migrate": {"status": "completed"}, "query-quasar": {
        "where": "peer", "stage": "failed", "reason": "it is damaged"}})
    line = fake.bad(1, "restore", saved)
    assert "QEMU says: it is damaged; state: only in its file" in line
    assert "cont" not in asked(fake) and left_files(fake) == []


@pytest.mark.parametrize("stage", ["done", "failed"])
def test_killed_while_it_loads(fake: Fake, saved: Path, stage: str) -> None:
    fake.tell(**session("peer", "prepare"))
    restorer = fake.start("restore", saved)
    fake.wait_asked("query-quasar")
    kill(restorer)
    fake.tell(**{"query-status": {"status": "paused"}, "query-migrate": {"status": "completed"}},
              **session("here" if stage == "done" else "peer", stage))
    done = fake.run("resume", "web")
    if stage == "done":
        assert done.returncode == 0 and "cont" in asked(fake), done.stderr
        assert not (fake.root / "images" / "web" / "machine").exists()
    else:
        assert done.returncode == 1 and "only in its file" in done.stderr
        assert left_files(fake) == []
