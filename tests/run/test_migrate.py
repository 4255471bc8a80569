# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM to another launcher: what arrives, what is refused, where it is after each failure.

The other host is a second root on this one; a small script stands for ssh and starts whatever a
test names as the receiver, the real one or one that misbehaves.
"""

import json
import os
import select
import shlex
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAM, Launcher
from test_save import last_pass
from test_words import define

from deadlines import Deadline
from qmp import Qmp

# The guest writes to its memory all the time, and a busy machine may not send that within QEMU's
# usual pause: a move that must end takes whatever pause it needs.
ANY_PAUSE = ("--downtime", "20000")
HELLO = '{"say":"hello","protocol":1,"version":"1"}'


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def way_to(root: Path, path: Path, program: str = shlex.quote(PROGRAM)) -> Path:
    """What stands for ssh to the host with this root: a shell there reads the words again."""
    return script(path, f'shift 2; eval exec {program} --root {shlex.quote(str(root))} "$@"')


@pytest.fixture
def there(quasar: Launcher, tmp_path: Path) -> Launcher:
    """The other host, whose VMs end with the test."""
    return Launcher(tmp_path / "there", quasar.environment)


@pytest.fixture
def rsh(tmp_path: Path) -> Path:
    """A stand-in for ssh that runs the real receiver on the other host."""
    root = shlex.quote(str(tmp_path / "there"))
    return script(tmp_path / "rsh", f'shift 2; exec {shlex.quote(PROGRAM)} --root {root} "$@"')


@pytest.fixture
def pair(bare: Launcher, there: Launcher) -> Any:
    yield bare, there
    bare.finish()
    there.finish()


def test_there_and_back(pair: tuple[Launcher, Launcher], rsh: Path, tmp_path: Path) -> None:
    """The guest counts on; each side says what it has; the VM returns to where it left."""
    here, there = pair
    before = last_pass(here, "box")
    done = here.run("migrate", "box", "localhost", "--rsh", rsh, *ANY_PAUSE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "box is at localhost"
    assert here.state("box")["state"] == "stopped"
    assert there.state("box")["state"] == "running"
    assert last_pass(there, "box") > before
    assert not list(there.run_folder("box").glob("*.psk"))
    assert "left for localhost" in here.bad(3, "start", "box")
    back = script(tmp_path / "back",
                  f'shift 2; exec {PROGRAM} --root {shlex.quote(str(here.root))} "$@"')
    there.good("migrate", "box", "127.0.0.1", "--rsh", back, "--remove", *ANY_PAUSE)
    assert here.state("box")["state"] == "running"
    assert last_pass(here, "box") > before
    assert there.good("list", "--format", "names") == ""


def test_disks_go_along(quasar: Launcher, there: Launcher, rsh: Path, tmp_path: Path,
                        guest: Callable[[str], Any]) -> None:
    raw = tmp_path / "raw.img"
    cow = tmp_path / "cow.img"
    with open(raw, "wb") as file:
        file.truncate(32 << 20)
        file.write(b"first")
        file.seek((32 << 20) - 4)
        file.write(b"last")
    cow.write_bytes(empty_qcow2(5 << 30))
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--image", raw, "--image", cow)
    content = raw.read_bytes()
    quasar.good("migrate", "box", "127.0.0.1", "--rsh", rsh, "--level", "1", "--lanes", "3",
                "--verify", *ANY_PAUSE)
    assert ask(there, "box", "query-quasar")["verified-sections"] > 0
    shown = there.state("box")["definition"]
    there.good("stop", "--force", "box")
    copies = [Path(path) for path in shown["image"].split(";")]
    assert copies[0].read_bytes() == content
    assert copies[0].stat().st_blocks * 512 < 1 << 20
    head = copies[1].read_bytes()[:32]
    assert head[:4] == b"QFI\xfb" and struct.unpack(">Q", head[24:32]) == (5 << 30,)
    assert raw.exists() and cow.exists()
    there.finish()


def empty_qcow2(size: int) -> bytes:
    """One that has nothing to do with how the launcher makes its own: 4 KiB clusters, version 2."""
    bits, cluster = 12, 4096
    entries = -(-size // (cluster * cluster // 8))
    tables = -(-entries * 8 // cluster)
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, bits, size, 0, entries,
                       3 * cluster, cluster, 1, 0, 0)
    counts = struct.pack(f">{3 + tables}H", *[1] * (3 + tables))
    parts = [head, struct.pack(">Q", 2 * cluster), counts]
    return b"".join(p.ljust(cluster, b"\0") for p in parts) + bytes(tables * cluster)


def test_dry_run_touches_nothing(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, there = pair
    done = here.run("migrate", "box", "127.0.0.1", "--rsh", rsh, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "box can move to 127.0.0.1\n")
    assert here.state("box")["state"] == "running"
    assert not there.root.exists()


def test_progress_for_programs(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, _ = pair
    text = here.good("migrate", "box", "127.0.0.1", "--rsh", rsh, "--progress", "json",
                     *ANY_PAUSE)
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[-1]["phase"] == "done" and lines[-1]["percent"] == 100
    assert lines[-1]["bytes"] > 1 << 20
    assert all({"schema", "rate", "dirty_rate", "eta", "remaining"} <= set(x) for x in lines)


def left_files(launcher: Launcher) -> list[Path]:
    """All that is there but the history of jobs."""
    return [p for p in launcher.root.rglob("*")
            if not p.is_dir() and p.parent != launcher.root / "jobs"]


def stays(here: Launcher, there: Launcher) -> None:
    """The VM runs at the source, may be moved again, and nothing of it is on the other host."""
    assert here.state("box")["state"] == "running"
    assert "moved" not in here.state("box")["definition"]
    assert not list(here.run_folder("box").glob("*.psk"))
    assert there.good("list", "--format", "names") == ""
    assert left_files(there) == []


def test_dry_run_looks_at_everything(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    """What a move would find out before it begins, in the same words."""
    here, there = pair
    kernel = Path(here.state("box")["definition"]["kernel"])
    words = ["migrate", "box", "127.0.0.1", "--dry-run", "--rsh"]
    line = here.bad(3, *words, rsh, "--data-address", "a..b")
    assert "a..b has no address" in line and "state: it is here as it was" in line
    assert "ended the connection; state: it is here as it was" in here.bad(1, *words, "false")
    assert "No such file" in here.bad(3, *words, "/nonexistent/ssh")
    live = here.run_folder("box") / "live.conf"
    text = live.read_text()
    live.write_text(text.replace(str(kernel), "/nonexistent/kernel"))
    line = here.bad(1, *words, rsh)
    assert "/nonexistent/kernel" in line and "state: it is here as it was" in line
    live.write_text(text)
    assert not there.root.exists()


def test_no_room(pair: tuple[Launcher, Launcher], tmp_path: Path) -> None:
    """A disk that is full while files come: the reason is told, and nothing of them stays."""
    here, there = pair
    full = script(tmp_path / "full", "trap '' XFSZ; ulimit -f 2; shift 2; exec "
                  f'{shlex.quote(PROGRAM)} --root {shlex.quote(str(there.root))} "$@"')
    line = here.bad(1, "migrate", "box", "127.0.0.1", "--rsh", full)
    assert "the other host says: cannot write" in line and "File too large" in line
    assert "state: it is here as it was" in line
    stays(here, there)


def wait_kept(here: Launcher, there: Launcher) -> None:
    """Until the receiver says that the VM is there for good."""
    end = time.monotonic() + 90
    while "box" not in there.good("list", "--format", "names").split() or \
            "moved" in there.state("box")["definition"]:
        if time.monotonic() > end:
            pytest.fail(f"{ask(here, 'box', 'query-quasar')}\n{ask(here, 'box', 'query-migrate')}"
                        f"\n{ask(there, 'box', 'query-quasar')}")
        time.sleep(0.1)


def test_interrupted(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, there = pair
    mover = begin_slowly(here, rsh)
    mover.send_signal(signal.SIGINT)
    _, error = mover.communicate(timeout=60)
    assert mover.returncode == 130, error
    assert b"it runs here" in error
    stays(here, there)


def ask(launcher: Launcher, name: str, command: str, **arguments: Any) -> Any:
    """A command to QEMU, past the launcher."""
    folder = os.open(launcher.run_folder(name), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/self/fd/{folder}/query")     # of any length
            qmp = Qmp(connection)
            result = qmp.execute(command, arguments)
            qmp.close()
            return result
    finally:
        os.close(folder)


def begin_slowly(here: Launcher, rsh: Path, *words: str) -> subprocess.Popen:
    """A move that is under way and takes a while."""
    mover = here.start("migrate", "box", "127.0.0.1", "--rsh", rsh, "--bandwidth", "1M",
                       "--progress", "json", *words)
    for line in mover.stdout:
        if json.loads(line)["phase"] == "bulk":
            return mover
    raise AssertionError(mover.stderr.read())


def kill_qemu(launcher: Launcher, name: str) -> None:
    pidfd = os.pidfd_open(launcher.state(name)["pid"])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [], 30)
    os.close(pidfd)


def test_receiver_killed(pair: tuple[Launcher, Launcher], tmp_path: Path) -> None:
    """The QEMUs go on; the VM has a name there, and its launcher finds it."""
    here, there = pair
    number = tmp_path / "number"
    rsh = script(tmp_path / "rsh", f"shift 2; echo $$ >{shlex.quote(str(number))}; exec "
                 f'{shlex.quote(PROGRAM)} --root {shlex.quote(str(there.root))} "$@"')
    mover = begin_slowly(here, rsh)
    os.kill(int(number.read_text()), signal.SIGKILL)
    ask(here, "box", "migrate-set-parameters",
        **{"max-bandwidth": 1 << 40, "downtime-limit": 20000})
    _, error = mover.communicate(timeout=60)
    assert mover.returncode == 6, error
    assert b"quasar-run start box there takes it up" in error
    assert here.state("box")["state"] == "stopped"
    assert "left for 127.0.0.1" in here.bad(3, "start", "box")
    assert there.state("box")["definition"]["moved"] == "(arriving)"
    assert "is here (running)" in there.run("start", "box").stderr
    assert "moved" not in there.state("box")["definition"]
    last_pass(there, "box")


def test_qemu_of_the_source_killed(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, there = pair
    mover = begin_slowly(here, rsh)
    kill_qemu(here, "box")
    _, error = mover.communicate(timeout=60)
    assert mover.returncode == 1 and b"stopped here, and not on the other host" in error, error
    here.good("start", "box")
    stays(here, there)


def test_qemu_of_the_receiver_killed(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, there = pair
    ask(here, "box", "quasar-set", **{"resume-timeout": 2})
    mover = begin_slowly(here, rsh)
    kill_qemu(there, "box")
    _, error = mover.communicate(timeout=60)
    assert mover.returncode == 4 and b"it runs here" in error, error
    stays(here, there)


def test_launcher_killed_and_asked_again(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    """A move goes on without its launcher; no verb begins another or takes its mark away."""
    here, there = pair
    mover = begin_slowly(here, rsh)
    mover.kill()
    mover.wait()
    assert "is leaving for 127.0.0.1" in here.bad(4, "migrate", "box", "127.0.0.1", "--rsh", rsh)
    assert "is leaving for 127.0.0.1" in here.bad(4, "start", "box")
    assert "quasar-run receive" in there.bad(1, "start", "box")
    ask(here, "box", "migrate_cancel")
    deadline = Deadline(60, "the end of the move")
    while "knows it again" not in (said := here.run("start", "box").stderr):
        assert "is leaving" in said
        deadline.left()
        time.sleep(0.1)
    while there.good("list", "--format", "names"):
        deadline.left()
        time.sleep(0.1)
    stays(here, there)
    here.good("migrate", "box", "127.0.0.1", "--rsh", rsh, *ANY_PAUSE)
    assert there.state("box")["state"] == "running"


def test_source_lost(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    """Neither launcher nor QEMU is there any more: what had come goes, without anybody's word."""
    here, there = pair
    ask(here, "box", "quasar-set", **{"resume-timeout": 2})
    mover = begin_slowly(here, rsh)
    mover.kill()
    mover.wait()
    kill_qemu(here, "box")
    deadline = Deadline(60, "the end of what came")
    while there.good("list", "--format", "names"):
        deadline.left()
        time.sleep(0.1)
    assert "left for 127.0.0.1" in here.bad(3, "start", "box")
    here.good("set", "box", "moved=")
    here.good("start", "box")
    stays(here, there)


