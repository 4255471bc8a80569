# SPDX-License-Identifier: GPL-2.0-or-later
"""A launcher dies at every phase of a job, and another is asked to resume, watch or give it up.

QEMU is played (see qemuplayer.py), and so is the launcher of the other host, by a script that
answers as `show`, `jobs` and `resume` would there. A case names the phase at which the launcher is
killed with SIGKILL, what the two say afterwards, and what must come of it: exit status, words,
where the VM is, and what the record says.
"""

import json
import os
import select
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Fake, Launcher
from test_migrate import HELLO, left_files, offer, script
from test_move_states import AGREES, LISTENS, STARTED, Receiver, mark, session
from test_words import define, record

from deadlines import Deadline

HOST = "127.0.0.1"
# A receiver that undoes what it is told to.
KEEPS_NOTHING = ("while read -r line; do case $line in *abandon*) echo '{\"say\":\"removed\"}';; "
                 "esac; done")
ENDS = {"here": "failed", "peer": "done"}


def jobs(launcher: Launcher, *words: str) -> list[dict[str, Any]]:
    return json.loads(launcher.good("jobs", "--all", "--json", *words))


def wait_phase(launcher: Launcher, phase: str) -> dict[str, Any]:
    """Until the latest job is there."""
    deadline = Deadline(60, f"phase {phase}")
    while not (found := jobs(launcher)) or found[-1]["phase"] != phase:
        deadline.left()
        time.sleep(0.02)
    return found[-1]


def wait_taken(launcher: Launcher, process: subprocess.Popen) -> None:
    """Until the latest job is this launcher's."""
    deadline = Deadline(60, "who takes the job up")
    while jobs(launcher)[-1].get("pid") != process.pid:
        assert process.poll() is None
        deadline.left()
        time.sleep(0.02)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def kill_launcher(launcher: Launcher) -> None:
    """Of the latest job, which somebody else started."""
    pidfd = os.pidfd_open(jobs(launcher)[-1]["pid"])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [], 30)
    os.close(pidfd)
    assert jobs(launcher)[-1]["state"] == "interrupted"


# The other host


class Peer:
    """What stands for ssh to another host, and what its launcher says there."""

    def __init__(self, folder: Path, uuid: str):
        self.folder = folder
        self.uuid = uuid
        folder.mkdir()
        self.rsh = script(folder / "rsh", f"cd {shlex.quote(str(folder))}; echo $3 >>asked; "
                          '[ -e after-$3 ] && for f in after-$3/*; do mv "$f" .; done; '
                          "[ -e $3 ] || exit 255; cat $3; exit $(cat $3.status)")

    def says(self, verb: str, answer: Any, status: int = 0, after: str | None = None) -> "Peer":
        """What a verb gives there; with `after`, only once that verb was asked."""
        folder = self.folder / f"after-{after}" if after else self.folder
        folder.mkdir(exist_ok=True)
        (folder / verb).write_text(answer if isinstance(answer, str) else json.dumps(answer))
        (folder / f"{verb}.status").write_text(str(status))
        return self

    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().split() if path.exists() else []

    def shows(self, state: str = "running", moved: str | None = None, where: str | None = None,
              **more: Any) -> "Peer":
        definition = {"uuid": more.pop("uuid", self.uuid)} | ({"moved": moved} if moved else {})
        shown = {"name": "web", "state": state, "definition": definition}
        if where:
            shown["move"] = {"where": where, "stage": "rounds"}
        return self.says("show", shown, **more)

    def has_none(self, *states: str, verb: str = "receive") -> "Peer":
        """No such VM; this was the end of its jobs there."""
        self.says("show", "", 1)
        return self.says("jobs", [{"uuid": self.uuid, "verb": verb, "state": s} for s in states])


def unreached(peer: Peer) -> None:
    pass


def holds(peer: Peer) -> None:
    peer.shows()


def holds_stopped(peer: Peer) -> None:
    peer.shows("stopped")


def undecided(peer: Peer) -> None:
    peer.shows("paused", "(arriving)", "undecided")


def coming(peer: Peer) -> None:
    peer.shows("arriving", "(arriving)", "peer")


