# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs with real QEMUs: killed and resumed, given up, left alone, watched, and told of.

The other host is a second root on this one, as in test_migrate.py; what a launcher that died leaves
is taken up by another through the same stand-in for ssh.
"""

import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import PROGRAM, Launcher
from test_job_states import jobs, kill, kill_launcher, wait_phase
from test_migrate import (ANY_PAUSE, ask, begin_slowly, kill_qemu, pair, rsh,  # noqa: F401
                          script, stays, there)
from test_save import disk, image, last_pass  # noqa: F401

from deadlines import Deadline
from qmp import Qmp

Pair = tuple[Launcher, Launcher]
SVG = "{http://www.w3.org/2000/svg}"


def hurry(launcher: Launcher) -> None:
    """As fast as it goes, with any pause."""
    ask(launcher, "box", "migrate-set-parameters",
        **{"max-bandwidth": 1 << 40, "downtime-limit": 20000})


def arrived(here: Launcher, there: Launcher) -> None:
    """It runs on the other host, which keeps it, and here it is known to be there."""
    assert there.state("box")["state"] == "running"
    assert "moved" not in there.state("box")["definition"]
    assert here.state("box")["state"] == "stopped"
    assert "left for 127.0.0.1" in here.bad(3, "start", "box")
    last_pass(there, "box")


def filtered(path: Path, there: Launcher, word: str, go: Path) -> Path:
    """A stand-in for ssh that holds one word of the receiver back until the file `go` is there."""
    return script(path, f"shift 2; {shlex.quote(PROGRAM)} --root {shlex.quote(str(there.root))} "
                  f'"$@" | while read -r line; do case $line in *\'"{word}"\'*) '
                  f"while [ ! -e {shlex.quote(str(go))} ]; do sleep 0.1; done;; esac; "
                  "printf '%s\\n' \"$line\"; done")


# Killed, and resumed


@pytest.mark.parametrize("word, phase", [("hello", "agree"), ("accept", "agree"),
                                         ("listening", "listen")])
def test_killed_before_it_began(pair: Pair, rsh: Path, tmp_path: Path,       # noqa: F811
                                word: str, phase: str) -> None:
    here, there = pair
    before = last_pass(here, "box")
    slow = filtered(tmp_path / "slow", there, word, tmp_path / "go")
    mover = here.start("migrate", "box", "127.0.0.1", "--rsh", slow)
    wait_phase(here, phase)
    kill(mover)
    (tmp_path / "go").touch()
    line = here.bad(4, "resume", "box", "--rsh", rsh)
    assert "its launcher ended before it began; state: it runs here" in line
    assert last_pass(here, "box") > before
    deadline = Deadline(60, "the end of what came")
    while there.good("list", "--format", "names"):
        deadline.left()
        time.sleep(0.1)
    stays(here, there)
    here.good("migrate", "box", "127.0.0.1", "--rsh", rsh, *ANY_PAUSE)
    assert there.state("box")["state"] == "running"


@pytest.mark.parametrize("phase", ["bulk", "rounds"])
def test_killed_while_it_moves(pair: Pair, rsh: Path, phase: str) -> None:    # noqa: F811
    """QEMU goes on by itself; who resumes sees it through, and the files go as was asked."""
    here, there = pair
    before = last_pass(here, "box")
    mover = here.start("migrate", "box", "127.0.0.1", "--rsh", rsh, "--bandwidth", "1M",
                       "--remove")
    wait_phase(here, "bulk")
    if phase == "rounds":       # memory changes faster than that, so they do not end
        ask(here, "box", "migrate-set-parameters",
            **{"max-bandwidth": 16 << 20, "downtime-limit": 1})
        wait_phase(here, "rounds")
    kill(mover)
    assert jobs(here)[-1]["state"] == "interrupted"
    hurry(here)
    done = here.run("resume", "box", "--rsh", rsh)
    assert done.returncode == 0 and "box is at 127.0.0.1" in done.stderr, done.stderr
    assert here.good("list", "--format", "names") == ""
    assert there.state("box")["state"] == "running"
    assert last_pass(there, "box") > before
    deadline = Deadline(20, "the receiver to write down that it is there")
    while [job["state"] for job in jobs(here) + jobs(there)] != ["done", "done"]:
        assert deadline.left() > 0, (deadline.what, jobs(here), jobs(there))
        time.sleep(0.1)


def test_killed_as_it_is_there(pair: Pair, rsh: Path, tmp_path: Path) -> None:    # noqa: F811
    here, there = pair
    slow = filtered(tmp_path / "slow", there, "arrived", tmp_path / "go")
    mover = here.start("migrate", "box", "127.0.0.1", "--rsh", slow, *ANY_PAUSE)
    wait_phase(here, "finish")
    kill(mover)
    assert there.state("box")["state"] == "running"
    assert here.state("box")["state"] == "left"
    here.good("resume", "box", "--rsh", rsh)
    (tmp_path / "go").touch()
    arrived(here, there)


def test_both_killed(pair: Pair, rsh: Path) -> None:       # noqa: F811
    """Who resumes here finishes there as well."""
    here, there = pair
    mover = begin_slowly(here, rsh)
    kill_launcher(there)
    kill(mover)
    hurry(here)
    done = here.run("resume", "box", "--rsh", rsh)
    assert done.returncode == 0, done.stderr
    arrived(here, there)
    assert jobs(there)[-1]["state"] == "done"


def test_receiver_killed_and_resumed(pair: Pair, rsh: Path) -> None:       # noqa: F811
    here, there = pair
    mover = begin_slowly(here, rsh)
    kill_launcher(there)
    second = there.start("resume", "box")
    hurry(here)
    assert second.wait(60) == 0, second.stderr.read()
    assert mover.wait(60) == 6          # the one it talked with said nothing
    here.good("resume", "box", "--rsh", rsh)
    arrived(here, there)


@pytest.mark.parametrize("receiver", ["lives", "killed"])
def test_killed_and_its_qemu_too(pair: Pair, rsh: Path, receiver: str) -> None:    # noqa: F811
    """As after a power cut at the source: the other host says that nothing of it is left there."""
    here, there = pair
    ask(here, "box", "quasar-set", **{"resume-timeout": 2})
    mover = begin_slowly(here, rsh)
    if receiver == "killed":
        kill_launcher(there)
    kill(mover)
    kill_qemu(here, "box")
    if receiver == "lives":
        deadline = Deadline(60, "the end of what came")
        while there.good("list", "--format", "names"):
            deadline.left()
            time.sleep(0.1)
    line = here.bad(1, "resume", "box", "--rsh", rsh)
    assert "stopped here, and not on the other host" in line
    here.good("start", "box")
    stays(here, there)


def test_killed_and_failed(pair: Pair, rsh: Path) -> None:     # noqa: F811
    here, there = pair
    ask(here, "box", "quasar-set", **{"resume-timeout": 2})
    mover = begin_slowly(here, rsh)
    kill(mover)
    kill_qemu(there, "box")
    assert "was not moved" in here.bad(4, "resume", "box", "--rsh", rsh)
    assert here.state("box")["state"] == "running"
    last_pass(here, "box")


# Given up


@pytest.mark.parametrize("alive", [True, False])
def test_cancelled(pair: Pair, rsh: Path, alive: bool) -> None:    # noqa: F811
    here, there = pair
    before = last_pass(here, "box")
    mover = begin_slowly(here, rsh)
    if not alive:
        kill(mover)
    done = here.run("cancel", "box")
    assert done.returncode == 0 and "it runs here" in done.stderr, done.stderr
    if alive:
        assert mover.wait(60) == 130
    assert jobs(here)[-1]["state"] == "cancelled"
    deadline = Deadline(60, "the end of what came")
    while there.good("list", "--format", "names"):
        deadline.left()
        time.sleep(0.1)
    stays(here, there)
    assert last_pass(here, "box") > before
    assert "has ended already" in here.bad(1, "cancel", "box#1")


# Left alone


def on_a_terminal(launcher: Launcher, *words: object) -> tuple[int, str]:
    """Runs a command on a terminal of its own, which goes when the command has ended."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(launcher.argv(*words), stdin=follower, stdout=follower,
                               stderr=follower, env=launcher.environment, start_new_session=True)
    os.close(follower)
    seen = b""
    status = process.wait(60)
    while select.select([leader], [], [], 1)[0]:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    return status, seen.decode()


