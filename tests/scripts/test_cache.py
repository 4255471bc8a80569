# SPDX-License-Identifier: GPL-2.0-or-later
"""The build cache: killed builds, damaged entries, two builds at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cache
import pytest
from say import Failure


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUASAR_CACHE", str(tmp_path / "cache"))


class Builder:
    """A build that counts how often it ran."""

    def __init__(self):
        self.count = 0

    def __call__(self, _work: Path, output: Path) -> None:
        self.count += 1
        (output / "bin").mkdir()
        (output / "bin" / "tool").write_text("content\n")
        (output / "link").symlink_to("bin/tool")


def test_built_once_and_found_again():
    builder = Builder()
    first = cache.get("kind", "name", "mark", builder)
    assert (first / "bin" / "tool").read_text() == "content\n"
    assert cache.get("kind", "name", "mark", builder) == first
    assert cache.find("kind", "name", "mark") == first
    assert builder.count == 1
    assert cache.find("kind", "name", "other") is None


@pytest.mark.parametrize("damage", [
    lambda e: (e / "bin" / "tool").unlink(),
    lambda e: (e / "bin" / "tool").write_text("longer than before\n"),
    lambda e: (e / "bin" / "more").write_text(""),
    lambda e: ((e / "link").unlink(), (e / "link").symlink_to("elsewhere")),
    lambda e: e.with_name(e.name + ".manifest").write_text("{"),
], ids=["removed", "changed", "added", "link", "manifest"])
def test_damage_is_noticed_and_mended(damage, capfd):
    builder = Builder()
    entry = cache.get("kind", "name", "mark", builder)
    damage(entry)
    assert cache.find("kind", "name", "mark") is None
    assert "is damaged" in capfd.readouterr().err
    assert cache.get("kind", "name", "mark", builder) == entry
    assert builder.count == 2
    assert (entry / "bin" / "tool").read_text() == "content\n"
    assert not (entry / "bin" / "more").exists()


def test_a_flipped_byte_behind_an_unchanged_time_is_noticed_by_builders():
    builder = Builder()
    tool = cache.get("kind", "name", "mark", builder) / "bin" / "tool"
    info = tool.stat()
    tool.write_text("contenT\n")
    os.utime(tool, ns=(info.st_atime_ns, info.st_mtime_ns))
    cache.get("kind", "name", "mark", builder)
    assert builder.count == 2


def test_a_failed_build_leaves_no_entry():
    def fail(_work: Path, output: Path) -> None:
        (output / "half").write_text("")
        raise Failure("the compiler is missing")

    with pytest.raises(Failure, match="the compiler is missing"):
        cache.get("kind", "name", "mark", fail)
    assert cache.find("kind", "name", "mark") is None
    assert not (cache.root() / "kind").exists()
    assert not list((cache.root() / "work").iterdir())


def test_times_alone_are_no_damage():
    """A cache that went through an archive loses the fractions of its times."""
    builder = Builder()
    tool = cache.get("kind", "name", "mark", builder) / "bin" / "tool"
    os.utime(tool, (1000, 1000))
    assert cache.find("kind", "name", "mark") and cache.find("kind", "name", "mark", contents=True)
    cache.get("kind", "name", "mark", builder)
    assert builder.count == 1


SLOW_BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import cache, say
def build(work, output):
    (output / "first").write_text("1")
    Path(sys.argv[2]).open("a").write("run\\n")
    loop = f"sleep {sys.argv[3]}; touch {work}/late {sys.argv[2]}.late"
    say.run(["sh", "-c", loop], log=work / "log", what="a tool")
    (output / "second").write_text("2")
print(cache.get("kind", "slow", "mark", build))
"""


def start_slow_build(checkout: Path, log: Path, seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(checkout / "scripts/lib"),
                             str(log), str(seconds)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.02)


def test_a_killed_build_starts_again(checkout, tmp_path):
    log = tmp_path / "runs"
    victim = start_slow_build(checkout, log, 60)
    wait_for(log)
    children = Path(f"/proc/{victim.pid}/task/{victim.pid}/children")
    deadline = time.monotonic() + 20
    while not (tool := children.read_text().split()) or \
            Path(f"/proc/{tool[0]}/comm").read_text() != "sh\n":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    while Path(f"/proc/{tool[0]}").exists():    # the tool ends with the build that ran it
        assert time.monotonic() < deadline, "the build's tool goes on"
        time.sleep(0.02)
    assert cache.find("kind", "slow", "mark") is None
    second = start_slow_build(checkout, log, 0)
    assert second.wait(30) == 0
    entry = cache.find("kind", "slow", "mark", contents=True)
    assert entry and (entry / "second").exists()
    assert log.read_text() == "run\nrun\n"
    assert not list((cache.root() / "work").iterdir())


def test_the_remains_of_a_killed_build_are_swept_but_not_a_running_one(checkout, tmp_path):
    log = tmp_path / "runs"
    victim = start_slow_build(checkout, log, 60)
    wait_for(log)
    cache.get("kind", "other", "mark", Builder())
    assert [p.name for p in (cache.root() / "work").iterdir()] == ["kind-slow-mark"]
    victim.kill()
    victim.communicate()
    cache.get("kind", "third", "mark", Builder())
    assert not list((cache.root() / "work").iterdir())


def test_two_builds_at_once_build_once(checkout, tmp_path):
    log = tmp_path / "runs"
    first = start_slow_build(checkout, log, 1)
    wait_for(log)
    second = start_slow_build(checkout, log, 1)
    answers = [first.communicate(timeout=30), second.communicate(timeout=30)]
    assert answers[0][0] == answers[1][0]
    assert "waiting for another build" in answers[1][1]
    assert log.read_text() == "run\n"


def test_old_entries_are_dropped():
    for number in range(cache.KEEP + 3):
        cache.get("kind", "name", f"mark{number:02}", Builder())
    left = list((cache.root() / "kind").glob("*.manifest"))
    assert len(left) == cache.KEEP
    assert cache.find("kind", "name", f"mark{cache.KEEP + 2:02}")
