# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks at disks, watches a source and writes the tables can tell right from wrong."""

import subprocess
from pathlib import Path
from typing import Any

import crossing
import ext4
import ledger
import pytest
from migration import Figures, Progress
from travel import Leg

NOW = Progress(0, 0, 0, 0)
FILE = "/usr/share/one"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small file system with two files and a link below /usr."""
    share = tmp_path / "root" / "usr" / "share"
    share.mkdir(parents=True)
    (share / "one").write_bytes(b"1" * 100000)
    (share / "two").write_bytes(b"2")
    (share / "link").symlink_to("two")
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(16 << 20)
    made = ext4.tool("mkfs.ext4", "-q", "-F", "-d", tmp_path / "root", path)
    assert made.returncode == 0, made.stderr
    return path


def spoil(image: Path, request: str) -> None:
    done = ext4.tool("debugfs", "-w", "-R", request, image)
    assert done.returncode == 0, done.stderr


def test_sound_image(image: Path, tmp_path: Path) -> None:
    assert ext4.faults(image) == []
    found = ext4.contents(image, "/usr", tmp_path)
    assert set(found) == {"usr/share/one", "usr/share/two", "usr/share/link"}
    assert found["usr/share/link"] == "-> two"
    assert found["usr/share/one"] == ext4.digest(image, FILE, tmp_path)
    told = subprocess.run(["sha256sum"], input=b"1" * 100000, capture_output=True, check=True)
    assert told.stdout.decode().split()[0] == found["usr/share/one"]
    assert not (tmp_path / "tree").exists() and not (tmp_path / "file").exists()


def test_lost_file_shows(image: Path) -> None:
    spoil(image, f"clri {FILE}")
    said, = ext4.faults(image)
    assert "e2fsck ended with status 4" in said


def test_journal_with_content_shows(image: Path) -> None:
    spoil(image, "feature needs_recovery")
    said, = ext4.faults(image)
    assert ext4.REPLAY in said


def test_no_file_system_shows(image: Path) -> None:
    with open(image, "r+b") as file:
        file.write(bytes(1 << 20))
    assert len(ext4.faults(image)) == 1


def test_flipped_bit_in_a_file_shows(image: Path, tmp_path: Path) -> None:
    before = ext4.contents(image, "/usr", tmp_path)
    data = image.read_bytes()
    at = data.index(b"1" * 4096)
    image.write_bytes(data[:at] + b"0" + data[at + 1:])
    assert ext4.faults(image) == [], "the file system knows nothing of it"
    said, = ext4.changes(before, ext4.contents(image, "/usr", tmp_path))
    assert said.startswith("1 files differ") and said.endswith("usr/share/one")


def test_file_that_is_not_there(image: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="/usr/three"):
        ext4.digest(image, "/usr/three", tmp_path)


class Source:
    """Answers as a source in its rounds does."""

    def __init__(self, expected: list[int], stage: str = "rounds"):
        self.qmp = self
        self.expected = expected
        self.stage = stage
        self.limits: list[int] = []

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        if command == "migrate-set-parameters":
            assert arguments
            self.limits.append(arguments["downtime-limit"])
            return {}
        if command == "query-quasar":
            return {"stage": self.stage, "resent": 5, "disks": [{"throttled": 7}]}
        return {"expected-downtime": self.expected.pop(0), "cpu-throttle-percentage": 20}


def watch(monkeypatch: pytest.MonkeyPatch, source: Source) -> crossing.Watch:
    """Look once for each answer, seconds apart."""
    seconds = iter(range(1000))
    monkeypatch.setattr(crossing.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(crossing, "PATIENCE", 3.0)
    one = crossing.Watch(source)                # type: ignore[arg-type]
    for _ in range(len(source.expected)):
        one(NOW)
    return one


def test_watch_takes_the_source_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source([4000, 2000, 3000, 5000])
    found = watch(monkeypatch, source)
    assert (found.told_ms, found.limit_ms, source.limits) == (2000, 2500, [2500])
    assert (found.throttle, found.brake, found.again) == (20, 7, 5)


@pytest.mark.parametrize(("expected", "stage"), [
    ([4000, 200, 3000, 5000], "rounds"),        # it was in reach once
    ([4000, 2000], "rounds"),                   # not for long enough
    ([4000, 4000, 4000, 4000], "bulk")])        # too early to tell
def test_watch_waits(monkeypatch: pytest.MonkeyPatch, expected: list[int], stage: str) -> None:
    source = Source(expected, stage)
    found = watch(monkeypatch, source)
    assert (found.told_ms, found.limit_ms, source.limits) == (None, crossing.LIMIT_MS, [])


def passage(**changes: Any) -> crossing.Passage:
    figures = Figures(total_ms=61000, downtime_ms=250, bytes=1 << 20, pages=1, zero_pages=1,
                      rounds=4, stopped=10.0, resumed=10.31)
    leg = Leg("x86_64", "ppc64le", figures, {}, faults=changes.pop("faults", []))
    return crossing.Passage(leg, **{"limit_ms": 300, "told_ms": None, "throttle": 0, "brake": 0,
                                    "written": 3 << 20, "again": 1 << 19, **changes})


def test_tables() -> None:
    slowed = passage(limit_ms=2500, told_ms=2000, throttle=40, brake=8 << 20, faults=["late"])
    text = ledger.text([ledger.under_load(passage(), 0, 0, None),
                        ledger.under_load(slowed, 50, 30, 2650.0),
                        ledger.over_link(passage(), "25 Mb/s", 10, 2 << 20)], 90)
    first, second = text.split("The Debian guest ")[1:]
    assert first.splitlines()[4].split() == [
        "x86_64", "ppc64le", "0", "0", "61.0", "s", "4", "-", "300", "ms", "-", "250", "ms",
        "310", "ms", "-", "3.0", "right"]
    assert "cpu by 40 %, disk to 8.0 MiB/s" in first and "2500 ms  2000 ms" in first
    assert "2650 ms" in first and first.splitlines()[5].endswith("FAULT")
    assert second.splitlines()[4].split() == [
        "25", "Mb/s", "10", "61.0", "s", "4", "-", "250", "ms", "310", "ms", "2.0", "3.0", "0.5",
        "right"]
    assert "3 moves in 1.5 minutes" in second