def lacks(peer: Peer) -> None:
    peer.has_none("done", "failed")


def forgot(peer: Peer) -> None:
    peer.has_none()


def had_it_once(peer: Peer) -> None:
    peer.has_none("failed", "done")


def interrupted_there(peer: Peer) -> None:
    peer.has_none("interrupted")


def left_from_there(peer: Peer) -> None:
    """It was there before, and its earlier definition was put back when it did not come."""
    peer.shows("stopped", "elsewhere").says(
        "jobs", [{"uuid": peer.uuid, "verb": "migrate", "state": "done"},
                 {"uuid": peer.uuid, "verb": "receive", "state": "failed"}])


def left_and_no_more_known(peer: Peer) -> None:
    peer.shows("stopped", "elsewhere").says(
        "jobs", [{"uuid": peer.uuid, "verb": "migrate", "state": "done"}])


def its_launcher_died_too(peer: Peer) -> None:
    """Marked as arriving until somebody resumes it there."""
    peer.shows("stopped", "(arriving)").says("resume", "").shows("running", after="resume")


def nobody_wrote_it_down(peer: Peer) -> None:
    """Its QEMU runs it, and its launcher died."""
    peer.shows("running", "(arriving)", "here").says("resume", "")
    peer.shows("running", after="resume")


def namesake(peer: Peer) -> None:
    peer.shows(uuid="another")


def garbage(peer: Peer) -> None:
    peer.says("show", "SSH-2.0-OpenSSH")


def deep(peer: Peer) -> None:
    peer.says("show", '{"definition":' + "[" * 10000)


def endless(peer: Peer) -> None:
    script(peer.folder / "rsh", "exec cat /dev/zero")


def refuses(peer: Peer) -> None:
    peer.says("show", "", 3)


# A launcher that is killed at the source


@dataclass
class Source:
    """A VM `web` whose launcher moves it, until it is killed."""
    fake: Fake
    peer: Peer
    folder: Path
    mover: subprocess.Popen | None = None
    words: list[str] = field(default_factory=list)

    def begin(self, phase: str, *words: str) -> None:
        """A move that is in this phase, and stays in it."""
        early = {"agree": "", "files": f"echo '{HELLO}'; echo '{{\"say\":\"accept\"}}'; ",
                 "listen": f"echo '{HELLO}'; echo '{{\"say\":\"accept\"}}'; "}
        reads = "exec sleep 60" if phase == "files" else KEEPS_NOTHING
        stranger = script(self.folder / "stranger", early.get(phase, AGREES) + reads)
        if phase in ("commit", "finish"):
            where, stage = ("undecided", "commit") if phase == "commit" else ("peer", "done")
        else:
            where, stage = "here", phase
        self.mover = self.fake.start("migrate", "web", HOST, "--rsh", stranger, *words)
        if phase not in early:
            self.fake.wait_asked("migrate")
            self.fake.tell(**STARTED, **session(where, stage))
        wait_phase(self.fake, phase)

    def kill(self) -> None:
        assert self.mover
        kill(self.mover)
        assert jobs(self.fake)[-1]["state"] == "interrupted"

    def end_qemu(self) -> None:
        self.fake.tell(**{"query-status": "die"})
        self.fake.good("show", "web")
        assert self.fake.state("web")["state"] == "stopped"
        self.fake.tell(**STARTED)

    def says(self, where: str | None, stage: str | None = None) -> None:
        """What QEMU says from now on; None: it knows of no session."""
        self.fake.tell(**STARTED, **(session(where, stage or ENDS[where]) if where else {}))

    def asked(self) -> set[str]:
        path = Path(self.fake.environment["FAKE_QEMU"]).with_suffix(".asked")
        return set(path.read_text().split()) if path.exists() else set()


@pytest.fixture
def source(fake: Fake, tmp_path: Path) -> Source:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(1 << 20))      # more than a pipe holds
    fake.good("start", "web", "--memory", "64M", "--net", "none", "--kernel", kernel)
    fake.tell(**STARTED)
    uuid = fake.state("web")["definition"]["uuid"]
    return Source(fake, Peer(tmp_path / "peer", uuid), tmp_path)


