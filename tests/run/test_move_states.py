# SPDX-License-Identifier: GPL-2.0-or-later
"""Each end of a move, when what it talks with ends or says what it should not.

QEMU is played (see qemuplayer.py), so that every state of a session can be held for as long as a
test looks at it. Whatever happens, a VM is not removed where it may be, and not started where it
may not be.
"""

import contextlib
import fcntl
import json
import shlex
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Fake
from test_migrate import HELLO, left_files, offer, script
from test_words import define

from deadlines import Deadline

LISTENS = {"query-migrate": {"socket-address": [{"type": "inet", "port": "40009"}]},
           "query-status": {"status": "inmigrate"}}
PAGE = 4096                 # of a pipe


def session(where: str, stage: str, received: int = 0) -> dict[str, Any]:
    return {"query-quasar": {"where": where, "stage": stage, "wire-received": received}}


class Receiver:
    """quasar-run receive, to which a test is the source."""

    def __init__(self, fake: Fake):
        self.fake = fake
        fake.tell(**LISTENS, **session("peer", "prepare"))
        self.process: subprocess.Popen[str] = fake.start("receive", stdin=subprocess.PIPE,
                                                         text=True)

    def say(self, *messages: Any) -> None:
        assert self.process.stdin
        text = "".join((m if isinstance(m, str) else json.dumps(m)) + "\n" for m in messages)
        with contextlib.suppress(BrokenPipeError):      # it has what it waited for
            self.process.stdin.write(text)
            self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout and self.process.stderr
        line = self.process.stdout.readline()
        assert line, (self.process.wait(30), self.process.stderr.read())
        return json.loads(line)

    def listen(self, **more: Any) -> None:
        """As far as the QEMU that waits for the source's."""
        self.say(HELLO, offer(**{"only-check": False}),
                 {"say": "prepare", "key": "a" * 64, "listen": "loopback", "lanes": 0, **more})
        for word in ("hello", "accept", "listening"):
            said = self.hear()
            assert said["say"] == word, said

    def tell(self, where: str, stage: str, received: int = 0) -> None:
        """What QEMU says from now on; comes back when the launcher has asked."""
        self.fake.tell(**LISTENS, **session(where, stage, received))
        self.fake.wait_asked("query-quasar")

    def end(self, status: int) -> str:
        """Closes the talk and returns what was said last, which is an error as a rule."""
        out, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == status, (out, errors)
        return out + errors

    def kill_qemu(self) -> None:
        self.fake.tell(**{"query-quasar": "die"})


@pytest.fixture
def receiver(fake: Fake) -> Receiver:
    receiver = Receiver(fake)
    receiver.listen()
    return receiver


def nothing_left(fake: Fake) -> None:
    assert left_files(fake) == []
    assert not fake.run_folder("web").exists()


def mark(fake: Fake) -> str | None:
    return fake.state("web")["definition"].get("moved")


# The end that a VM comes to


def test_it_has_a_name_before_it_can_arrive(fake: Fake, receiver: Receiver) -> None:
    """A launcher that is killed leaves a VM that start finds, wherever it is by then."""
    receiver.tell("peer", "rounds", 1000)
    receiver.process.kill()
    receiver.process.wait()
    assert mark(fake) == "(arriving)"
    assert '"web" is arriving; state: at its source' in fake.bad(3, "start", "web")
    fake.tell(**LISTENS, **session("undecided", "commit", 1000))
    fake.bad(6, "start", "web")
    fake.tell(**{"query-status": {"status": "running"}}, **session("here", "done", 1000))
    assert "its definition knows it again" in fake.run("start", "web").stderr
    assert mark(fake) is None
    assert "is started already" in fake.bad(4, "start", "web")


def test_killed_and_did_not_arrive(fake: Fake, receiver: Receiver) -> None:
    receiver.process.kill()
    receiver.process.wait()
    fake.tell(**LISTENS, **session("peer", "failed", 1000))
    assert "did not arrive" in fake.bad(3, "start", "web")
    fake.good("stop", "--force", "web")
    assert "did not arrive; state: at its source" in fake.bad(3, "start", "web")
    fake.good("delete", "web")
    nothing_left(fake)


def test_arrived(fake: Fake, receiver: Receiver) -> None:
    receiver.tell("here", "done", 1000)
    assert receiver.hear()["say"] == "arrived"
    receiver.end(0)
    assert mark(fake) is None and not list(fake.run_folder("web").glob("*.psk"))


@pytest.mark.parametrize("where, stage", [("peer", "rounds"), ("undecided", "commit")])
def test_the_source_keeps_it(fake: Fake, receiver: Receiver, where: str, stage: str) -> None:
    receiver.tell(where, stage, 1000)
    receiver.say({"say": "abandon"})
    assert receiver.hear()["say"] == "removed"
    receiver.end(1)
    nothing_left(fake)


