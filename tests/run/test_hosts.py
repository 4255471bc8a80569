# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM saved here is continued on a host of another kind, and comes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Elsewhere, Launcher
from test_migrate import ask


@pytest.mark.parametrize("words", [(), ("--live",)], ids=["paused", "live"])
@pytest.mark.parametrize("elsewhere", ["ppc64le:64k", "s390x"], indirect=True)
def test_there_and_back(quasar: Launcher, elsewhere: Elsewhere, guest: Callable[[str], Any],
                        tmp_path: Path, words: tuple[str, ...]) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"something".ljust(1 << 20, b"\0"))
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--image", image)
    quasar.good("console", "box", "--until", " bad 0", "--timeout", "30")
    ask(quasar, "box", "migrate-set-parameters", **{"downtime-limit": 20000})
    quasar.good("save", "box", tmp_path / "out", *words)
    arrived = elsewhere.good("restore", tmp_path / "out", "--name", "there")
    assert "runs without its sandbox" in arrived.stderr     # the emulators offer no seccomp
    elsewhere.good("console", "there", "--until", " bad 0", "--timeout", "60")
    ask(quasar, "there", "migrate-set-parameters", **{"downtime-limit": 20000})
    elsewhere.good("save", "there", tmp_path / "back", *words)
    quasar.good("restore", tmp_path / "back", "--name", "home")
    quasar.good("console", "home", "--until", " bad 0", "--timeout", "30")
    copy = Path(quasar.state("home")["definition"]["image"])
    assert copy.read_bytes() == image.read_bytes()