def test_paused_stays_paused(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, there = pair
    ask(here, "box", "stop")
    here.good("migrate", "box", "127.0.0.1", "--rsh", rsh, *ANY_PAUSE)
    assert there.state("box")["state"] == "paused"
    there.good("start", "box")
    last_pass(there, "box")


def test_too_slow(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, there = pair
    assert "--timeout" in here.bad(4, "migrate", "box", "127.0.0.1", "--rsh", rsh, "--bandwidth",
                                   "1M", "--timeout", "1", "--on-timeout", "cancel")
    stays(here, there)
    here.good("migrate", "box", "127.0.0.1", "--rsh", rsh, *ANY_PAUSE)
    assert there.state("box")["state"] == "running"


def test_name_taken(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    here, there = pair
    path = define(there, "box")
    before = path.read_bytes()
    assert 'there is a VM "box" already' in here.bad(3, "migrate", "box", "127.0.0.1", "--rsh",
                                                     rsh)
    assert path.read_bytes() == before
    assert here.state("box")["state"] == "running"


def test_source_launcher_killed(pair: tuple[Launcher, Launcher], rsh: Path) -> None:
    """The QEMUs decide without it; the VM is not started here a second time."""
    here, there = pair
    mover = here.start("migrate", "box", "127.0.0.1", "--rsh", rsh, "--progress", "json",
                       *ANY_PAUSE)
    for line in mover.stdout:
        if json.loads(line)["phase"] == "bulk":
            break
    mover.kill()
    wait_kept(here, there)
    assert there.state("box")["state"] == "running"
    here.good("stop", "--force", "box")
    assert "left for 127.0.0.1" in here.bad(3, "start", "box")


# The other side misbehaves


STRANGERS = {
    "nothing there": ("exit 127", 1, "ended the connection"),
    "garbage": ("echo SSH-2.0-OpenSSH_9.2p1", 1, "makes no sense"),
    "no JSON object": ("echo '[1,2]'; cat >/dev/null", 1, "makes no sense"),
    "a huge line": ("head -c 1000000 /dev/zero | tr '\\0' a; cat >/dev/null", 1, "a line too long"),
    "another protocol": ("echo '{\"say\":\"hello\",\"protocol\":9,\"version\":\"9\"}'; cat >&2", 3,
                         "do not understand each other"),
    "hello without a version": ("echo '{\"say\":\"hello\",\"protocol\":1}'; cat >/dev/null", 1,
                                "malformed hello"),
    "another word": (f"echo '{HELLO}'; echo '{{\"say\":\"arrived\"}}'; cat >/dev/null", 1,
                     '"accept" was expected'),
    "a refusal with an escape": (
        f"echo '{HELLO}'; echo '{{\"say\":\"refuse\",\"words\":\"\\\\u001b[31mno\"}}'; "
        "cat >/dev/null", 3,
        "the other host says:  [31mno"),
    "a refusal that claims success": (
        f"echo '{HELLO}'; echo '{{\"say\":\"refuse\",\"code\":0,\"words\":\"no\"}}'; "
        "cat >/dev/null", 3,
        "the other host says: no"),
    "a refusal, then deaf": (
        f"exec 0<&-; echo '{HELLO}'; "
        "echo '{\"say\":\"refuse\",\"words\":\"full\",\"hint\":\"make room\"}'; sleep 1", 3,
        "the other host says: full; state: it is here as it was; hint: make room"),
    "no port": (f"echo '{HELLO}'; echo '{{\"say\":\"accept\"}}'; "
                "echo '{\"say\":\"listening\",\"port\":70000}'; cat >/dev/null", 1,
                "it names no port"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_strange_receivers(bare: Launcher, tmp_path: Path, case: str) -> None:
    text, status, words = STRANGERS[case]
    stranger = script(tmp_path / "stranger", text)
    error = bare.bad(status, "migrate", "box", "127.0.0.1", "--rsh", stranger)
    assert words in error and "\033" not in error
    assert bare.state("box")["state"] == "running"


def test_silence_can_be_interrupted(bare: Launcher, tmp_path: Path) -> None:
    told = tmp_path / "told"
    stranger = script(tmp_path / "stranger", f"touch {shlex.quote(str(told))}; exec sleep 30")
    mover = bare.start("migrate", "box", "127.0.0.1", "--rsh", stranger)
    while not told.exists():
        time.sleep(0.02)
    mover.send_signal(signal.SIGINT)
    _, error = mover.communicate(timeout=30)
    assert mover.returncode == 130, error
    assert bare.state("box")["state"] == "running"


DEFINITION = """[vm]
guest=x86_64
machine=pc-q35-10.0
cpu=Nehalem
memory=64M
cpus=1
net={net}
mac=52:54:00:00:00:01
uuid=3e9a5f0e-8d0b-4e7c-9a39-2d1f1e0b8c01
display=none
sandbox=off
"""


def offer(**more: Any) -> dict[str, Any]:
    return {"say": "offer", "name": "web", "definition": DEFINITION.format(net="none"), "disks": [],
            "files": [], "only-check": True, **more}


SOURCES: dict[str, tuple[list[Any], str]] = {
    "garbage": (["GET / HTTP/1.1"], "makes no sense"),
    "a huge line": (["a" * 1000000], "a line too long"),
    "no offer": ([{"say": "prepare"}], '"offer" was expected'),
    "a path as a name": ([offer(name="../web")], "a name and a definition"),
    "no definition": ([offer(definition="")], "the offer is malformed"),
    "unknown key": ([offer(definition=DEFINITION.format(net="none") + "colour=red\n")], "no key"),
    "disks without images": ([offer(disks=[{"size": 512, "allocated": 0}])], "one disk for each"),
    "a disk without size": ([offer(
        definition=DEFINITION.format(net="none") + "image=/etc/passwd;\nimage-format=raw;\n",
        disks=[{"size": 0, "allocated": 0}])], "the size of a disk"),
    "a disk of exabytes": ([offer(
        definition=DEFINITION.format(net="none") + "image=/etc/passwd;\nimage-format=raw;\n",
        disks=[{"size": 1 << 60, "allocated": 0}])], "the size of a disk"),
    "files of nothing": ([offer(files=[{"key": "kernel", "size": 1}])], "more files"),
    "a kernel that is not sent": ([offer(
        definition=DEFINITION.format(net="none") + "kernel=/etc/passwd\n")],
        "not those of the definition"),
    "firmware by a path": ([offer(
        definition=DEFINITION.format(net="none") + "firmware=/etc/passwd\n")],
        "firmware by a path"),
    "a socket": ([offer(definition=DEFINITION.format(net="socket:/run/agent"))],
                 "a socket of another host"),
    "a port for other hosts": ([offer(
        definition=DEFINITION.format(net="user") + "forward=0.0.0.0:80:80;\n")],
        "listen for other hosts: forward 0.0.0.0:80:80"),
    "no such QEMU": ([offer()], "qemu-system-x86_64 is not on PATH"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_strange_sources(dry: Launcher, case: str) -> None:
    messages, words = SOURCES[case]
    text = "\n".join([HELLO, *(m if isinstance(m, str) else json.dumps(m) for m in messages)])
    done = dry.run("receive", input=text + "\n")
    assert done.returncode in (1, 3), done.stderr
    assert words in done.stderr + done.stdout.replace('\\"', '"')
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["say"] for line in told] in (["hello", "refuse"], ["hello"])
    assert not dry.root.exists()


WORDS = {
    "host is an option": (["web", "--", "-oProxyCommand=x"], "this is no host"),
    "host with a space": (["web", "a b"], "this is no host"),
    "bandwidth": (["web", "a", "--bandwidth", "fast"], "--bandwidth"),
    "bandwidth too large": (["web", "a", "--bandwidth", "99999999999G"], "--bandwidth"),
    "downtime": (["web", "a", "--downtime", "-1"], "--downtime"),
    "lanes": (["web", "a", "--lanes", "65"], "--lanes"),
    "level": (["web", "a", "--level", "20"], "--level"),
    "timeout": (["web", "a", "--timeout", "-1"], "--timeout"),
    "on-timeout alone": (["web", "a", "--on-timeout", "force"], "needs --timeout"),
    "on-timeout": (["web", "a", "--timeout", "1", "--on-timeout", "kill"], "cancel, force or wait"),
    "keep and remove": (["web", "a", "--keep", "--remove"], "contradict"),
}


@pytest.mark.parametrize("case", WORDS)
def test_wrong_words(dry: Launcher, case: str) -> None:
    words, text = WORDS[case]
    define(dry, "web")
    assert text in dry.bad(2, "migrate", *words)


def test_stopped(dry: Launcher) -> None:
    define(dry, "web")
    assert '"web" does not run' in dry.bad(1, "migrate", "web", "a")
