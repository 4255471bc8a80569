# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine in a file: written by one host, read by another, whole or not at all."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import places
import pytest
from deadlines import Deadline
from machine import Machine, MachineError, Setup
from migration import QUASAR_FILE, MigrationFailed, load, save
from qmp import QmpError
from session import PASSES, Session
from test_session_disks import BLOCK, SIZE, disk, image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "wire"))

import quasar_format as second  # noqa: E402

HOME = "x86_64"
GUEST = "bare-x86_64"
PAYLOAD = 1 << 20
EACH = 16                   # frames an entry of the index

pytestmark = [pytest.mark.quick, pytest.mark.route(GUEST, HOME)]


@pytest.fixture
def start(run_folder: Path) -> Iterator[Callable[..., Machine]]:
    """Start bare guests, or machines that wait for one."""
    made: list[Machine] = []

    def begin(host: str = HOME, *extra: str, waits: bool = False) -> Machine:
        folder = run_folder / f"file{len(list(run_folder.iterdir()))}"
        setup = Setup(places.guest(GUEST), net=False, extra=extra)
        made.append(Machine(places.Place.parse(host), setup, folder,
                            incoming="defer" if waits else None))
        if not waits:
            made[-1].console.wait_line(PASSES, timeout=60)
        return made[-1]

    yield begin
    for machine in made:
        machine.stop()


@pytest.fixture
def saved(start: Callable[..., Machine], tmp_path: Path) -> Path:
    """Give a file with a bare guest in it, not compressed."""
    path = tmp_path / "guest"
    machine = start()
    machine.qmp.execute("quasar-set", {"level": 0})
    save(machine, path, way=QUASAR_FILE)
    return path


def check_memory(machine: Machine) -> None:
    """The guest goes through its memory twice more: every word is right."""
    for _ in range(2):
        found = machine.console.wait_line(PASSES, since=machine.console.mark(), timeout=60)
        assert found.group(2) == "0", f"{found.group(2)} words are wrong"


def runs(machine: Machine) -> bool:
    return machine.qmp.execute("query-status")["running"]


def told(machine: Machine) -> dict[str, Any]:
    return machine.qmp.execute("query-quasar")


def wait_here(machine: Machine) -> None:
    machine.qmp.wait_event("QUASAR_STAGE", lambda data: data["stage"] == "done", timeout=60)
    assert told(machine)["where"] == "here"


def qemu_img(*arguments: str) -> None:
    argv, environment = places.Place.parse(HOME).command(["qemu-img", *arguments])
    subprocess.run(argv, env=environment, check=True)


def save_fails(machine: Machine, path: Path) -> str:
    """Save, which must fail; tell why, once everything is as it was."""
    with pytest.raises(MigrationFailed):
        save(machine, path, way=QUASAR_FILE)
    machine.qmp.wait_event("QUASAR_STAGE", lambda data: data["stage"] == "failed", timeout=30)
    assert told(machine)["where"] == "here"
    check_memory(machine)
    return told(machine)["reason"]


def altered(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1:]


def told_stage(machine: Machine) -> str:
    """How far the move is; nothing when none began."""
    try:
        return told(machine)["stage"]
    except QmpError:
        return ""