def test_the_source_does_not_wait_for_reasons(fake: Fake, receiver: Receiver) -> None:
    """It gave the move up and tells why; it is gone with the word that nothing is left."""
    out = receiver.process.stdout
    assert out and receiver.process.stdin and receiver.process.stderr
    receiver.tell("peer", "rounds", 1000)
    with open(f"/proc/self/fd/{out.fileno()}", "wb", buffering=0) as pipe:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2 * PAGE)
        pipe.write(bytes(PAGE))         # so that one word goes in and then no more
        receiver.say({"say": "abandon"})
        deadline = Deadline(30, "the word")
        while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0] == PAGE:
            deadline.left()
            time.sleep(0.01)
    out.close()
    errors = receiver.process.stderr.read()
    assert receiver.process.wait(30) == 1
    assert "error:" not in errors
    nothing_left(fake)


def test_the_source_says_so_and_is_wrong(fake: Fake, receiver: Receiver) -> None:
    """What QEMU here says is what counts."""
    fake.tell(**LISTENS, **session("here", "done", 1000))
    receiver.say({"say": "abandon"})
    assert receiver.hear()["say"] == "arrived"
    receiver.end(0)


def test_undecided_and_nobody_to_ask(fake: Fake, receiver: Receiver) -> None:
    receiver.tell("undecided", "commit", 1000)
    assert "nobody said that it may run" in receiver.end(6)
    assert mark(fake) == "(arriving)" and fake.state("web")["pid"]


def test_undecided_for_a_moment(fake: Fake, receiver: Receiver) -> None:
    """As every move is, and the source's launcher may have been killed just then."""
    assert receiver.process.stdin
    receiver.process.stdin.close()
    receiver.process.stdin = None
    for _ in range(3):      # looks after the source's end was seen
        receiver.tell("undecided", "commit", 1000)
    receiver.tell("here", "done", 5000)
    receiver.end(0)
    assert mark(fake) is None


def test_streams_lead_to_qemu_while_it_waits(fake: Fake) -> None:
    """A name for them comes with the key, and goes with it."""
    receiver = Receiver(fake)
    receiver.listen(stream="b" * 64)
    note = fake.run_folder("web") / "stream"
    assert note.read_text() == f"{'b' * 64} 127.0.0.1 40009"
    assert note.stat().st_mode & 0o777 == 0o600
    receiver.tell("here", "done", 1000)
    receiver.end(0)
    assert not note.exists()


def test_a_stream_of_a_strange_name(fake: Fake) -> None:
    receiver = Receiver(fake)
    receiver.say(HELLO, offer(**{"only-check": False}),
                 {"say": "prepare", "key": "a" * 64, "listen": "ipv6", "lanes": 0,
                  "stream": "../" + "b" * 61})
    assert [receiver.hear()["say"] for _ in range(2)] == ["hello", "accept"]
    assert "a malformed name of a stream" in receiver.end(1)
    nothing_left(fake)


def test_the_key_stays_for_lanes_to_come(fake: Fake, receiver: Receiver) -> None:
    """A source whose launcher was killed as its QEMU began to connect."""
    assert receiver.process.stdin
    receiver.process.stdin.close()
    receiver.process.stdin = None
    for _ in range(3):      # looks after the source's end was seen
        receiver.tell("peer", "prepare")
        assert list(fake.run_folder("web").glob("*.psk"))
    receiver.tell("here", "done", 5000)
    receiver.end(0)


def test_nothing_came_and_nobody_is_there(fake: Fake, receiver: Receiver) -> None:
    receiver.end(1)
    nothing_left(fake)


def test_no_source_and_still_on_its_way(fake: Fake, receiver: Receiver) -> None:
    """QEMUs have a connection of their own."""
    receiver.tell("peer", "rounds", 1000)
    assert receiver.process.stdin
    receiver.process.stdin.close()
    receiver.process.stdin = None
    for received in (2000, 3000, 4000):
        receiver.tell("peer", "rounds", received)
    assert receiver.process.poll() is None
    receiver.tell("here", "done", 5000)
    receiver.end(0)
    assert mark(fake) is None


def test_a_silent_qemu_is_asked_again(fake: Fake, receiver: Receiver) -> None:
    """It may hold the VM; without a source to say otherwise, nothing is given up."""
    fake.tell(**LISTENS, **{"query-quasar": "silent"})
    assert receiver.process.stdin
    receiver.process.stdin.close()
    receiver.process.stdin = None
    fake.wait_asked("query-quasar", 2)
    assert receiver.process.poll() is None
    receiver.tell("here", "done", 5000)
    receiver.end(0)
    assert mark(fake) is None


