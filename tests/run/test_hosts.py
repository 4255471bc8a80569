# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM saved here is continued on a host of another kind, and comes back."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Launcher

from places import Place
from say import Failure

TIMEOUT = 120


class Elsewhere:
    """The launcher of a foreign host, under the same root."""

    def __init__(self, place: Place, launcher: Launcher):
        self.place = place
        self.launcher = launcher

    def program(self) -> str:
        """As a shell starts it."""
        argv, environment = self.place.command(["quasar-run"])
        return f"env PATH={shlex.quote(environment['PATH'])} {shlex.join(argv)}"

    def good(self, *words: object) -> subprocess.CompletedProcess:
        argv, environment = self.place.command(
            ["quasar-run", "--root", str(self.launcher.root), *map(str, words)])
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=TIMEOUT)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, quasar: Launcher) -> Elsewhere:
    place = Place.parse(request.param)
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


@pytest.mark.parametrize("elsewhere", ["ppc64le:64k", "s390x"], indirect=True)
def test_there_and_back(quasar: Launcher, elsewhere: Elsewhere, guest: Callable[[str], Any],
                        tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"something" + bytes(1 << 20))
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--image", image)
    quasar.good("console", "box", "--until", " bad 0", "--timeout", "30")
    quasar.good("save", "box", tmp_path / "out")
    arrived = elsewhere.good("restore", tmp_path / "out", "--name", "there")
    assert "runs without its sandbox" in arrived.stderr     # the emulators offer no seccomp
    elsewhere.good("console", "there", "--until", " bad 0", "--timeout", "60")
    elsewhere.good("save", "there", tmp_path / "back")
    quasar.good("restore", tmp_path / "back", "--name", "home")
    quasar.good("console", "home", "--until", " bad 0", "--timeout", "30")
    copy = Path(quasar.state("home")["definition"]["image"])
    assert copy.read_bytes() == image.read_bytes()