def only(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Writing and reading


@pytest.mark.route(GUEST, HOME, "ppc64le:64k", "ppc64", "aarch64", "s390x")
def test_every_host_reads_it(start: Callable[..., Machine], tmp_path: Path) -> None:
    """One file for all; and the guest that was written goes on where it is."""
    path = tmp_path / "guest"
    source = start()
    source.qmp.execute("quasar-set", {"verify": True})
    save(source, path, way=QUASAR_FILE)
    assert (told(source)["stage"], told(source)["where"]) == ("done", "here")
    assert not runs(source)
    for host in ("ppc64le:64k", "ppc64", "aarch64", "s390x"):
        there = start(host, waits=True)
        load(there, path, way=QUASAR_FILE)
        wait_here(there)
        assert told(there)["verified"] > 16 << 20 and "x86_64" in told(there)["peer"]
        check_memory(there)
        there.stop()
    source.qmp.execute("cont")
    check_memory(source)


@pytest.mark.route(GUEST, HOME, "s390x")
def test_written_by_the_other_byte_order(start: Callable[..., Machine], tmp_path: Path) -> None:
    path = tmp_path / "guest"
    save(start("s390x"), path, way=QUASAR_FILE)
    there = start(HOME, waits=True)
    load(there, path, way=QUASAR_FILE)
    wait_here(there)
    check_memory(there)


def test_a_paused_guest_stays_paused(start: Callable[..., Machine], tmp_path: Path) -> None:
    source = start()
    source.qmp.execute("stop")
    save(source, tmp_path / "guest", way=QUASAR_FILE)
    there = start(HOME, waits=True)
    load(there, tmp_path / "guest", way=QUASAR_FILE)
    wait_here(there)
    assert not runs(there) and "paused" in told(there)["reason"]
    there.qmp.execute("cont")
    check_memory(there)


def test_named_at_the_start(start: Callable[..., Machine], saved: Path) -> None:
    """With -incoming, as a service would."""
    there = start(HOME, "-incoming", f"{QUASAR_FILE}{saved}", waits=False)
    assert told(there)["where"] == "here"


def test_disks_go_along(start: Callable[..., Machine], tmp_path: Path) -> None:
    """Only what they hold; into another format."""
    content = image(tmp_path / "a", filled=64)
    source = start(HOME, *disk(content))
    save(source, tmp_path / "guest", way=QUASAR_FILE)
    sent, = told(source)["disks"]
    assert sent["sent"] == 64 * BLOCK
    qemu_img("create", "-q", "-f", "qcow2", str(tmp_path / "b"), str(SIZE))
    qcow2 = [part.replace("driver=raw", "driver=qcow2") for part in disk(tmp_path / "b")]
    there = start(HOME, *qcow2, waits=True)
    load(there, tmp_path / "guest", way=QUASAR_FILE)
    wait_here(there)
    check_memory(there)
    there.stop()
    qemu_img("compare", "-q", "-f", "raw", "-F", "qcow2", str(content), str(tmp_path / "b"))


def test_compressed_unless_told_otherwise(start: Callable[..., Machine], saved: Path,
                                          tmp_path: Path) -> None:
    save(start(), tmp_path / "small", way=QUASAR_FILE)
    assert (tmp_path / "small").stat().st_size < 0.8 * saved.stat().st_size


# What is not written


def test_an_existing_file_stays(start: Callable[..., Machine], tmp_path: Path) -> None:
    (tmp_path / "guest").write_text("dear")
    machine = start()
    with pytest.raises(QmpError, match="exists"):
        machine.qmp.execute("migrate", {"uri": f"{QUASAR_FILE}{tmp_path}/guest"})
    assert (tmp_path / "guest").read_text() == "dear" and runs(machine)


def test_a_name_taken_meanwhile(start: Callable[..., Machine], tmp_path: Path) -> None:
    machine = start()
    machine.qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
    machine.qmp.listen(lambda event: (tmp_path / "guest").write_text("dear")
                       if event.data.get("stage") == "bulk" else None)
    assert "cannot get its name: File exists" in save_fails(machine, tmp_path / "guest")
    assert (tmp_path / "guest").read_text() == "dear" and only(tmp_path) == ["guest"]


def test_cancelled(start: Callable[..., Machine], tmp_path: Path) -> None:
    machine = start()
    machine.qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
    machine.qmp.execute("migrate", {"uri": f"{QUASAR_FILE}{tmp_path}/guest"})
    machine.qmp.wait_event("QUASAR_STAGE", lambda data: data["stage"] == "bulk", timeout=30)
    machine.qmp.execute("migrate_cancel")
    machine.qmp.wait_event("QUASAR_STAGE", lambda data: data["stage"] == "failed", timeout=30)
    assert told(machine)["reason"] == "it was cancelled" and only(tmp_path) == []
    check_memory(machine)
    save(machine, tmp_path / "guest", way=QUASAR_FILE)


def test_ended_while_it_writes(start: Callable[..., Machine], tmp_path: Path) -> None:
    """'quit' tidies up; a kill leaves a file that nobody takes for a whole one."""
    for killed in (False, True):
        machine = start()
        machine.qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
        machine.qmp.execute("migrate", {"uri": f"{QUASAR_FILE}{tmp_path}/guest"})
        machine.qmp.wait_event("QUASAR_STAGE", lambda data: data["stage"] == "bulk", timeout=30)
        names = only(tmp_path)
        assert len(names) == 1 and names[0].startswith("guest.partial-")
        if killed:
            machine.process.kill()
        else:
            machine.qmp.execute("quit")
        assert machine.process.wait(30) == (-9 if killed else 0)
        assert only(tmp_path) == (names if killed else [])


def test_the_disk_fills_up(start: Callable[..., Machine], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small],
                             capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small file system can be made: {mounted.stderr.strip()}")
    try:
        assert "No space left on device" in save_fails(start(), small / "guest")
        room = os.statvfs(small)
        assert only(small) == [] and room.f_bfree == room.f_blocks
    finally:
        subprocess.run(["umount", small], check=True)       # nobody has it open


# What is not read


def refusal(machine: Machine, path: Path) -> str:
    """Have MACHINE read PATH; tell why it does not, whether at once or on the way."""
    since = machine.qmp.mark()
    try:
        machine.qmp.execute("migrate-incoming", {"uri": f"{QUASAR_FILE}{path}",
                                                 "exit-on-error": False})
    except QmpError as error:
        return str(error)
    machine.qmp.wait_event("QUASAR_STAGE", lambda data: data["stage"] == "failed", since=since,
                           timeout=60)
    deadline = Deadline(10, "the reason")
    while not (reason := machine.qmp.execute("query-migrate").get("error-desc")):
        assert deadline.left() > 0, "query-migrate tells no reason"
    assert told(machine)["reason"] == reason
    return reason


def test_strange_files(start: Callable[..., Machine], saved: Path, tmp_path: Path) -> None:
    """Each is refused at once, and the machine can still take a good one."""
    there = start(HOME, waits=True)
    good = saved.read_bytes()
    head = len(good) - len(good[64 + int.from_bytes(good[40:44], "little"):])

    def refused(content: bytes) -> str:
        (tmp_path / "strange").write_bytes(content)
        return refusal(there, tmp_path / "strange")

    assert "No such file" in refusal(there, tmp_path / "none")
    assert "no regular file" in refusal(there, tmp_path)
    assert "not a file that quasar: wrote" in refused(b"")
    assert "not a file that quasar: wrote" in refused(random.Random(1).randbytes(1 << 16))
    assert "DATA where HELLO is due" in refused(good[head:])
    assert "it ends there" in refused(good[:head - 1])
    for length in (head, head + 1, len(good) // 2, len(good) - 143, len(good) - 1):
        assert "cut short" in refused(good[:length])
    assert "cut short" in refused(good + b"\0")
    for place in (40, head - 1, len(good) - 1, len(good) - 150, len(good) - 143 - 64 - 16):
        assert "is damaged at byte" in refused(altered(good, place))
    session = second.pack_frame(second.Header(1, 7), second.pack_kv({"host.arch": "x86_64"}))
    assert "holds a session" in refused(session)
    newer = second.pack_kv({"file.version": 2})
    assert "later version" in refused(second.pack_frame(second.Header(1, 7), newer))
    needed = second.pack_kv({"file.version": 1, "more": 1}, ("more",))
    assert "later version" in refused(second.pack_frame(second.Header(1, 7), needed))
    load(there, saved, way=QUASAR_FILE)
    wait_here(there)


@pytest.mark.parametrize("place", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_an_altered_byte(start: Callable[..., Machine], saved: Path, place: float) -> None:
    """Anywhere, even in what QEMU itself would not look at; nothing runs."""
    content = saved.read_bytes()
    saved.write_bytes(altered(content, int(len(content) * place)))
    there = start(HOME, waits=True)
    assert "is damaged at byte" in refusal(there, saved)
    assert there.running and not runs(there)
    assert there.qmp.execute("query-migrate").get("status") != "completed"
    if told_stage(there) == "failed":
        with pytest.raises(QmpError, match="the machine is not here"):
            there.qmp.execute("cont")
    there.qmp.execute("quit")
    assert there.process.wait(30) == 0


def test_a_discarded_copy_is_not_handed_on(pair: Callable[..., Session], tmp_path: Path) -> None:
    """The source runs the guest; writing its copy to a file does not make that one the guest."""
    session = pair()
    session.at_stage("destination", "commit", session.link.silence)
    session.link.shape(delay=0.1)
    session.start()
    session.wait(lambda: session.info("destination").get("where") == "undecided", "the vote")
    session.destination.qmp.execute("quasar-resolve", {"verdict": "discard"})
    with pytest.raises(QmpError, match="the machine is not here"):
        session.destination.qmp.execute("migrate", {"uri": f"{QUASAR_FILE}{tmp_path}/copy"})
    with pytest.raises(QmpError):
        session.destination.qmp.execute("cont")
    assert not session.runs("destination")


def test_bad_file_at_the_start(saved: Path) -> None:
    """QEMU ends with the reason, as it does for any other address."""
    saved.write_bytes(saved.read_bytes()[:-1])
    setup = Setup(places.guest(GUEST), net=False)
    with pytest.raises(MachineError, match="is cut short"):
        Machine(places.Place.parse(HOME), setup, saved.parent / "there",
                incoming=f"{QUASAR_FILE}{saved}")


def test_nobody_can_acknowledge(start: Callable[..., Machine], tmp_path: Path) -> None:
    machine = start()
    machine.qmp.execute("migrate-set-capabilities", {"capabilities": [
        {"capability": name, "state": True} for name in ("return-path", "switchover-ack")]})
    with pytest.raises(QmpError, match="switchover-ack: nobody answers"):
        machine.qmp.execute("migrate", {"uri": f"{QUASAR_FILE}{tmp_path}/guest"})
    assert only(tmp_path) == []


def test_exchanged_frames(start: Callable[..., Machine], saved: Path) -> None:
    """Each is whole, but not where it belongs."""
    content = saved.read_bytes()
    frames = list(second.read_stream(content, int.from_bytes(content[16:24], "little")))
    places_of = [0]
    for frame in frames:
        places_of.append(places_of[-1] + 64 + frame.header.stored_len)
    a, b, c = (content[places_of[n]:places_of[n + 1]] for n in (1, 2, 3))
    assert len(b) == len(c)
    saved.write_bytes(content[:places_of[1]] + a + c + b + content[places_of[4]:])
    assert "out of place" in refusal(start(HOME, waits=True), saved)


def test_another_machine(start: Callable[..., Machine], saved: Path) -> None:
    there = start(HOME, "-smp", "2", waits=True)
    assert "processors" in refusal(there, saved)


def test_disks_do_not_fit(start: Callable[..., Machine], tmp_path: Path) -> None:
    save(start(HOME, *disk(image(tmp_path / "a", filled=4))), tmp_path / "guest", way=QUASAR_FILE)
    there = start(HOME, *disk(image(tmp_path / "b", SIZE // 2)), waits=True)
    assert "disk0" in refusal(there, tmp_path / "guest")


# The layout


def test_layout(saved: Path) -> None:
    """What docs/format.rst says, checked by the second implementation."""
    content = saved.read_bytes()
    frames = list(second.read_stream(content, int.from_bytes(content[16:24], "little")))
    head, end = frames[0], frames[-1]
    assert head.header.type == second.NUMBER["HELLO"] and head.header.sequence == 0
    assert second.unpack_kv(head.payload)["file.version"] == 1
    assert [frame.header.sequence for frame in frames] == list(range(len(frames)))
    machine = [f for f in frames[1:-1] if f.header.stream == 1]
    index = [f for f in frames[1:-1] if f.header.stream == 2]
    assert frames[1:-1] == machine + index and machine and index
    assert all(len(frame.payload) == PAYLOAD for frame in machine[:-1])
    assert [bool(f.header.flags & second.END) for f in machine] == [False] * (len(machine) - 1) + [
        True]
    summary = second.unpack_kv(end.payload)
    assert end.header.type == second.NUMBER["BYE"]
    assert sum(64 + frame.header.stored_len for frame in frames) == len(content)
    assert summary["file.frames"] == len(machine)
    assert summary["file.bytes"] == sum(len(frame.payload) for frame in machine)
    entries = b"".join(frame.payload for frame in index)
    assert len(entries) == 16 * -(-len(machine) // EACH)
    for number in range(len(entries) // 16):
        offset, position = (int.from_bytes(entries[at:at + 8], "little")
                            for at in (16 * number, 16 * number + 8))
        assert offset == number * EACH * PAYLOAD
        header = second.unpack_header(content[position:position + 64])
        assert (header.stream, header.offset) == (1, offset)
    index_header = second.unpack_header(content[summary["file.index"]:][:64])
    assert (index_header.stream, index_header.offset) == (2, 0)