@dataclass(frozen=True)
class Case:
    phase: str                      # in which the launcher is killed
    qemu: str | None                # what QEMU says then: here, peer, None, or "gone"
    peer: Any
    status: int
    words: str
    marked: bool = False            # afterwards
    runs: bool = True
    remove: bool = False


STAYED = "was not moved"
CASES = {
    "agree": Case("agree", None, unreached, 4, "its launcher ended before it began"),
    "files": Case("files", None, unreached, 4, "its launcher ended before it began"),
    "listen": Case("listen", None, lacks, 4, "its launcher ended before it began"),
    "agree, QEMU gone": Case("agree", "gone", unreached, 1, "stopped here", runs=False),
    "prepare, failed": Case("prepare", "here", lacks, 4, STAYED),
    "prepare, never told": Case("prepare", None, unreached, 4, "before it began"),
    "prepare, QEMU gone, it has it not": Case("prepare", "gone", lacks, 1, "not on the other host",
                                              runs=False),
    "bulk, failed": Case("bulk", "here", unreached, 4, STAYED),
    "bulk, arrived": Case("bulk", "peer", holds, 0, "web is at", True, False),
    "bulk, arrived, not reached": Case("bulk", "peer", unreached, 6, "did not say that it keeps it",
                                       True, False),
    "bulk, QEMU gone, nobody knows": Case("bulk", "gone", forgot, 6, "not known", True, False),
    "rounds, failed": Case("rounds", "here", lacks, 4, STAYED),
    "rounds, arrived": Case("rounds", "peer", holds, 0, "web is at", True, False),
    "rounds, arrived and stopped there": Case("rounds", "peer", holds_stopped, 0, "web is at", True,
                                              False),
    "rounds, QEMU gone, arrived": Case("rounds", "gone", holds, 0, "web is at", True, False),
    "rounds, QEMU gone, it has it not": Case("rounds", "gone", lacks, 1, "not on the other host",
                                             runs=False),
    "rounds, QEMU gone, back where it was": Case("rounds", "gone", left_from_there, 1,
                                                 "not on the other host", runs=False),
    "rounds, QEMU gone, nothing of this time": Case("rounds", "gone", left_and_no_more_known, 6,
                                                    "not known", True, False),
    "rounds, QEMU gone, not reached": Case("rounds", "gone", unreached, 6, "not known", True,
                                           False),
    "rounds, QEMU gone, undecided there": Case("rounds", "gone", undecided, 6, "not known", True,
                                               False),
    "rounds, QEMU gone, still coming": Case("rounds", "gone", coming, 6, "not known", True, False),
    "rounds, QEMU gone, was there once": Case("rounds", "gone", had_it_once, 6, "not known", True,
                                              False),
    "rounds, QEMU gone, interrupted there": Case("rounds", "gone", interrupted_there, 6,
                                                 "not known", True, False),
    "rounds, QEMU gone, a namesake": Case("rounds", "gone", namesake, 6, "not known", True, False),
    "rounds, QEMU gone, garbage": Case("rounds", "gone", garbage, 6, "not known", True, False),
    "rounds, QEMU gone, too deep": Case("rounds", "gone", deep, 6, "not known", True, False),
    "rounds, QEMU gone, endless": Case("rounds", "gone", endless, 6, "not known", True, False),
    "rounds, QEMU gone, refused": Case("rounds", "gone", refuses, 6, "not known", True, False),
    "rounds, QEMU gone, died there too": Case("rounds", "gone", its_launcher_died_too, 0,
                                              "web is at", True, False),
    "stop, failed": Case("stop", "here", unreached, 4, STAYED),
    "stop, arrived": Case("stop", "peer", holds, 0, "web is at", True, False),
    "stop, QEMU gone, not reached": Case("stop", "gone", unreached, 6, "not known", True, False),
    "commit, arrived": Case("commit", "peer", holds, 0, "web is at", True, False),
    "commit, given back": Case("commit", "here", undecided, 4, STAYED),
    "commit, QEMU gone, arrived": Case("commit", "gone", holds, 0, "web is at", True, False),
    "commit, QEMU gone, undecided": Case("commit", "gone", undecided, 6, "not known", True, False),
    "finish, arrived": Case("finish", "peer", holds, 0, "web is at", True, False),
    "finish, died there too": Case("finish", "peer", its_launcher_died_too, 0, "web is at", True,
                                   False),
    "finish, nobody wrote it down there": Case("finish", "peer", nobody_wrote_it_down, 0,
                                               "web is at", True, False),
    "finish, not reached": Case("finish", "peer", unreached, 6, "did not say", True, False),
    "finish, QEMU gone": Case("finish", "gone", holds, 0, "web is at", True, False),
    "finish, to be removed": Case("finish", "peer", holds, 0, "web is at", True, False, True),
    "finish, to be removed, not reached": Case("finish", "peer", unreached, 6, "did not say", True,
                                               False, True),
    "rounds, gone, to be removed": Case("rounds", "gone", holds, 0, "web is at", True, False, True),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_at_the_source(source: Source, name: str) -> None:
    case, fake = CASES[name], source.fake
    source.begin(case.phase, *(["--remove"] if case.remove else []))
    source.kill()
    if case.qemu == "gone":
        source.end_qemu()
    else:
        source.says(case.qemu)
    case.peer(source.peer)
    done = fake.run("resume", "web", "--rsh", source.peer.rsh)
    assert done.returncode == case.status, (done.stderr, source.peer.asked())
    assert case.words in done.stderr
    if case.peer in (its_launcher_died_too, nobody_wrote_it_down):
        assert "resume" in source.peer.asked()
    [job] = jobs(fake)
    assert job["code"] == case.status
    if case.remove and case.status == 0:
        assert fake.good("list", "--format", "names") == ""
        return
    shown = fake.state("web")
    assert (shown["state"] != "stopped") == case.runs
    assert ("moved" in shown["definition"]) == case.marked
    again = fake.run("resume", "web", "--rsh", source.peer.rsh)
    assert again.returncode == (6 if case.status == 6 else 1), again.stderr
    if not case.marked and not case.runs:
        fake.tell()
        fake.good("start", "web")


def test_resumed_while_it_moves(source: Source) -> None:
    """It is followed to its end, as the first launcher would have."""
    source.begin("bulk")
    source.kill()
    holds(source.peer)
    fake = source.fake
    second = fake.start("resume", "web", "--rsh", source.peer.rsh, "--progress", "json")
    for stage, where in (("rounds", "here"), ("stop", "here"), ("commit", "undecided"),
                         ("done", "peer")):
        source.says(where, stage)
        assert second.stdout
        while json.loads(second.stdout.readline())["phase"] != stage:
            pass
    assert second.wait(60) == 0
    report = json.loads(fake.good("report", "web", "--format", "json"))
    phases = [row["phase"] for row in report["phases"]]
    assert phases[-5:] == ["rounds", "stop", "commit", "done", "finish"]
    assert phases.index("bulk") < phases.index("resume")


def test_undecided_for_long(source: Source) -> None:
    source.begin("commit")
    source.kill()
    line = source.fake.bad(6, "resume", "web", "--rsh", source.peer.rsh)
    assert "quasar-run resolve web" in line and "nothing was ended" in line
    assert mark(source.fake) == HOST
    assert not {"quit", "cont", "migrate_cancel", "quasar-resolve"} & source.asked()


def test_killed_again_and_again(source: Source) -> None:
    """A job is resumed by whoever comes next, however many died at it."""
    source.begin("bulk")
    source.kill()
    for stage in ("bulk", "rounds", "stop"):
        source.says("here", stage)
        second = source.fake.start("resume", "web", "--rsh", source.peer.rsh)
        wait_taken(source.fake, second)
        wait_phase(source.fake, stage)
        kill(second)
    source.says("here", "failed")
    assert STAYED in source.fake.bad(4, "resume", "web", "--rsh", source.peer.rsh)
    assert mark(source.fake) is None


def test_two_at_once(source: Source) -> None:
    source.begin("bulk")
    fake = source.fake
    assert "is being done by another launcher" in fake.bad(1, "resume", "web")
    source.kill()
    second = fake.start("resume", "web", "--rsh", source.peer.rsh)
    wait_taken(fake, second)
    assert "is being done by another launcher" in fake.bad(1, "resume", "web")
    source.says("here", "failed")
    assert second.wait(60) == 4


def test_settled_by_start(source: Source) -> None:
    """Who asks with `start` first leaves nothing for resume to do but to say so."""
    source.begin("bulk")
    source.kill()
    source.says("here", "failed")
    assert "its definition knows it again" in source.fake.run("start", "web").stderr
    assert "runs here" in source.fake.bad(4, "resume", "web", "--rsh", source.peer.rsh)
    assert mark(source.fake) is None


def test_damaged_record(source: Source) -> None:
    """The marks are enough for `start`; the overview is lost, and says so."""
    source.begin("bulk")
    source.kill()
    path = source.fake.root / "jobs" / "1.job"
    path.write_text(path.read_text()[:50])
    assert "is no record of a job" in source.fake.run("jobs").stderr
    assert "no record of a job" in source.fake.bad(1, "resume", "web#1")
    source.says("here", "failed")
    assert source.fake.run("start", "web").returncode == 0
    assert mark(source.fake) is None


def test_other_number_same_process(source: Source) -> None:
    """A process that has the launcher's number by now is neither waited for nor signalled."""
    source.begin("bulk")
    source.kill()
    path = source.fake.root / "jobs" / "1.job"
    text = path.read_text()
    path.write_text("\n".join(f"pid={os.getpid()}" if line.startswith("pid=") else line
                              for line in text.splitlines()))
    assert jobs(source.fake)[-1]["state"] == "interrupted"
    source.says("here", "bulk")
    canceller = source.fake.start("cancel", "web")
    source.fake.wait_asked("migrate_cancel")
    source.says("here", "failed")
    assert canceller.wait(60) == 0


# A launcher that is killed where it comes to


def receive(fake: Fake) -> Receiver:
    receiver = Receiver(fake)
    receiver.listen()
    return receiver


RECEIVED = {
    "here": ("here", "done", 0, "web is here"),
    "failed": ("peer", "failed", 1, "did not come"),
    "undecided": ("undecided", "commit", 6, "quasar-run resolve web"),
    "gone": ("gone", "", 6, "has ended"),
}


@pytest.mark.parametrize("case", RECEIVED)
def test_killed_where_it_comes_to(fake: Fake, case: str) -> None:
    where, stage, status, words = RECEIVED[case]
    receiver = receive(fake)
    receiver.tell("peer", "rounds", 1000)
    kill(receiver.process)
    assert jobs(fake)[-1]["state"] == "interrupted"
    if where == "gone":
        fake.tell(**{"query-status": "die"})
        fake.good("show", "web")
    else:
        fake.tell(**LISTENS, **session(where, stage, 1000))
    done = fake.run("resume", "web")
    assert done.returncode == status and words in done.stderr, done.stderr
    assert jobs(fake)[-1]["code"] == status
    if status == 1:
        assert left_files(fake) == []
    else:
        assert mark(fake) == (None if status == 0 else "(arriving)")


def test_killed_while_files_come(fake: Fake) -> None:
    first = Receiver(fake)
    kernel = offer(**{"only-check": False}, files=[{"key": "kernel", "size": 3}])
    kernel["definition"] += "kernel=/boot/vmlinuz\n"
    first.say(HELLO, kernel)
    deadline = Deadline(30, "the folder")
    while not (fake.root / "images" / "web" / "kernel").exists():
        deadline.left()
    kill(first.process)
    assert "nothing of it is left here" in fake.bad(1, "resume", "web")
    assert left_files(fake) == []


def test_killed_before_it_told_its_port(fake: Fake) -> None:
    """Nothing can have come, whatever QEMU says, or does not."""
    receiver = Receiver(fake)
    fake.tell(**LISTENS, **{"migrate-incoming": "silent"})
    receiver.say(HELLO, offer(**{"only-check": False}),
                 {"say": "prepare", "key": "a" * 64, "listen": "loopback", "lanes": 0})
    wait_phase(fake, "listen")
    fake.wait_asked("migrate-incoming")
    kill(receiver.process)
    assert "nothing of it is left here" in fake.bad(1, "resume", "web")
    assert left_files(fake) == []


def test_killed_where_it_comes_back_to(fake: Fake) -> None:
    """The definition that was there before is there again."""
    define(fake, "web", "moved=elsewhere\n")
    before = fake.state("web")["definition"]
    receiver = receive(fake)
    kill(receiver.process)
    fake.tell(**LISTENS, **session("peer", "failed", 1000))
    fake.bad(1, "resume", "web")
    assert fake.state("web")["definition"] == before
    assert not list((fake.root / "images").iterdir())


def test_waited_for_without_its_source(fake: Fake) -> None:
    receiver = receive(fake)
    receiver.tell("peer", "bulk", 1000)
    kill(receiver.process)
    second = fake.start("resume", "web")
    wait_taken(fake, second)
    for received in (2000, 3000):
        fake.tell(**LISTENS, **session("peer", "rounds", received))
        fake.wait_asked("query-quasar")
    assert second.poll() is None
    fake.tell(**LISTENS, **session("here", "done", 4000))
    assert second.wait(60) == 0 and mark(fake) is None


# Giving up


@pytest.mark.parametrize("phase", ["agree", "files", "listen", "prepare", "bulk", "rounds", "stop"])
@pytest.mark.parametrize("alive", [True, False])
def test_cancelled(source: Source, phase: str, alive: bool) -> None:
    """With its launcher, or after it has died; the VM stays in any case, and is told to."""
    source.begin(phase)
    if not alive:
        source.kill()
    late = phase not in ("agree", "files", "listen")
    if late:
        source.says("here", phase)
    elif not alive:
        source.says(None)
    canceller = source.fake.start("cancel", "web", text=True)
    if late:
        source.fake.wait_asked("migrate_cancel")
        source.says("here", "failed")
    out, errors = canceller.communicate(timeout=90)
    assert canceller.returncode == 0, errors
    assert "here" in errors
    assert mark(source.fake) is None and source.fake.state("web")["state"] == "running"
    [job] = jobs(source.fake)
    assert job["code"] in (130, 4), job
    if alive:
        assert source.mover and source.mover.wait(10) == 130


def test_cancelled_too_late(source: Source) -> None:
    """What is decided is not undone; who asked is told where it is."""
    source.begin("commit")
    source.fake.tell(**STARTED, **session("undecided", "commit"))
    canceller = source.fake.start("cancel", "web", text=True)
    source.fake.wait_asked("query-quasar", 2)
    source.says("peer", "done")
    # its receiver says nothing
    source.fake.wait_asked("query-quasar")
    wait_phase(source.fake, "finish")
    pidof = jobs(source.fake)[-1]["pid"]
    children = Path(f"/proc/{pidof}/task/{pidof}/children").read_text().split()
    for child in children:      # the stranger that stands for ssh
        os.kill(int(child), signal.SIGTERM)
    _, errors = canceller.communicate(timeout=90)
    assert canceller.returncode == 6 and "moved to 127.0.0.1" in errors


def test_cancelled_where_it_comes_to(fake: Fake) -> None:
    receiver = receive(fake)
    assert "its source's to give up" in fake.bad(3, "cancel", "web")
    receiver.say({"say": "abandon"})
    receiver.end(1)
    assert "has ended already" in fake.bad(1, "cancel", "web")


# Looking on


def test_watched_to_its_end(source: Source) -> None:
    source.begin("bulk")
    watcher = source.fake.start("watch", "web", "--progress", "json", text=True)
    assert watcher.stdout
    assert json.loads(watcher.stdout.readline())["phase"] == "bulk"
    source.says("here", "failed")
    out, errors = watcher.communicate(timeout=90)
    assert watcher.returncode == 4 and STAYED in errors
    assert watcher.returncode == source.mover.wait(60)
    assert STAYED in source.fake.bad(4, "watch", "web#1")


def test_watching_ends_and_the_job_goes_on(source: Source) -> None:
    source.begin("bulk")
    watcher = source.fake.start("watch", "web", text=True)
    source.fake.wait_asked("query-quasar", 2)
    time.sleep(0.3)
    watcher.send_signal(signal.SIGINT)
    _, errors = watcher.communicate(timeout=30)
    assert watcher.returncode == 5 and "goes on unwatched" in errors
    assert source.mover and source.mover.poll() is None
    assert "migrate_cancel" not in source.asked()


@pytest.mark.parametrize("moving", [True, False])
def test_watched_while_its_launcher_dies(source: Source, moving: bool) -> None:
    """QEMU goes on, and is followed; at its end somebody has to take it up."""
    source.begin("bulk")
    watcher = source.fake.start("watch", "web", "--progress", "json", text=True)
    assert watcher.stdout and watcher.stdout.readline()
    source.kill()
    if moving:
        source.says("here", "rounds")
        while json.loads(watcher.stdout.readline())["phase"] != "rounds":
            pass
    source.says("here", "failed")
    _, errors = watcher.communicate(timeout=30)
    assert watcher.returncode == 5 and "quasar-run resume" in errors


def test_jobs_tell_what_is_left(source: Source) -> None:
    fake = source.fake
    assert jobs(fake) == [] and fake.good("jobs", "--format", "names") == ""
    source.begin("bulk")
    [job] = json.loads(fake.good("jobs", "--json"))
    assert (job["job"], job["state"], job["peer"]) == ("web#1", "running", HOST)
    assert job["pid"] == source.mover.pid
    assert fake.good("jobs").splitlines()[1].split()[:4] == ["web#1", "migrate", "running", "bulk"]
    source.kill()
    assert fake.good("jobs").splitlines()[1].split()[:3] == ["web#1", "migrate", "interrupted"]
    source.says("here", "failed")
    fake.bad(4, "resume", "web", "--rsh", source.peer.rsh)
    assert json.loads(fake.good("jobs", "--json")) == []
    assert fake.good("jobs", "db", "--all", "--format", "names") == ""
    assert fake.good("jobs", "web", "--all", "--format", "names") == "web#1\n"


def test_a_hundred_jobs(dry: Launcher) -> None:
    for number in range(1, 101):
        record(dry, "web", number)
    times = []
    while min(times, default=1) >= 0.05 and len(times) < 100:
        before = time.monotonic()
        assert len(jobs(dry)) == 100
        times.append(time.monotonic() - before)
    assert min(times) < 0.05


# A person's decision


@dataclass(frozen=True)
class Verdict:
    words: tuple[str, ...]
    qemu: tuple[str, str] | None        # None: it has ended
    peer: Any
    status: int
    text: str
    marked: bool
    runs: bool = True


UNDECIDED = ("undecided", "commit")
VERDICTS = {
    "run, it has it": Verdict(("run",), UNDECIDED, holds, 3, "must not run here", True),
    "run, it has it, insisting": Verdict(("run", "--yes"), UNDECIDED, holds, 3, "must not run",
                                         True),
    "run, it has it not": Verdict(("run",), UNDECIDED, lacks, 0, "web is here", False),
    "run, not there yet": Verdict(("run",), UNDECIDED, coming, 0, "web is here", False),
    "run, not reached": Verdict(("run",), UNDECIDED, unreached, 3, "nothing was decided", True),
    "run, not reached, insisting": Verdict(("run", "--yes"), UNDECIDED, unreached, 0, "web is here",
                                           False),
    "run, undecided there": Verdict(("run",), UNDECIDED, undecided, 3, "does not know either",
                                    True),
    "run, undecided there, insisting": Verdict(("run", "--yes"), UNDECIDED, undecided, 0,
                                               "web is here", False),
    "discard, it has it": Verdict(("discard",), UNDECIDED, holds, 0, "is the other side's", True,
                                  False),
    "discard, it has it not": Verdict(("discard",), UNDECIDED, lacks, 3, "must not be given up",
                                      True),
    "discard, it has it not, insisting": Verdict(("discard", "--yes"), UNDECIDED, lacks, 3,
                                                 "must not be given up", True),
    "discard, not reached": Verdict(("discard",), UNDECIDED, unreached, 3, "nothing was decided",
                                    True),
    "discard, not reached, insisting": Verdict(("discard", "--yes"), UNDECIDED, unreached, 0,
                                               "is the other side's", True, False),
    "it is here": Verdict(("run", "--yes"), ("here", "failed"), lacks, 3, "nothing is undecided",
                          True),
    "it is leaving": Verdict(("run", "--yes"), ("here", "bulk"), lacks, 3, "nothing is undecided",
                             True),
    "it is there": Verdict(("run", "--yes"), ("peer", "done"), lacks, 3, "nothing is undecided",
                           True),
    "run, QEMU gone, not reached": Verdict(("run", "--yes"), None, unreached, 0, "and stopped",
                                           False, False),
    "run, QEMU gone, it has it": Verdict(("run", "--yes"), None, holds, 3, "must not run", True,
                                         False),
    "discard, QEMU gone": Verdict(("discard",), None, holds, 0, "is the other side's", True, False),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_resolved(source: Source, name: str) -> None:
    case, fake = VERDICTS[name], source.fake
    source.begin("commit")
    source.kill()
    case.peer(source.peer)
    if case.qemu is None:
        source.end_qemu()
    else:
        source.says(*case.qemu)
    done = fake.run("resolve", "web", *case.words, "--rsh", source.peer.rsh)
    assert done.returncode == case.status and case.text in done.stderr, done.stderr
    decided = "quasar-resolve" in source.asked()
    assert decided == (case.status == 0 and case.qemu is not None)
    shown = fake.state("web")
    assert (shown["state"] != "stopped") == case.runs
    assert ("moved" in shown["definition"]) == case.marked
    state = jobs(fake)[-1]["state"]
    run = case.words[0] == "run"
    assert state == ("interrupted" if case.status else "failed" if run else "done")


def test_nobody_is_asked_without_the_lock(source: Source) -> None:
    source.begin("commit")
    assert "another program works on" in source.fake.bad(1, "resolve", "web", "run", "--yes")


@pytest.mark.parametrize("verdict", ["run", "discard"])
def test_resolved_where_it_comes_to(fake: Fake, verdict: str) -> None:
    receiver = receive(fake)
    receiver.tell("undecided", "commit", 1000)
    kill(receiver.process)
    line = fake.bad(3, "resolve", "web", verdict)
    assert "--host names it" in line and mark(fake) == "(arriving)"
    fake.good("resolve", "web", verdict, "--yes")
    asked = Path(fake.environment["FAKE_QEMU"]).with_suffix(".asked").read_text().split()
    assert "quasar-resolve" in asked and "cont" not in asked
    assert mark(fake) == (None if verdict == "run" else "(arriving)")
    assert (fake.state("web")["state"] == "stopped") == (verdict == "discard")


# Saving


def test_killed_while_it_saves(source: Source, tmp_path: Path) -> None:
    """The guest goes on, and nothing is left of the file."""
    fake = source.fake
    saver = fake.start("save", "web", tmp_path / "f")
    wait_phase(fake, "state")
    fake.wait_asked("migrate")
    kill(saver)
    assert (tmp_path / "f.partial").exists()
    fake.tell(**{"query-status": {"status": "paused"}, "query-migrate": {"status": "cancelled"}})
    assert "was not saved" in fake.bad(4, "resume", "web")
    assert {"migrate_cancel", "cont"} <= source.asked()
    assert not list(tmp_path.glob("f*"))


def test_save_cancelled_after_its_launcher(source: Source, tmp_path: Path) -> None:
    fake = source.fake
    saver = fake.start("save", "web", tmp_path / "f")
    wait_phase(fake, "state")
    fake.wait_asked("migrate")
    kill(saver)
    fake.tell(**{"query-status": {"status": "paused"}, "query-migrate": {"status": "cancelled"}})
    fake.good("cancel", "web")
    assert not list(tmp_path.glob("f*"))


def test_started_since_it_was_saved(source: Source, tmp_path: Path) -> None:
    """Who resumes a save that was over does not end what was started later."""
    fake = source.fake
    path = record(fake, "web", verb="save", peer=tmp_path / "f", ended=None, code=None, words=None)
    path.write_text(path.read_text() + "[phases]\n00-end=1500000\n")
    fake.good("resume", "web")
    assert fake.state("web")["state"] == "running" and "quit" not in source.asked()
    assert jobs(fake)[-1]["state"] == "done"
