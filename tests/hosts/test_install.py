# SPDX-License-Identifier: GPL-2.0-or-later
"""configure, ninja and ninja install end in a tree that works where it is put."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import upstream


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    checkout = Path(__file__).resolve().parents[2]
    place = tmp_path_factory.mktemp("install")
    build = place / "build"
    subprocess.run(["sh", checkout / "configure", "--prefix=/opt/quasar", "--guests=x86_64",
                    f"--builddir={build}"], check=True, capture_output=True)
    subprocess.run(["ninja", "-C", build], check=True, capture_output=True)
    done = subprocess.run(["ninja", "-C", build, "install"], capture_output=True, text=True,
                          env={**os.environ, "DESTDIR": str(place / "root")}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "root" / "opt" / "quasar"


def test_programs_are_there(installed):
    for program in ("qemu-system-x86_64", "qemu-img", "qemu-nbd", "qemu-storage-daemon"):
        done = subprocess.run([installed / "bin" / program, "--version"], capture_output=True,
                              text=True, check=True)
        assert upstream.read().version in done.stdout


def test_firmware_is_found_beside_the_program(installed):
    """A machine is created and started: it loads its BIOS and its network card's ROM."""
    commands = [{"execute": "qmp_capabilities"}, {"execute": "cont"}, {"execute": "query-status"},
                {"execute": "quit"}]
    done = subprocess.run([installed / "bin" / "qemu-system-x86_64", "-machine", "q35", "-S",
                           "-display", "none", "-device", "e1000", "-qmp", "stdio"],
                          input="".join(json.dumps(c) + "\n" for c in commands),
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert '"status": "running"' in done.stdout


def test_nothing_but_the_prefix_is_touched(installed):
    root = installed.parents[1]
    assert [p.name for p in root.iterdir()] == ["opt"]
