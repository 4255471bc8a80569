# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU in a scope of systemd: what is asked of it, and what becomes of a start that it refuses.

The bus is a real one of its own; most of the time systemdplayer.py is on it, and QEMU is played
too. Where a real `systemd --user` runs without being started by another systemd, it shows that the
scope is one: what ends the session ends a VM without it, and not one with it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAM, TOP, Fake, Launcher
from test_migrate import script

from deadlines import Deadline

PLAYER = TOP / "tests" / "run" / "systemdplayer.py"
# A user of their own, who owns what the one who tests owns.
AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
CONFIG = """<busconfig><type>session</type><listen>unix:path={path}</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>"""


class Bus:
    """A bus and who plays systemd there."""

    def __init__(self, folder: Path, user: bool):
        self.folder = folder
        self.prefix = AS_USER if user else []
        self.uid = 1000 if user else os.geteuid()
        self.log = folder / "calls"
        self.processes: list[subprocess.Popen] = []
        (folder / "bus.conf").write_text(CONFIG.format(path=folder / "bus"))
        address = f"unix:path={folder / 'bus'}"
        self.environment = {"DBUS_SESSION_BUS_ADDRESS": address,
                            "DBUS_SYSTEM_BUS_ADDRESS": address}
        self.start("dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork",
                   "--print-address")

    def start(self, *argv: object) -> None:
        process = subprocess.Popen([*self.prefix, *map(str, argv)], stdout=subprocess.PIPE,
                                   env={**os.environ, **self.environment})
        self.processes.append(process)
        assert process.stdout.readline()

    def play(self, mode: str) -> None:
        self.start("/usr/bin/python3", PLAYER, mode, self.log, self.uid)

    def calls(self) -> list[Any]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [call for call in map(json.loads, lines) if call[0] == "StartTransientUnit"]

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            process.stdout.close()


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if subprocess.run(["/usr/bin/python3", "-c", "import gi"], check=False,
                      capture_output=True).returncode:
        pytest.skip("python3-gi is not installed")


def put_on(launcher: Launcher, bus: Bus) -> None:
    """Let this launcher be on the bus, as its user."""
    launcher.environment.update(bus.environment)
    if bus.prefix:
        launcher.program = str(script(bus.folder / "as-user",
                                      f'exec {" ".join(bus.prefix)} {PROGRAM} "$@"'))


