# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks in a session: what is refused, what fails, what stays behind.

The guest does not use its disk; the block layer does not know that, and injects errors where a
real one would have them.  (test_session.py moves disks that a guest writes to.)
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from session import Session

HOME = "x86_64"
GUEST = "bare-x86_64"
SIZE = 32 << 20
BLOCK = 1 << 16
LATER = 16 << 20             # a place that holds nothing at first
BACKEND = "/machine/peripheral/disk0/virtio-backend"

pytestmark = [pytest.mark.quick, pytest.mark.route(GUEST, HOME, HOME)]


def image(path: Path, size: int = SIZE, filled: int = 0) -> Path:
    """Make a raw image whose first FILLED blocks differ from each other and from zero."""
    with open(path, "wb") as file:
        for number in range(filled):
            file.write((number + 1).to_bytes(4, "big") * (BLOCK // 4))
        file.truncate(size)
    return path


def disk(path: Path, error: str = "") -> tuple[str, ...]:
    """Give QEMU's arguments for the disk; ERROR is an error to inject, as blkdebug takes it."""
    file = f"file.driver=file,file.filename={path}"
    if error:
        file = f"file.driver=blkdebug,file.image.driver=file,file.image.filename={path},{error}"
    return ("-blockdev", f"driver=raw,node-name=node0,{file}",
            "-device", "virtio-blk-pci,id=disk0,drive=node0")


def injected(kind: str, number: int, at: int | None = None) -> str:
    """Let a KIND of request fail with that errno: every one, or those that touch a byte."""
    error = "file.inject-error.0"
    where = "" if at is None else f",{error}.sector={at // 512}"
    return f"{error}.event=none,{error}.iotype={kind},{error}.errno={number}{where}"


def stays(session: Session) -> str:
    session.start()
    return session.check_stays()


def test_content_arrives(pair: Callable[..., Session], tmp_path: Path) -> None:
    """Into an image that had other content before."""
    start, end = image(tmp_path / "a", filled=64), image(tmp_path / "b", filled=200)
    session = pair(disk(start), disk(end))
    session.start()
    assert session.wait_settled("source")["where"] == "peer"
    session.wait_settled("destination")
    assert start.read_bytes() == end.read_bytes()
    sent, = session.info("source")["disks"]
    assert sent["id"] == "disk0" and 64 * BLOCK <= sent["sent"] < 80 * BLOCK


def test_size_differs(pair: Callable[..., Session], tmp_path: Path) -> None:
    session = pair(disk(image(tmp_path / "a")), disk(image(tmp_path / "b", SIZE // 2)))
    reason = stays(session)
    assert "disk0" in reason and str(SIZE) in reason and str(SIZE // 2) in reason
    assert session.destination.running, "it could take another machine"


def test_source_cannot_be_read(pair: Callable[..., Session], tmp_path: Path) -> None:
    session = pair(disk(image(tmp_path / "a", filled=64), injected("read", errno.EIO)),
                   disk(image(tmp_path / "b")))
    reason = stays(session)
    assert "disk0" in reason and "Input/output error" in reason


def test_destination_is_full(pair: Callable[..., Session], tmp_path: Path) -> None:
    session = pair(disk(image(tmp_path / "a", filled=64)),
                   disk(image(tmp_path / "b"), injected("write", errno.ENOSPC)))
    reason = stays(session)
    assert "disk0" in reason and "No space left" in reason
    session.destination.process.wait(10)
    assert "No space left" in session.destination.stderr()


@pytest.mark.parametrize(("end", "kind", "number"), [
    ("source", "read", errno.EIO), ("destination", "write", errno.EIO),
    ("destination", "write", errno.ENOSPC)])
def test_error_in_a_later_round(pair: Callable[..., Session], tmp_path: Path, end: str, kind: str,
                                number: int) -> None:
    """Everything was sent once, then a block that was empty is written, and cannot go along."""
    error = {end: injected(kind, number, LATER)}
    session = pair(disk(image(tmp_path / "a", filled=16), error.get("source", "")),
                   disk(image(tmp_path / "b"), error.get("destination", "")),
                   parameters={"downtime-limit": 1}, rate=400e6)
    session.start()
    session.source.qmp.wait_event("QUASAR_STAGE", lambda d: d["stage"] == "rounds")
    session.source.qmp.human(f'qemu-io -d {BACKEND} "write -P 0x5a {LATER} {BLOCK}"')
    reason = session.check_stays()
    assert "disk0" in reason and os.strerror(number) in reason


@pytest.mark.parametrize(("end", "kind", "number"), [
    ("source", "read", errno.EIO), ("destination", "write", errno.ENOSPC)])
def test_error_in_the_last_pass(pair: Callable[..., Session], tmp_path: Path, end: str, kind: str,
                                number: int) -> None:
    """The machine is paused, and what was written last cannot go along: it stays at the source."""
    error = {end: injected(kind, number, LATER)}
    session = pair(disk(image(tmp_path / "a", filled=16), error.get("source", "")),
                   disk(image(tmp_path / "b"), error.get("destination", "")))
    source = session.source.qmp
    source.execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "pause-before-switchover", "state": True}]})
    session.start()
    source.wait_event("MIGRATION", lambda d: d["status"] == "pre-switchover")
    assert session.runners() == []
    source.human(f'qemu-io -d {BACKEND} "write -P 0x5a {LATER} {BLOCK}"')
    source.execute("migrate-continue", {"state": "pre-switchover"})
    reason = session.check_stays()
    assert "disk0" in reason and os.strerror(number) in reason
    session.destination.process.wait(10)


def test_destination_cannot_flush(pair: Callable[..., Session], tmp_path: Path) -> None:
    """The machine is paused already and all of it was sent: no vote, it goes on at the source."""
    session = pair(disk(image(tmp_path / "a", filled=16)),
                   disk(image(tmp_path / "b"), injected("flush", errno.EIO)))
    reason = stays(session)
    assert "disk0" in reason and os.strerror(errno.EIO) in reason
    assert [e for e in session.source.qmp.events("QUASAR_STAGE") if e.data["stage"] == "stop"]
    session.destination.process.wait(10)


def test_excluded_disk_stays(pair: Callable[..., Session], tmp_path: Path) -> None:
    start, end = image(tmp_path / "a", filled=64), image(tmp_path / "b")
    session = pair(disk(start), disk(end), settings={"exclude-disks": ["disk0"]})
    session.start()
    assert session.wait_settled("source")["where"] == "peer"
    session.wait_settled("destination")
    assert session.info("source")["disks"] == []
    assert not any(end.read_bytes())


def test_a_disk_that_takes_its_time(pair: Callable[..., Session], tmp_path: Path) -> None:
    """A destination that cannot take more for a while does not take the source for silent."""
    path = image(tmp_path / "b", 2 * SIZE)
    slow = ("-object", "throttle-group,id=slow,x-bps-write=16384", "-blockdev",
            "driver=raw,node-name=node0,file.driver=throttle,file.throttle-group=slow,"
            f"file.file.driver=file,file.file.filename={path}",
            "-device", "virtio-blk-pci,id=disk0,drive=node0")
    session = pair(disk(image(tmp_path / "a", 2 * SIZE, filled=2 * SIZE // BLOCK)), slow)
    session.start()
    time.sleep(10)              # longer than an end may be silent
    session.destination.qmp.execute("qom-set", {
        "path": "/objects/slow", "property": "limits", "value": {"bps-write": 0}})
    session.check_arrives()
    assert not any(lane["cuts"] for end in session.ends for lane in session.info(end)["lanes"])
