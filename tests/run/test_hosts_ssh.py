# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves between hosts of different architecture, each in a network of its own, by a real ssh.

    home (x86_64) --- near (ppc64le) --- far (s390x)

Nothing routes between home and far. What sshd runs on a host is that host's launcher and QEMU.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FOREIGN, Launcher
from test_migrate import ANY_PAUSE, ask, script
from test_save import last_pass
from test_tunnel import wait_connected

import sshlab
from deadlines import Deadline
from places import Place
from say import Failure

KINDS = {"home": "x86_64", "near": "ppc64le", "far": "s390x"}
# Of a whole move, with both ends emulated on a busy machine.
LONG = 240
# While the file `forced` is there, a host takes no command but this one, and while `slow` is, it
# takes its time.
SHELL = """
export {variables}
[ ! -e {folder}/slow ] || sleep 60
[ ! -e {folder}/forced ] || exec quasar-run receive --net none
exec sh -c "exec $SSH_ORIGINAL_COMMAND"
"""


class There(Launcher):
    """The launcher of one host, and the host."""

    def __init__(self, host: sshlab.Host, place: Place, root: Path):
        environment = {k: v for k, v in place.host.environment().items()
                       if not k.startswith(FOREIGN) or k in ("QUASAR_HOST", "QUASAR_CACHE")}
        super().__init__(root, {**environment, "LC_ALL": "C.UTF-8"})
        self.host = host
        self.place = place
        self.program = place.command(["quasar-run"])[0][0]

    def argv(self, *words: object) -> list[str]:
        return self.host.inside(*super().argv(*words))

    def serve(self) -> None:
        names = ("PATH", "LC_ALL", "QUASAR_HOST", "QUASAR_CACHE", "QEMU_PAGESIZE")
        values = {name: self.environment[name] for name in names if name in self.environment}
        values["QUASAR_HOME"] = str(self.root)
        self.host.serve(SHELL.format(folder=shlex.quote(str(self.host.folder)), variables=" ".join(
            f"{name}={shlex.quote(value)}" for name, value in values.items())))

    def move(self, to: "There", *words: object, config: str = "config",
             where: str | None = None) -> subprocess.Popen:
        """Begin to move `box`."""
        return self.start("migrate", "box", where or to.host.address(self.host), "--rsh",
                          self.host.lab.ssh(config), "--progress", "json", *words, text=True)

    def moved(self, to: "There", *words: object, **more: Any) -> str:
        """Move `box`; what was told on the way."""
        mover = self.move(to, *ANY_PAUSE, *words, **more)
        _, told = mover.communicate(timeout=LONG)
        assert mover.returncode == 0, told
        return told

    def stays(self, status: int, to: "There", *words: object, **more: Any) -> str:
        """The VM does not move, and nothing of it is left at the other end; the error's line."""
        mover = self.move(to, *words, **more)
        _, told = mover.communicate(timeout=LONG)
        assert mover.returncode == status, told
        self.has_it_alone(to)
        return told.splitlines()[-1]

    def has_it_alone(self, other: "There") -> None:
        assert self.state("box")["state"] == "running"
        assert "moved" not in self.state("box")["definition"]
        deadline = Deadline(90, f"the end of what came to {other.host.name}")
        while other.good("list", "--format", "names"):
            deadline.left()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshlab.Lab]:
    try:
        made = sshlab.Lab(tmp_path_factory.mktemp("lab"))
    except sshlab.Missing as missing:
        pytest.skip(str(missing))
    with made:
        yield made


@pytest.fixture(scope="module")
def hosts(lab: sshlab.Lab, pytestconfig: pytest.Config) -> dict[str, There]:
    wanted = os.environ.get("QUASAR_TEST_HOSTS")
    made: dict[str, There] = {}
    for name, arch in KINDS.items():
        if wanted and arch not in wanted.split(","):
            pytest.skip(f"host {arch} is not among {wanted}")
        place = Place.parse(arch)
        if not pytestconfig.getoption("--no-build"):
            place.build(["x86_64"])
        try:
            place.command(["qemu-system-x86_64"])
            made[name] = There(lab.host(name), place, lab.folder / name / "root")
        except Failure as failure:
            pytest.skip(str(failure))
    lab.link(made["home"].host, made["near"].host)
    lab.link(made["near"].host, made["far"].host)
    for there in made.values():
        there.serve()
        lab.know(there.host)
    return made


@pytest.fixture
def home(hosts: dict[str, There], guest: Callable[[str], Any]) -> Iterator[There]:
    """Home, where `box` runs."""
    home = hosts["home"]
    home.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M", "--net",
              "none")
    yield home
    for there in hosts.values():
        for name in ("slow", "forced"):
            (there.host.folder / name).unlink(missing_ok=True)
        there.finish()
        there.started.clear()
        with contextlib.suppress(FileNotFoundError):
            there.host.stop()
        there.serve()


@pytest.fixture
def near(hosts: dict[str, There]) -> There:
    return hosts["near"]


@pytest.fixture
def far(hosts: dict[str, There]) -> There:
    return hosts["far"]


def under_way(mover: subprocess.Popen) -> None:
    for line in mover.stdout:
        if json.loads(line)["phase"] == "bulk":
            return
    raise AssertionError(mover.stderr.read())


SLOWLY = ("--bandwidth", "1M")


def faster(launcher: Launcher) -> None:
    ask(launcher, "box", "migrate-set-parameters",
        **{"max-bandwidth": 1 << 40, "downtime-limit": 20000})