@pytest.fixture(params=["system", "user"])
def bus(request: pytest.FixtureRequest, fake: Fake, tmp_path: Path) -> Iterator[Bus]:
    """The launcher is root's, who asks the system's manager, or a user's, who asks their own."""
    user = request.param == "user"
    need("dbus-daemon", "unshare")
    if user and subprocess.run([*AS_USER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    if not user and os.geteuid() != 0:
        pytest.skip("the system's manager is asked by root alone")
    made = Bus(tmp_path, user)
    put_on(fake, made)
    yield made
    made.end()


@pytest.fixture
def user_bus(bus: Bus) -> Bus:
    if not bus.prefix:
        pytest.skip("the system's manager outlives all sessions")
    return bus


def start(fake: Fake, name: str = "box", *words: str, **more: Any) -> subprocess.CompletedProcess:
    return fake.run("start", name, "--memory", "64M", "--net", "none", *words, **more)


def test_what_is_asked_for(fake: Fake, bus: Bus) -> None:
    """One unit of the VM's name, with its QEMU in it, which is not QEMU before that."""
    bus.play("done")
    done = start(fake, "my-vm_1.x", "--scope", "on")
    assert (done.returncode, done.stderr) == (0, "my-vm_1.x runs\n")
    shown = fake.state("my-vm_1.x")
    assert shown["definition"]["scope"] == "on"
    [(_, (unit, mode, properties, more))] = bus.calls()
    assert unit == rf"quasar-my\x2dvm_1.x-{shown['pid']}.scope" and mode == "fail" and more == []
    told = dict(properties)
    assert told == {"Description": "Quasar virtual machine my-vm_1.x", "Slice": "machine.slice",
                    "CollectMode": "inactive-or-failed", "CPUAccounting": True,
                    "MemoryAccounting": True, "PIDs": [shown["pid"]]}


@pytest.mark.parametrize(("mode", "words"), [
    ("refuse", "systemd gives no scope: Unit quasar-box-"), ("failed", "no scope: failed"),
    ("silent", "did not answer within 5 seconds"), ("endless", "did not answer within 5 seconds"),
])
def test_no_scope(fake: Fake, bus: Bus, mode: str, words: str) -> None:
    """Who insists has nothing started; others are told, and have their VM."""
    bus.play(mode)
    line = fake.bad(1, "start", "box", "--memory", "64M", "--net", "none", "--scope", "on")
    assert words in line and "state: stopped" in line and "scope=auto" in line
    assert fake.good("list", "--format", "names") == ""
    assert not fake.run_folder("box").exists()
    done = start(fake, "box", "--scope", "auto")
    assert done.returncode == 0 and "note: QEMU runs without a scope of its own" in done.stderr
    assert words in done.stderr and len(bus.calls()) == 2


def test_off_asks_nobody(fake: Fake, bus: Bus) -> None:
    bus.play("done")
    assert start(fake, "box", "--scope", "off").returncode == 0
    assert not bus.log.exists()


def test_no_systemd(fake: Fake, bus: Bus, tmp_path: Path) -> None:
    """A bus without it, no bus, one that only listens: `auto` lacks nothing and says nothing."""
    bus.play("absent")
    words = ["start", "box", "--memory", "64M", "--net", "none", "--scope", "on"]
    assert "no systemd is on the" in fake.bad(3, *words)
    nowhere = {name: f"unix:path={tmp_path / 'nowhere'}" for name in bus.environment}
    line = fake.bad(3, *words, env=nowhere)
    assert "bus is not reached" in line and "state: stopped" in line
    done = start(fake, env=nowhere)
    assert (done.returncode, done.stderr) == (0, "box runs\n")
    fake.good("stop", "--force", "box")
    done = fake.run("start", "box")
    assert (done.returncode, done.stderr) == (0, "box runs\n")


def test_interrupted(fake: Fake, bus: Bus) -> None:
    """Ctrl-C while systemd thinks about it: nothing was started."""
    bus.play("silent")
    starting = fake.start("start", "box", "--memory", "64M", "--net", "none")
    deadline = Deadline(30, "the question")
    while not bus.calls():
        deadline.left()
        time.sleep(0.02)
    starting.send_signal(signal.SIGINT)
    _, error = starting.communicate(timeout=30)
    assert starting.returncode == 130 and b"interrupted" in error
    assert not fake.run_folder("box").exists()


def test_a_user_who_leaves(fake: Fake, user_bus: Bus) -> None:
    """Without lingering their manager ends with them: no scope of its, unless it is insisted on."""
    user_bus.play("leaving")
    done = start(fake)
    assert done.returncode == 0 and "loginctl enable-linger" in done.stderr
    assert user_bus.calls() == []
    done = start(fake, "other", "--scope", "on")
    assert done.returncode == 0 and "ends with the last session of" in done.stderr
    assert len(user_bus.calls()) == 1


def test_it_stays_at_home(fake: Fake, bus: Bus, tmp_path: Path) -> None:
    """Neither a move's offer nor a file tells another host what scope it had here."""
    bus.play("done")
    assert start(fake, "box", "--scope", "on").returncode == 0
    heard = tmp_path / "heard"
    ear = script(tmp_path / "ear", """echo '{"say":"hello","protocol":1,"version":"1"}'; """
                 f"head -n 2 > {heard}")
    fake.run("migrate", "box", "localhost", "--rsh", ear, "--dry-run")
    offer = json.loads(heard.read_text().splitlines()[1])
    assert offer["say"] == "offer" and "sandbox=" in offer["definition"]
    assert "scope=" not in offer["definition"]


# The real one


# The second kind of control groups, alone or beside the first.
TREES = [tree for tree in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
         if (tree / "cgroup.procs").exists() and (tree / "cgroup.controllers").exists()]


class Systemd:
    """`systemd --user`, as root, with mounts and control groups of its own.

    A systemd moves whatever it finds in its own group. In a namespace whose root is a new group, on
    a tree that shows nothing else, it finds itself alone.
    """

    def __init__(self, folder: Path):
        self.log = folder / "systemd.log"
        self.group = TREES[0] / f"quasar-test-{os.getpid()}"
        drop_in = folder / ".config/systemd/user/quasar-kept-.scope.d"
        drop_in.mkdir(parents=True)
        (drop_in / "more.conf").write_text("[Unit]\nDocumentation=man:kept(7)\n")
        first = f"mkdir {self.group} && echo $$ > {self.group}/cgroup.procs && " \
                'exec unshare --mount --cgroup sh -c "$0"'
        then = ("umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && "
                "grep -qx 0::/ /proc/self/cgroup && "
                "mount -t tmpfs tmpfs /run && "
                f"mkdir -p -m 700 /run/systemd/system /run/user/0 && export HOME={folder} "
                "XDG_RUNTIME_DIR=/run/user/0 && exec /lib/systemd/systemd --user "
                "--unit=basic.target --log-target=console --log-level=info")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["sh", "-c", first, then], stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL)
        self.inside = ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt"]
        self.environment = {"XDG_RUNTIME_DIR": "/run/user/0",
                            "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/user/0/bus"}

    def joined(self, path: Path, group: Path, *argv: object) -> Path:
        """A script that begins in this group and sees what this systemd sees."""
        return script(path, f'echo $$ > {group}/cgroup.procs; '
                            f'exec {" ".join([*self.inside, *map(str, argv)])} "$@"')

    def call(self, *argv: object) -> subprocess.CompletedProcess:
        return subprocess.run([*self.inside, *map(str, argv)], capture_output=True, text=True,
                              check=False, timeout=60, env={**os.environ, **self.environment})

    def told(self, unit: str, key: str) -> str:
        return self.call("systemctl", "--user", "show", unit, "-p", key, "--value").stdout.strip()

    def wait(self) -> str:
        """Why it is not there; empty: it is."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.call("systemctl", "--user", "is-active", "basic.target").returncode == 0 and \
                    self.call("busctl", "--user", "status",
                              "org.freedesktop.systemd1").returncode == 0:
                return ""
            time.sleep(0.2)
        return f"systemd --user does not run here: {self.log.read_text()[-300:]}"

    def end(self) -> None:
        self.call("systemctl", "--user", "exit")
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for folder, _, _ in os.walk(self.group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


@pytest.fixture
def systemd(fake: Fake, tmp_path: Path) -> Iterator[Systemd]:
    need("dbus-daemon", "unshare", "nsenter", "systemctl", "busctl", "systemd-run")
    if os.geteuid() != 0 or not TREES:
        pytest.skip("a systemd of its own needs root, and control groups of the second kind")
    made = Systemd(tmp_path)
    problem = made.wait()
    if problem:
        made.end()
        pytest.skip(problem)
    yield made
    fake.program = PROGRAM      # which ends the VMs
    made.end()


def test_a_real_scope(fake: Fake, systemd: Systemd) -> None:
    """A VM in a scope is there when its session ends, and its scope goes with it."""
    fake.environment.update(systemd.environment)
    fake.program = str(script(fake.root.parent / "inside",
                              f'exec {" ".join(systemd.inside)} {PROGRAM} "$@"'))
    folder = fake.root.parent
    run = systemd.joined(folder / "run", systemd.group, "systemd-run", "--user", "--scope",
                         "--quiet", "--unit=session-1")
    sleeper = subprocess.Popen([run, "sleep", "600"],
                               env={**os.environ, **systemd.environment})
    wait_for(lambda: systemd.told("session-1.scope", "ActiveState") == "active")
    inner = systemd.told("session-1.scope", "ControlGroup")
    join = systemd.joined(folder / "join", Path(f"{systemd.group}{inner}"), PROGRAM)
    for name, scope in [("kept", "on"), ("left", "off")]:
        done = subprocess.run([join, "--root", fake.root, "start", name, "--memory", "64M", "--net",
                               "none", "--scope", scope], env=fake.environment, check=False,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    kept = fake.state("kept")
    unit = f"quasar-kept-{kept['pid']}.scope"
    assert kept["unit"] == unit and fake.state("left")["unit"] == "session-1.scope"
    assert ["unit", unit] in [line.split() for line in fake.good("show", "kept").splitlines()]
    assert systemd.told(unit, "ActiveState") == "active"
    assert systemd.told(unit, "Slice") == "machine.slice"
    assert systemd.told(unit, "Description") == "Quasar virtual machine kept"
    assert systemd.told(unit, "Documentation").strip('"') == "man:kept(7)"
    systemd.call("systemctl", "--user", "stop", "session-1.scope")
    sleeper.wait(30)
    wait_for(lambda: fake.state("left")["state"] == "stopped")
    assert fake.state("kept")["pid"] == kept["pid"]
    fake.good("stop", "--force", "kept")
    wait_for(lambda: systemd.told(unit, "LoadState") == "not-found")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = Deadline(60, "systemd")
    while not condition():
        deadline.left()
        time.sleep(0.1)