def test_signals_do_not_end_it(fake: Fake, receiver: Receiver) -> None:
    receiver.tell("peer", "rounds", 1000)
    for _ in range(3):
        receiver.process.send_signal(signal.SIGTERM)
        receiver.tell("peer", "rounds", 2000)
    receiver.tell("here", "done", 2000)
    receiver.end(0)
    assert mark(fake) is None


def test_qemu_ends_and_the_source_keeps_it(fake: Fake, receiver: Receiver) -> None:
    receiver.kill_qemu()
    receiver.say({"say": "abandon"})
    assert receiver.hear()["say"] == "removed"
    receiver.end(1)
    nothing_left(fake)


@pytest.mark.parametrize("words", [[], [{"say": "ended"}]])
def test_qemu_ends_and_nobody_knows(fake: Fake, receiver: Receiver, words: list[Any]) -> None:
    """It may have been here between two looks: its disks stay, and it is not started by mistake."""
    receiver.kill_qemu()
    receiver.say(*words)
    assert "has ended" in receiver.end(6)
    assert fake.state("web")["state"] == "stopped" and mark(fake) == "(arriving)"
    fake.bad(3, "start", "web")
    fake.good("set", "web", "moved=")
    fake.tell()
    fake.good("start", "web")


@pytest.mark.parametrize("where, stage, status", [("peer", "rounds", 1), ("undecided", "commit", 6),
                                                  ("here", "done", 0)])
def test_the_qemu_at_the_source_ended(fake: Fake, receiver: Receiver, where: str, stage: str,
                                      status: int) -> None:
    """Who had not voted can be removed, who had may have been told to run."""
    receiver.tell(where, stage, 1000)
    receiver.say({"say": "ended"})
    assert {1: "removed", 6: "refuse", 0: "arrived"}[status] == receiver.hear()["say"]
    receiver.end(status)
    assert (fake.good("list", "--format", "names") == "web\n") == (status != 1)


def test_two_sources(fake: Fake, receiver: Receiver) -> None:
    second = fake.run("receive", input=f"{HELLO}\n{json.dumps(offer(**{'only-check': False}))}\n")
    assert second.returncode in (1, 3) and "box" not in second.stdout
    assert json.loads(second.stdout.splitlines()[-1])["say"] == "refuse"
    receiver.tell("here", "done", 1000)
    receiver.end(0)
    assert mark(fake) is None


def test_one_that_left_and_does_not_come_back(fake: Fake) -> None:
    path = define(fake, "web", "moved=elsewhere\n")
    uuid = "3e9a5f0e-8d0b-4e7c-9a39-2d1f1e0b8c01"
    assert f"uuid={uuid}" in path.read_text()
    before = fake.state("web")["definition"]
    receiver = Receiver(fake)
    receiver.listen()
    assert mark(fake) == "(arriving)"
    receiver.say({"say": "abandon"})
    receiver.end(1)
    assert fake.state("web")["definition"] == before


def test_interrupted_pieces_go(fake: Fake) -> None:
    """A receiver that is killed while files come leaves a folder; the next one takes its place."""
    first = Receiver(fake)
    kernel = offer(**{"only-check": False}, files=[{"key": "kernel", "size": 3}])
    kernel["definition"] += "kernel=/boot/vmlinuz\n"
    first.say(HELLO, kernel)
    folder = fake.root / "images" / "web"
    deadline = Deadline(30, "the folder")
    while not (folder / "kernel").exists():
        deadline.left()
    first.process.kill()
    first.process.wait()
    assert fake.good("list", "--format", "names") == ""
    second = Receiver(fake)
    second.say(HELLO, kernel, {"say": "file", "data": "YWJj"},
               {"say": "prepare", "key": "a" * 64, "listen": "loopback", "lanes": 0})
    assert [second.hear()["say"] for _ in range(3)] == ["hello", "accept", "listening"]
    assert [p.name for p in (fake.root / "images").iterdir()] == ["web"]
    assert (folder / "kernel").read_text() == "abc"
    second.say({"say": "abandon"})
    second.end(1)
    nothing_left(fake)


# The end that a VM leaves


STARTED = {"query-status": {"status": "running"}, "query-migrate": {"status": "active"}}
AGREES = (f"echo '{HELLO}'; echo '{{\"say\":\"accept\"}}'; "
          "echo '{\"say\":\"listening\",\"port\":40009}'; ")


@pytest.fixture
def web(fake: Fake) -> Fake:
    """A VM that runs, as far as its QEMU says."""
    fake.good("start", "web", "--memory", "64M", "--net", "none")
    fake.tell(**STARTED)
    return fake