def test_detached(pair: Pair, rsh: Path) -> None:      # noqa: F811
    """The terminal goes; the move does not, and whoever watches learns its end."""
    here, there = pair
    status, seen = on_a_terminal(here, "migrate", "box", "127.0.0.1", "--rsh", rsh, "--detach",
                                 "--bandwidth", "1M")
    assert status == 0, seen
    assert seen.splitlines()[-1] == "box#1" and "quasar-run watch" in seen
    [job] = jobs(here)
    assert job["state"] == "running"
    stat = Path(f"/proc/{job['pid']}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[3]) == job["pid"] and int(stat[4]) == 0        # a session without a terminal
    watcher = here.start("watch", "box#1", "--progress", "json", text=True)
    assert watcher.stdout and json.loads(watcher.stdout.readline())["phase"] == "bulk"
    hurry(here)
    _, errors = watcher.communicate(timeout=90)
    assert watcher.returncode == 0 and "box is at 127.0.0.1" in errors
    arrived(here, there)


def test_detached_and_captured(pair: Pair, rsh: Path) -> None:     # noqa: F811
    """Who waits for the end of both outputs does not wait for the end of the move."""
    here, there = pair
    done = here.run("migrate", "box", "127.0.0.1", "--rsh", rsh, "--detach", "--bandwidth", "1M")
    assert (done.returncode, done.stdout) == (0, "box#1\n")
    assert jobs(here)[-1]["state"] == "running"
    here.good("cancel", "box")
    deadline = Deadline(60, "the end of what came")
    while there.good("list", "--format", "names"):
        deadline.left()
    stays(here, there)


def test_detached_and_refused(pair: Pair) -> None:
    """What goes wrong before it is under way is told on the terminal, with its status."""
    here, _ = pair
    line = here.bad(1, "migrate", "box", "127.0.0.1", "--rsh", "false", "--detach")
    assert "ended the connection; state: it is here as it was" in line
    here.bad(2, "migrate", "box", "127.0.0.1", "--detach", "--dry-run")
    here.bad(1, "migrate", "nobody", "127.0.0.1", "--detach")


def test_saved_detached(bare: Launcher, tmp_path: Path) -> None:
    before = last_pass(bare, "box")
    done = bare.run("save", "box", tmp_path / "f", "--detach")
    assert (done.returncode, done.stdout) == (0, "box#1\n"), done.stderr
    done = bare.run("watch", "box")
    assert done.returncode == 0 and "is saved in" in done.stderr
    assert bare.state("box")["state"] == "stopped"
    bare.good("delete", "box")
    bare.good("restore", tmp_path / "f")
    assert last_pass(bare, "box") > before


# Save and restore


@pytest.mark.parametrize("phase", ["state", "pack", "publish"])
def test_killed_while_it_saves(disk: Launcher, tmp_path: Path, phase: str) -> None:   # noqa: F811
    """It is here or in the file, never in both and never in none; the status says where."""
    file = tmp_path / "f"
    before = last_pass(disk, "box")
    with open(tmp_path / "disk.img", "r+b") as raw:       # takes a moment to pack
        raw.seek(1 << 20)
        raw.write(os.urandom(48 << 20))
    saver = disk.start("save", "box", file)
    deadline = Deadline(60, phase)
    record = disk.root / "jobs" / "1.job"
    while saver.poll() is None and not (record.exists() and f"-{phase}=" in record.read_text()):
        deadline.left()
    kill(saver)
    done = disk.run("resume", "box")
    if done.returncode == 0:
        assert file.exists() and disk.state("box")["state"] == "stopped"
        disk.good("delete", "box")
        disk.good("restore", file)
    elif done.returncode == 4:
        assert not list(tmp_path.glob("f*")) and "was not saved" in done.stderr
    else:
        assert done.returncode == 1 and "has ended" in done.stderr and file.exists(), done.stderr
        disk.good("restore", file, "--name", "again")
        assert last_pass(disk, "again") > before
        return
    assert last_pass(disk, "box") > before


@pytest.mark.parametrize("phase", ["unpack", "load", "run"])
def test_killed_while_it_restores(bare: Launcher, tmp_path: Path, phase: str) -> None:
    file = tmp_path / "f"
    before = last_pass(bare, "box")
    bare.good("save", "box", file)
    restorer = bare.start("restore", file, "--name", "again")
    deadline = Deadline(60, phase)
    record = bare.root / "jobs" / "2.job"
    while restorer.poll() is None and not (record.exists() and f"-{phase}=" in record.read_text()):
        deadline.left()
    kill(restorer)
    done = bare.run("resume", "again")
    if done.returncode == 1 and "only in its file" in done.stderr:
        assert bare.good("list", "--format", "names") == "box\n"
        assert not list((bare.root / "images").glob("*"))
        bare.good("restore", file, "--name", "again")
    else:
        assert done.returncode == 0 or "has ended" in done.stderr, done.stderr
    assert last_pass(bare, "again") > before


# Undecided


def test_undecided_for_good(pair: Pair, rsh: Path) -> None:    # noqa: F811
    """The other QEMU ends as it was told to run: here nobody can know, and a person says so."""
    here, there = pair
    ask(here, "box", "quasar-set", **{"resume-timeout": 2})
    mover = begin_slowly(here, rsh)
    kill(mover)
    folder = os.open(here.run_folder("box"), os.O_PATH)
    pidfd = os.pidfd_open(there.state("box")["pid"])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"/proc/self/fd/{folder}/query")
        qmp = Qmp(connection)
        qmp.execute("migrate-set-parameters",
                    {"max-bandwidth": 1 << 40, "downtime-limit": 20000})
        qmp.wait_event("QUASAR_STAGE", lambda data: data["stage"] == "commit")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        qmp.close()
    select.select([pidfd], [], [], 30)
    os.close(folder)
    os.close(pidfd)
    told = ask(here, "box", "query-quasar")
    assert told["where"] in ("undecided", "peer"), told
    if told["where"] == "peer":     # its word was quicker
        assert "nothing is undecided here" in here.bad(3, "resolve", "box", "run", "--yes")
        return
    line = here.bad(3, "resolve", "box", "run", "--rsh", rsh)
    assert "nothing was decided" in line
    here.good("resolve", "box", "run", "--rsh", rsh, "--yes")
    assert here.state("box")["state"] == "running"
    assert "moved" not in here.state("box")["definition"]
    last_pass(here, "box")


