# SPDX-License-Identifier: GPL-2.0-or-later
"""Start, failure and end of a machine, with a program that plays QEMU."""

import select
import subprocess
import sys
import time
from pathlib import Path

import fakes
import network
import pytest
import travel
from machine import MachineError, parse_forwards
from qmp import QmpError

ORPHAN = """
import sys, time, pathlib
sys.path.insert(0, {lib!r})
import fakes
machine = fakes.machine(pathlib.Path({folder!r}), "deaf")
print(machine.process.pid, flush=True)
time.sleep(60)
"""


def test_machine_starts_answers_and_ends(tmp_path: Path) -> None:
    with fakes.machine(tmp_path / "m") as machine:
        assert machine.wait_ready(5) == "01234567-89ab-cdef-0123-456789abcdef"
        assert machine.address(8) == ("127.0.0.1", 40002)
        assert machine.qmp.version == "10.0.13"
        with pytest.raises(QmpError, match="told to fail"):
            machine.qmp.execute("fail")
        assert machine.running
        pid = machine.process.pid
    assert machine.process.returncode == 0
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "m" / "qmp").exists()


def test_incoming_differs_in_one_argument(tmp_path: Path) -> None:
    with fakes.machine(tmp_path / "m") as machine:
        plain, incoming = machine.arguments(None), machine.arguments("defer")
    assert incoming == [*plain, "-incoming", "defer"]


def test_qemu_that_dies_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        fakes.machine(tmp_path / "m", "dies")
    assert "did not start: QEMU ended with status 1" in str(caught.value)
    assert "fakeqemu: nobody can start me" in str(caught.value)


def test_qemu_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    assert fakes.machine(tmp_path / "m", "deaf").stop(timeout=0.3) == -9


def test_story_tells_status_stderr_and_console(tmp_path: Path) -> None:
    machine = fakes.machine(tmp_path / "m")
    machine.wait_ready(5)
    machine.stop()
    assert "it ended with status 0" in machine.story()
    assert "QUASAR-READY" in machine.story()


def test_nothing_stays_when_the_harness_is_killed(tmp_path: Path) -> None:
    script = ORPHAN.format(lib=str(Path(fakes.__file__).parent), folder=str(tmp_path / "m"))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as harness:
        assert harness.stdout
        ready, _, _ = select.select([harness.stdout], [], [], 20)
        assert ready, "the machine did not start"
        pid = int(harness.stdout.readline())
        harness.kill()
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/exe").exists()


def test_forwards() -> None:
    text = """  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  12       127.0.0.1 33333       10.0.2.15    80     0     0
  TCP[ESTABLISHED]   14       127.0.0.1 44444       10.0.2.15     7     0     0
  UDP[236 sec]       15       127.0.0.1     1       10.0.2.15     2     0     0
"""
    assert parse_forwards(text) == {80: 33333}


def test_known_bytes() -> None:
    assert network.expected_bytes(16) == bytes(8) + bytes.fromhex("157c4a7fb979379e")
    assert len(network.expected_bytes(13)) == 13


def test_sparse_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with open(source, "wb") as file:
        file.seek(1 << 20)
        file.write(b"data")
        file.truncate(4 << 20)
    travel.copy_sparse(source, target)
    assert source.read_bytes() == target.read_bytes()
    assert target.stat().st_blocks * 512 < 1 << 20