def test_direct(home: There, near: There) -> None:
    """There and back; one login each way, since the machine does not go by ssh."""
    before = last_pass(home, "box")
    home.moved(near, "--remove")
    assert near.host.logins() == 1
    assert last_pass(near, "box") > before
    near.moved(home, "--remove")
    assert home.host.logins() == 1
    assert last_pass(home, "box") > before
    home.has_it_alone(near)


def test_only_ssh_is_let_through(home: There, near: There, lab: sshlab.Lab) -> None:
    """Out inside ssh because nothing else answers; back, since it was asked for."""
    with lab.only_ssh(near.host, home.host):
        told = home.moved(near, "--remove")
    assert "cannot be reached: " in told and "inside the connection to 10.77.1.2" in told
    assert near.host.logins() == 3
    last_pass(near, "box")
    near.moved(home, "--remove", "--tunnel", "always")
    assert home.host.logins() == 3
    last_pass(home, "box")
    home.has_it_alone(near)


def test_a_forced_command(home: There, near: There) -> None:
    """A key that may do nothing but receive, with the network that its owner named."""
    (near.host.folder / "forced").touch()
    home.moved(near, "--tunnel", "always")
    assert near.state("box")["definition"]["net"] == "none"


def test_by_way_of_a_host_between(home: There, near: There, far: There) -> None:
    """ssh jumps there: it runs nothing on that host, and sees what is encrypted."""
    where = far.host.address(near.host)
    assert "did not get to" in home.stays(1, far, where=where)
    home.moved(far, "--via", near.host.address(home.host), where=where)
    assert "Starting session" not in near.host.told()
    assert near.host.logins() == far.host.logins() == 3
    last_pass(far, "box")


def test_by_way_of_a_command_between(home: There, near: There, far: There,
                                     tmp_path: Path) -> None:
    """What is not called ssh is run on the host between."""
    hop = script(tmp_path / "hop", f'exec {home.host.lab.ssh()} "$@"')
    home.moved(far, "--via", near.host.address(home.host), "--rsh", hop,
               where=far.host.address(near.host))
    assert near.host.told().count("Starting session") == 3
    assert far.host.logins() == 3
    last_pass(far, "box")


# What ssh, or the way, does not let through: a line each, and nothing was touched.
REFUSALS: dict[str, tuple[dict[str, Any], str, int]] = {
    "a key that is refused": ({"config": "stranger"}, "did not get to 10.77.1.2", 1),
    "a host key that is unknown": ({"config": "newcomer"}, "did not get to 10.77.1.2", 1),
    "a host that is not there": ({"where": "10.77.1.99"}, "did not get to 10.77.1.99", 1),
    "a name that is not there": ({"where": "nowhere.invalid"}, "did not get to nowhere.invalid", 1),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(home: There, near: There, case: str) -> None:
    more, words, status = REFUSALS[case]
    line = home.stays(status, near, **more)
    assert words in line and "state: it is here as it was" in line
    assert "hint: it says why itself" in line


def test_no_launcher_there(home: There, near: There) -> None:
    near.host.stop()
    near.host.serve("PATH=/nonexistent; export PATH; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")
    line = home.stays(1, near)
    assert "quasar-run must be on the PATH" in line and "it is here as it was" in line


def kill_ssh(launcher: There, of: subprocess.Popen, carries: bool) -> int:
    """Kill the ssh processes of a move: those that carry the machine, or the launchers' own."""
    killed = 0
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if parent == of.pid and b"receive" in words and (b"--stream" in words) == carries:
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed


def test_ssh_killed_before_a_word(home: There, near: There) -> None:
    (near.host.folder / "slow").touch()
    mover = home.move(near)
    deadline = Deadline(60, "a login")
    while not near.host.logins():
        deadline.left()
        time.sleep(0.05)
    assert kill_ssh(home, mover, False) == 1
    _, told = mover.communicate(timeout=LONG)
    assert mover.returncode == 1 and "it is here as it was" in told, told
    home.has_it_alone(near)


def test_the_launchers_ssh_killed_under_way(home: There, near: There) -> None:
    """The machine goes on; which of the two has it, the QEMUs know."""
    mover = home.move(near, *SLOWLY)
    under_way(mover)
    assert kill_ssh(home, mover, False) == 1
    faster(home)
    _, told = mover.communicate(timeout=LONG)
    assert mover.returncode == 6, told
    assert "quasar-run start box there takes it up" in told
    deadline = Deadline(90, "the VM's name at the other end")
    while "moved" in near.state("box")["definition"]:
        deadline.left()
        time.sleep(0.2)
    assert near.state("box")["state"] == "running"
    assert home.state("box")["state"] == "stopped"
    assert "left for" in home.bad(3, "start", "box")


def test_the_machines_ssh_killed_under_way(home: There, near: There) -> None:
    """Both lanes are made again, and what was sent is not sent again."""
    mover = home.move(near, "--tunnel", "always", *SLOWLY)
    under_way(mover)
    wait_connected(home)
    assert kill_ssh(home, mover, True) == 2
    deadline = Deadline(60, "two more logins")
    while near.host.logins() < 5:
        deadline.left()
        time.sleep(0.05)
    faster(home)
    _, told = mover.communicate(timeout=LONG)
    assert mover.returncode == 0, told
    last_pass(near, "box")


def test_sshd_lost_under_way(home: There, near: There) -> None:
    """Nobody lets the machine in any more: it stays."""
    ask(home, "box", "quasar-set", **{"resume-timeout": 2})
    mover = home.move(near, "--tunnel", "always", *SLOWLY)
    under_way(mover)
    near.host.stop()
    _, told = mover.communicate(timeout=LONG)
    assert mover.returncode == 4 and "state: it runs here" in told, told
    assert "which ended with status 255" in told
    home.has_it_alone(near)
