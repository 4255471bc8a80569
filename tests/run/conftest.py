# SPDX-License-Identifier: GPL-2.0-or-later
"""The launcher as a person runs it: the real program, below a root folder of its own.

The program is $QUASAR_RUN, or that of `build`. Tests that start a VM run the fork's QEMU of the
x86_64 host and small guests from the cache; with --no-build they are skipped when these are not
there. Whatever a test leaves running is ended by the launcher itself.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import places  # noqa: E402
from deadlines import Deadline  # noqa: E402
from say import Failure  # noqa: E402

TOP = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("QUASAR_RUN") or str(TOP / "build" / "quasar" / "cli" / "quasar-run")
TIMEOUT = 60
# Nothing of the person who runs the tests may reach them.
FOREIGN = ("NO_COLOR", "QUASAR_", "XDG_", "DBUS_")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quasar")
    try:
        group.addoption("--no-build", action="store_true",
                        help="skip what needs a build that is not there")
    except ValueError:      # a conftest beside this one has it already
        pass


@dataclass
class Launcher:
    """quasar-run with one root."""
    root: Path
    environment: dict[str, str]
    program: str = PROGRAM
    started: list[subprocess.Popen] = field(default_factory=list)

    def argv(self, *words: object) -> list[str]:
        return [self.program, "--root", str(self.root), *map(str, words)]

    def run(self, *words: object, **more: Any) -> subprocess.CompletedProcess:
        """Run to the end; `env` adds to the environment."""
        environment = {**self.environment, **more.pop("env", {})}
        more.setdefault("timeout", TIMEOUT)
        more.setdefault("stdin", subprocess.DEVNULL if "input" not in more else None)
        return subprocess.run(self.argv(*words), env=environment, capture_output=True, text=True,
                              check=False,
                              **{k: v for k, v in more.items() if v is not None})

    def good(self, *words: object, **more: Any) -> str:
        """Run, insist on success, return stdout."""
        done = self.run(*words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bad(self, status: int, *words: object, **more: Any) -> str:
        """Run, insist on this exit status and on an error in one line, return it."""
        done = self.run(*words, **more)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, done.stderr
        return lines[0]

    def start(self, *words: object, **more: Any) -> subprocess.Popen:
        """Start and do not wait; it is ended after the test."""
        process = subprocess.Popen(self.argv(*words), env=self.environment,
                                   **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                                      "stderr": subprocess.PIPE, **more})
        self.started.append(process)
        return process

    def state(self, name: str) -> dict[str, Any]:
        """What `show` says, once QEMU answers: a busy machine may keep it waiting."""
        deadline = Deadline(60, f"an answer from {name}")
        while (shown := json.loads(self.good("show", name, "--json")))["state"] == "silent":
            deadline.left()
        return shown

    def run_folder(self, name: str) -> Path:
        return self.root / "run" / name

    def finish(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:      # a child of its may hold it open, so nobody waits for the end
                    stream.close()
        deadline = Deadline(100, "the end of all VMs")
        for name in self.good("list", "--format", "names").split():
            while "another program" in self.run("delete", "--force", name).stderr:
                deadline.left()
                time.sleep(0.5)
            assert not self.run_folder(name).exists()


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    return {**kept, "LC_ALL": "C.UTF-8", "QUASAR_CACHE": os.environ.get("QUASAR_CACHE", "")}


@pytest.fixture
def dry(tmp_path: Path) -> Iterator[Launcher]:
    """A launcher that finds no QEMU."""
    if not Path(PROGRAM).exists():
        pytest.fail(f"{PROGRAM} is not built; name it in QUASAR_RUN", pytrace=False)
    environment = {**_environment(), "PATH": str(tmp_path / "bin")}
    yield Launcher(tmp_path / "root", environment)


@pytest.fixture(scope="session")
def host(pytestconfig: pytest.Config) -> Path:
    """The folder of the x86_64 host's programs."""
    place = places.Place("x86_64")
    targets = ["x86_64", "aarch64", "ppc64", "s390x"]
    if pytestconfig.getoption("--no-build"):
        if not place.is_built(["x86_64"]):
            pytest.skip("the x86_64 host is not built")
    else:
        place.build(targets)
    return place.host.bin()


@pytest.fixture(scope="session")
def guest(pytestconfig: pytest.Config) -> Callable[[str], Any]:
    """A guest by name, from the cache."""
    import guests

    def get(name: str) -> Any:
        built = {row["name"]: row["built"] for row in guests.table()}
        if pytestconfig.getoption("--no-build") and not built[name]:
            pytest.skip(f"the guest {name} is not built")
        try:
            return places.guest(name)
        except Failure as failure:
            pytest.fail(f"{failure}; {failure.hint}", pytrace=False)

    return get


@pytest.fixture
def quasar(dry: Launcher, host: Path) -> Iterator[Launcher]:
    """A launcher with QEMU on its PATH."""
    dry.environment["PATH"] = f"{host}:{os.environ['PATH']}"
    yield dry
    dry.finish()


class Fake(Launcher):
    """A launcher whose QEMU is played by qemuplayer.py."""

    def tell(self, **commands: Any) -> None:
        """What becomes of commands from now on."""
        script = Path(self.environment["FAKE_QEMU"])
        fresh = script.with_suffix(".new")
        fresh.write_text(json.dumps(commands))
        script.with_suffix(".asked").unlink(missing_ok=True)
        fresh.replace(script)

    def wait_asked(self, command: str, times: int = 1) -> None:
        """Until this command came so often since the last tell()."""
        asked = Path(self.environment["FAKE_QEMU"]).with_suffix(".asked")
        deadline = Deadline(60, command)
        while not asked.exists() or asked.read_text().split().count(command) < times:
            deadline.left()
            time.sleep(0.02)


@pytest.fixture
def fake(dry: Launcher, tmp_path: Path) -> Iterator[Fake]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qemu-system-x86_64").symlink_to(TOP / "tests" / "run" / "qemuplayer.py")
    launcher = Fake(dry.root, {**dry.environment, "FAKE_QEMU": str(tmp_path / "told"),
                               "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    launcher.tell()
    yield launcher
    launcher.tell()
    launcher.finish()


@pytest.fixture
def bare(quasar: Launcher, guest: Callable[[str], Any]) -> Launcher:
    """The same, with a VM `box` that runs a program which talks on its console."""
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none")
    return quasar


class Elsewhere:
    """The launcher of a foreign host, under the same root."""

    def __init__(self, place: places.Place, launcher: Launcher):
        self.place = place
        self.launcher = launcher

    def program(self) -> str:
        """As a shell starts it."""
        argv, environment = self.place.command(["quasar-run"])
        more = [f"{k}={v}" for k, v in environment.items() if os.environ.get(k) != v]
        return shlex.join(["env", *more, *argv])

    def good(self, *words: object) -> subprocess.CompletedProcess:
        argv, environment = self.place.command(
            ["quasar-run", "--root", str(self.launcher.root), *map(str, words)])
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=2 * TIMEOUT)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, quasar: Launcher) -> Elsewhere:
    place = places.Place.parse(request.param)
    hosts = os.environ.get("QUASAR_TEST_HOSTS")
    if hosts and place.arch not in hosts.split(","):
        pytest.skip(f"host {place.arch} is not among {hosts}")
    if not request.config.getoption("--no-build"):
        place.build(["x86_64"])
    try:
        place.command(["quasar-run"])
        place.command(["qemu-system-x86_64"])
    except Failure as failure:
        pytest.skip(str(failure))
    return Elsewhere(place, quasar)