def migrate(web: Fake, tmp_path: Path, status: int, *words: str) -> str:
    """Moves it to a receiver that agrees and then says these words."""
    text = AGREES + "".join(f"echo '{{\"say\":\"{word}\"}}'; " for word in words)
    told = shlex.quote(str(tmp_path / "heard"))
    stranger = script(tmp_path / "stranger", text + f"cat >{told}")
    if status == 0:
        web.good("migrate", "web", "127.0.0.1", "--rsh", stranger)
        return ""
    return web.bad(status, "migrate", "web", "127.0.0.1", "--rsh", stranger)


def test_qemu_refuses(web: Fake, tmp_path: Path) -> None:
    web.tell(**STARTED, migrate="refuse")
    line = migrate(web, tmp_path, 4, "removed")
    assert "no migrate today; state: it runs here" in line and mark(web) is None
    assert '"abandon"' in (tmp_path / "heard").read_text()


@pytest.mark.parametrize("word, status, moved", [
    ("removed", 1, None), ("arrived", 0, "127.0.0.1"), ("what", 6, "127.0.0.1"),
])
def test_qemu_ends_when_it_is_told(web: Fake, tmp_path: Path, word: str, status: int,
                                   moved: str | None) -> None:
    """Then the other side knows more; without its word the mark stays."""
    web.tell(**STARTED, migrate="die")
    migrate(web, tmp_path, status, word)
    assert '"ended"' in (tmp_path / "heard").read_text()
    assert (web.state("web")["state"], mark(web)) == ("stopped", moved)
    web.tell()
    assert web.run("start", "web").returncode == (0 if moved is None else 3)


@pytest.mark.parametrize("word, status", [("arrived", 0), ("what", 6)])
def test_it_is_there(web: Fake, tmp_path: Path, word: str, status: int) -> None:
    web.tell(**STARTED, **session("peer", "done"))
    settled = web.bad(3, "migrate", "web", "127.0.0.1", "--rsh", "false")
    assert "state: not here" in settled
    web.tell(**STARTED)     # no session yet
    after = tmp_path / "after"
    after.write_text(json.dumps({**STARTED, **session("peer", "done")}))
    stranger = script(tmp_path / "stranger", AGREES + f"echo '{{\"say\":\"{word}\"}}'; "
                      f"mv {shlex.quote(str(after))} \"$FAKE_QEMU\"; cat >/dev/null")
    done = web.run("migrate", "web", "127.0.0.1", "--rsh", stranger)
    assert done.returncode == status, done.stderr
    assert web.state("web")["state"] == "stopped" and mark(web) == "127.0.0.1"
    assert ("quasar-run start web there takes it up" in done.stderr) == (status == 6)


def test_a_silent_qemu_is_followed(web: Fake, tmp_path: Path) -> None:
    stranger = script(tmp_path / "stranger", AGREES + "echo '{\"say\":\"arrived\"}'; "
                      "cat >/dev/null")
    mover = web.start("migrate", "web", "127.0.0.1", "--rsh", stranger)
    web.wait_asked("migrate")
    web.tell(**STARTED, **{"query-quasar": "silent"})
    web.wait_asked("query-quasar", 2)
    assert mover.poll() is None
    web.tell(**STARTED, **session("peer", "done"))
    assert mover.wait(60) == 0
    assert mark(web) == "127.0.0.1"


@pytest.mark.parametrize("where, stage, status, words", [
    ("here", "rounds", 4, "is leaving for elsewhere"),
    ("undecided", "commit", 6, "that nobody decided"),
    ("peer", "done", 3, "left for elsewhere; state: not here"),
])
def test_a_move_whose_launcher_died(web: Fake, where: str, stage: str, status: int,
                                    words: str) -> None:
    """Neither verb begins anything before it is over."""
    web.good("set", "web", "moved=elsewhere")
    web.tell(**STARTED, **session(where, stage))
    assert words in web.bad(status, "start", "web")
    assert words in web.bad(status, "migrate", "web", "127.0.0.1", "--rsh", "false")
    assert mark(web) == "elsewhere"
    asked = Path(web.environment["FAKE_QEMU"]).with_suffix(".asked").read_text().split()
    assert not {"cont", "migrate", "object-del", "migrate_cancel", "quit"} & set(asked)


def test_a_move_that_failed_without_its_launcher(web: Fake) -> None:
    web.good("set", "web", "moved=elsewhere")
    web.tell(**STARTED, **session("here", "failed"))
    assert "its definition knows it again" in web.run("start", "web").stderr
    assert mark(web) is None