# What is told of it


def points_of(svg: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    [line] = [e for e in svg.iter(f"{SVG}polyline") if e.get("id") == name]
    return [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]


def test_report(pair: Pair, rsh: Path, tmp_path: Path) -> None:    # noqa: F811
    """The drawing shows what the samples say, and these what the progress said."""
    here, there = pair
    text = here.good("migrate", "box", "127.0.0.1", "--rsh", rsh, "--progress", "json",
                     "--bandwidth", "4M", *ANY_PAUSE)
    lines = [json.loads(line) for line in text.splitlines()]
    report = json.loads(here.good("report", "box", "--format", "json"))
    samples = report["samples"]
    assert report["state"] == "done" and report["words"] == "box is at 127.0.0.1"
    assert samples[-1]["stage"] == "done"
    assert samples[-1]["sent"] == lines[-1]["bytes"] > 1 << 20
    assert samples[-1]["downtime_ms"] == lines[-1]["downtime_ms"] > 0
    assert {line["phase"] for line in lines} >= {s["stage"] for s in samples} >= {"bulk", "done"}
    phases = [row["phase"] for row in report["phases"]]
    assert phases[:3] == ["agree", "files", "listen"] and phases[-2:] == ["done", "finish"]
    assert [row["ms"] for row in report["phases"]] == sorted(row["ms"] for row in report["phases"])

    here.good("report", "box", "-o", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text() == here.good("report", "box", "--format", "svg")
    svg = ElementTree.parse(tmp_path / "a.svg").getroot()
    left, right = 70, 840
    most = max(s["remaining"] for s in samples)
    fastest = max(max(s["rate"], s["dirty_rate"]) for s in samples)
    for name, key, scale, bottom in (("remaining", "remaining", most, 254),
                                     ("rate", "rate", fastest, 498),
                                     ("dirty", "dirty_rate", fastest, 498)):
        points = points_of(svg, name)
        assert len(points) == len(samples)
        for (x, y), sample in zip(points, samples):
            assert abs(x - left - (right - left) * sample["ms"] / samples[-1]["ms"]) < 0.1
            assert abs(y - bottom + 180 * sample[key] / scale) < 0.1
    words = ["".join(e.itertext()) for e in svg.iter(f"{SVG}text")]
    assert f"downtime {samples[-1]['downtime_ms']} ms" in words
    assert f"{most / (1 << 20):.1f} MiB" in words
    assert any("box is at 127.0.0.1" in word for word in words)
    shown = here.good("report", "box")
    assert re.search(rf"^downtime +{samples[-1]['downtime_ms']} ms$", shown, re.M)
    theirs = json.loads(there.good("report", "box", "--json"))
    assert theirs["verb"] == "receive" and theirs["state"] == "done"
    assert theirs["uuid"] == report["uuid"]


def test_what_it_costs(pair: Pair, rsh: Path) -> None:     # noqa: F811
    """A full history adds nothing that is felt to the next job."""
    from test_words import record
    here, _ = pair
    for number in range(1, 200):
        record(here, "web", number)
    here.good("migrate", "box", "127.0.0.1", "--rsh", rsh, *ANY_PAUSE)
    report = json.loads(here.good("report", "box", "--format", "json"))
    assert report["job"] == "box#200" and report["phases"][0]["ms"] < 300
