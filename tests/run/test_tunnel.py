# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that goes inside the launchers' own way to reach each other.

What stands for ssh here does as ssh does: it hands its words to a shell, with the other root's
launcher on PATH. It notes what it was asked for, so a test sees which way the machine took.
tests/run/test_hosts_ssh.py does the same with a real sshd.
"""

import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAM, Launcher
from test_migrate import ANY_PAUSE, ask, begin_slowly, script, stays, wait_kept
from test_save import last_pass
from test_words import define

from deadlines import Deadline

NAME = "0123456789abcdef" * 4
FAST = {"max-bandwidth": 1 << 40, "downtime-limit": 20000}


class Way:
    """A stand-in for ssh, and what came its way."""

    def __init__(self, folder: Path, root: Path):
        self.folder = folder
        folder.mkdir()
        script(folder / "quasar-run",
               f'exec {shlex.quote(PROGRAM)} --root {shlex.quote(str(root))} "$@"')
        self.path = self.write("rsh", "")

    def write(self, name: str, before: str) -> Path:
        """One that does something before it runs a lane's command; $$ is the lane's process."""
        here = shlex.quote(str(self.folder))
        return script(self.folder / name, f"""
host=$1; shift
echo "$host $*" >>{here}/log
case "$*" in *--stream*) echo $$ >>{here}/lanes; {before or ":"};; esac
PATH={here}:$PATH exec sh -c "exec $*" """)

    def asked(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def lanes(self) -> list[int]:
        """The processes that were started for lanes."""
        path = self.folder / "lanes"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def there(quasar: Launcher, tmp_path: Path) -> Launcher:
    return Launcher(tmp_path / "there", quasar.environment)


@pytest.fixture
def way(there: Launcher, tmp_path: Path) -> Way:
    return Way(tmp_path / "way", there.root)


@pytest.fixture
def pair(bare: Launcher, there: Launcher) -> Any:
    yield bare, there
    bare.finish()
    there.finish()


def wait_connected(launcher: Launcher) -> None:
    """Until every lane of the session has its connection."""
    deadline = Deadline(60, "all lanes")
    while not all(lane["connected"] for lane in ask(launcher, "box", "query-quasar")["lanes"]):
        deadline.left()
        time.sleep(0.05)


def ended(pids: list[int]) -> None:
    """Wait until none of these processes is there."""
    deadline = Deadline(20, f"the end of {pids}")
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        deadline.left()
        time.sleep(0.05)


def test_inside(pair: tuple[Launcher, Launcher], way: Way) -> None:
    here, there = pair
    before = last_pass(here, "box")
    done = here.run("migrate", "box", "127.0.0.1", "--rsh", way.path, "--tunnel", "always",
                    "--lanes", "3", *ANY_PAUSE)
    assert done.returncode == 0, done.stderr
    assert there.state("box")["state"] == "running"
    assert last_pass(there, "box") > before
    assert len(way.lanes()) == 3
    ended(way.lanes())
    assert not (here.run_folder("box") / "tunnel").exists()
    assert not (there.run_folder("box") / "stream").exists()
    words = [line.split("--stream ")[1] for line in way.asked() if "--stream" in line]
    assert len(set(words)) == 1 and words[0].startswith("box/")


def test_direct_when_that_is_possible(pair: tuple[Launcher, Launcher], way: Way) -> None:
    here, there = pair
    done = here.run("migrate", "box", "127.0.0.1", "--rsh", way.path, *ANY_PAUSE)
    assert done.returncode == 0, done.stderr
    assert way.lanes() == [] and "inside" not in done.stderr
    assert not (there.run_folder("box") / "stream").exists()


# The receiver's QEMU listens on 127.0.0.1 alone; the other name has no address at all.
@pytest.mark.parametrize("where, words", [("127.0.0.2", "of 127.0.0.2 cannot be reached"),
                                         ("only-ssh-knows.invalid", "")])
def test_inside_when_there_is_no_other_way(pair: tuple[Launcher, Launcher], way: Way, where: str,
                                           words: str) -> None:
    here, there = pair
    done = here.run("migrate", "box", where, "--rsh", way.path, *ANY_PAUSE)
    assert done.returncode == 0, done.stderr
    assert words in done.stderr
    assert len(way.lanes()) == 2
    assert there.state("box")["state"] == "running"


def test_never_inside(pair: tuple[Launcher, Launcher], way: Way) -> None:
    here, there = pair
    error = here.bad(4, "migrate", "box", "127.0.0.2", "--rsh", way.path, "--tunnel", "never")
    assert "Connection refused" in error and "it runs here" in error
    assert way.lanes() == []
    stays(here, there)


def test_lanes_are_made_again(pair: tuple[Launcher, Launcher], way: Way) -> None:
    """Each of them is ended once while the machine is under way; the move goes on where it was."""
    here, there = pair
    mover = begin_slowly(here, way.path, "--tunnel", "always")
    wait_connected(here)
    first = way.lanes()
    assert len(first) == 2
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    deadline = Deadline(30, "new lanes")
    while len(way.lanes()) < 4:
        deadline.left()
        time.sleep(0.05)
    assert [lane["cuts"] for lane in ask(here, "box", "query-quasar")["lanes"]] == [1, 1]
    ask(here, "box", "migrate-set-parameters", **FAST)
    _, error = mover.communicate(timeout=60)
    assert mover.returncode == 0, error
    assert there.state("box")["state"] == "running"
    ended(way.lanes())


def test_launcher_killed(pair: tuple[Launcher, Launcher], way: Way) -> None:
    """No byte passes it: the lanes that are there go on."""
    here, there = pair
    mover = begin_slowly(here, way.path, "--tunnel", "always")
    mover.kill()
    mover.wait()
    ask(here, "box", "migrate-set-parameters", **FAST)
    wait_kept(here, there)
    assert there.state("box")["state"] == "running"
    here.good("stop", "--force", "box")
    assert "left for 127.0.0.1" in here.bad(3, "start", "box")
    ended(way.lanes())


def test_launcher_killed_and_lanes_lost(pair: tuple[Launcher, Launcher], way: Way) -> None:
    """Nobody makes them again; the VM stays, and what had come goes."""
    here, there = pair
    ask(here, "box", "quasar-set", **{"resume-timeout": 1})
    mover = begin_slowly(here, way.path, "--tunnel", "always")
    mover.kill()
    mover.wait()
    for pid in way.lanes():
        os.kill(pid, signal.SIGKILL)
    deadline = Deadline(60, "the end of the move")
    while "knows it again" not in (said := here.run("start", "box").stderr):
        assert "is leaving" in said
        deadline.left()
        time.sleep(0.2)
    while there.good("list", "--format", "names"):
        deadline.left()
        time.sleep(0.2)
    stays(here, there)


def test_interrupted(pair: tuple[Launcher, Launcher], way: Way) -> None:
    here, there = pair
    mover = begin_slowly(here, way.path, "--tunnel", "always")
    mover.send_signal(signal.SIGINT)
    _, error = mover.communicate(timeout=60)
    assert mover.returncode == 130 and b"it runs here" in error, error
    stays(here, there)
    ended(way.lanes())


# What becomes of a lane's command, and what the line says of it.
DEAD_LANES = {
    "refused": ("exit 255", "which ended with status 255"),
    "ended": ("kill -9 $$", "which was ended by signal 9"),
    "garbage": ("echo Welcome to this host; exec sleep 60", "TLS"),
    "silent": ("exec sleep 60", "TLS"),
}


@pytest.mark.parametrize("case", DEAD_LANES)
def test_no_lanes(pair: tuple[Launcher, Launcher], way: Way, case: str) -> None:
    here, there = pair
    before, words = DEAD_LANES[case]
    rsh = way.write("bad", before)
    error = here.bad(4, "migrate", "box", "127.0.0.1", "--rsh", rsh, "--tunnel", "always")
    assert words in error and "state: it runs here" in error
    stays(here, there)
    ended(way.lanes())
    assert len(way.lanes()) == 1
    here.good("migrate", "box", "127.0.0.1", "--rsh", way.path, "--tunnel", "always", *ANY_PAUSE)
    assert there.state("box")["state"] == "running"


def test_by_way_of_a_third(pair: tuple[Launcher, Launcher], way: Way) -> None:
    """A command that is not ssh is run on the third host too, by a shell there."""
    here, there = pair
    third = way.write("third", "")
    here.good("migrate", "box", "far.invalid", "--via", "near.invalid", "--net", "none", "--rsh",
              third, *ANY_PAUSE)
    assert there.state("box")["state"] == "running"
    hosts = [line.split()[0] for line in way.asked()]
    assert hosts.count("near.invalid") == hosts.count("far.invalid") == 3
    assert [line for line in way.asked() if line.startswith("far.invalid") and "--net" in line] == \
        ["far.invalid quasar-run receive --net 'none'"]


def test_ssh_takes_the_third_as_a_jump(pair: tuple[Launcher, Launcher], way: Way) -> None:
    here, there = pair
    way.write("plain", "")
    ssh = script(way.folder / "ssh", f'[ "$1 $2 $3 $4" = "-p 22 -J near.invalid" ] || exit 254; '
                 f'shift 4; exec {shlex.quote(str(way.folder / "plain"))} "$@"')
    here.good("migrate", "box", "far.invalid", "--via", "near.invalid", "--rsh", f"{ssh} -p 22",
              *ANY_PAUSE)
    assert {line.split()[0] for line in way.asked()} == {"far.invalid"}
    assert there.state("box")["state"] == "running"


# The far end of a lane, alone


class Qemu:
    """Listens as QEMU does where a VM comes to; a note in the run folder leads there."""

    def __init__(self, launcher: Launcher):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(30)
        folder = launcher.run_folder("web")
        folder.mkdir(parents=True)
        port = self.listener.getsockname()[1]
        (folder / "stream").write_text(f"{NAME} 127.0.0.1 {port}")

    def accept(self) -> socket.socket:
        peer, _ = self.listener.accept()
        peer.settimeout(30)
        return peer


def carrier(launcher: Launcher, *words: str, **environment: str) -> subprocess.Popen:
    launcher.environment.update(environment)
    return launcher.start("receive", *words, stdin=subprocess.PIPE)


def read_all(peer: socket.socket, into: list[bytes]) -> None:
    while piece := peer.recv(1 << 16):
        into.append(piece)


def test_both_ways_at_once(dry: Launcher) -> None:
    """More than all buffers hold, each way; the end of one side is the end of that way alone."""
    qemu = Qemu(dry)
    process = carrier(dry, "--stream", f"web/{NAME}")
    up, down = os.urandom(6 << 20), os.urandom(5 << 20)
    came: list[bytes] = []
    with qemu.accept() as peer:
        reader = threading.Thread(target=read_all, args=[peer, came])
        writer = threading.Thread(target=peer.sendall, args=[down])
        feeder = threading.Thread(target=lambda: (process.stdin.write(up), process.stdin.close()))
        for thread in (reader, writer, feeder):
            thread.start()
        got = process.stdout.read(len(down))
        for thread in (writer, feeder, reader):
            thread.join(30)
        assert b"".join(came) == up and got == down
        assert process.poll() is None
        peer.sendall(b"last words")
    assert process.stdout.read() == b"last words"
    assert process.wait(30) == 0


def test_who_does_nothing_costs_nothing(dry: Launcher) -> None:
    """Half closed, and nobody reads what waits: it does not spin."""
    qemu = Qemu(dry)
    process = carrier(dry, "--stream", f"web/{NAME}")
    with qemu.accept() as peer:
        peer.settimeout(1)
        with pytest.raises(TimeoutError):
            while True:
                peer.sendall(bytes(1 << 16))
        used = processor_ticks(process.pid)
        time.sleep(1)
        assert processor_ticks(process.pid) - used < 10
    process.kill()


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_qemu_ends(dry: Launcher) -> None:
    qemu = Qemu(dry)
    process = carrier(dry, "--stream", f"web/{NAME}")
    with qemu.accept():
        pass
    assert process.wait(30) == 0


def test_reader_ends(dry: Launcher) -> None:
    """What ssh leaves when its network is lost: QEMU is told."""
    qemu = Qemu(dry)
    process = carrier(dry, "--stream", f"web/{NAME}")
    with qemu.accept() as peer:
        process.stdout.close()
        assert peer.recv(1) == b""
    assert process.wait(30) == 0


def test_a_command_in_place_of_ours(dry: Launcher) -> None:
    """A forced command of ssh is always `receive`; its environment tells what was asked for."""
    qemu = Qemu(dry)
    process = carrier(dry, "--net", "none",
                      SSH_ORIGINAL_COMMAND=f"quasar-run receive --stream web/{NAME}")
    with qemu.accept() as peer:
        peer.sendall(b"hello")
    assert process.stdout.read() == b"hello"
    assert process.wait(30) == 0


@pytest.mark.parametrize("command", ["quasar-run receive", f"receive --stream web/{NAME}",
                                     f"quasar-run receive --stream web/{NAME}; ls",
                                     f"quasar-run receive --stream web/{NAME} --root /"])
def test_other_commands_are_none_of_ours(dry: Launcher, command: str) -> None:
    done = dry.run("receive", input="", env={"SSH_ORIGINAL_COMMAND": command})
    assert '"hello"' in done.stdout


@pytest.mark.parametrize("word", ["", "web", f"web/{NAME[:-1]}", f"web/{NAME[:-1]}0", f"/{NAME}",
                                  f"../web/{NAME}", f"other/{NAME}", f"web/{NAME}/"])
def test_no_such_stream(dry: Launcher, word: str) -> None:
    qemu = Qemu(dry)
    line = dry.bad(3, "receive", "--stream", word)
    assert "no VM that arrives here has a stream of this name" in line
    qemu.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        qemu.listener.accept()


@pytest.mark.parametrize("note", ["", NAME, f"{NAME} 127.0.0.1", f"{NAME} 127.0.0.1 0",
                                  f"{NAME} 127.0.0.1 70000", f"{NAME} 127.0.0.1 {'9' * 300}"])
def test_a_note_that_makes_no_sense(dry: Launcher, note: str) -> None:
    Qemu(dry)
    (dry.run_folder("web") / "stream").write_text(note)
    dry.bad(3, "receive", "--stream", f"web/{NAME}")


def test_qemu_is_gone(dry: Launcher) -> None:
    Qemu(dry).listener.close()
    assert "cannot be reached" in dry.bad(1, "receive", "--stream", f"web/{NAME}")


WORDS = {
    "tunnel": (["web", "a", "--tunnel", "perhaps"], "--tunnel takes auto, never or always"),
    "tunnel and an address": (["web", "a", "--tunnel", "always", "--data-address", "b"],
                              "contradict"),
    "via an option": (["web", "a", "--via=-oProxyCommand=x"], "this is no host"),
    "via with a space": (["web", "a", "--via", "a b"], "this is no host"),
    "rsh without an end": (["web", "a", "--via", "b", "--rsh", "ssh '"], "--rsh"),
}


@pytest.mark.parametrize("case", WORDS)
def test_wrong_words(dry: Launcher, case: str) -> None:
    words, text = WORDS[case]
    define(dry, "web")
    assert text in dry.bad(2, "migrate", *words)
