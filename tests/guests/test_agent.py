# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' agent, run as a program of this machine on loopback."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import linux
import pytest

ECHO, COUNTER, COMMAND, HTTP = 7, 8, 9, 80


class Agent:
    """A running agent and the ways to talk to it."""

    def __init__(self, program: Path, folder: Path):
        self.disk = folder / "disk.data"
        self.base = free_base()
        self.process = subprocess.Popen(
            [program, "--address", "127.0.0.1", "--base", str(self.base), "--disk", self.disk],
            stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline() + self.process.stdout.readline()

    def connect(self, service: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.base + service), timeout=20)

    def talk(self, service: int, text: bytes) -> bytes:
        """Say TEXT and nothing more; return all that comes until the agent hangs up."""
        with self.connect(service) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer

    def ask(self, line: str) -> dict:
        return json.loads(self.talk(COMMAND, line.encode() + b"\n"))

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.base + HTTP}{path}",
                                    timeout=20) as answer:
            return answer.read()


def free_base() -> int:
    """A number that, added to each service's port, gives free ports."""
    for base in range(20000, 60000, 117):
        try:
            for service in (ECHO, COUNTER, COMMAND, HTTP):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + service))
            return base
        except OSError:
            continue
    raise RuntimeError("no free ports")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    output = tmp_path_factory.mktemp("agent") / "quasar-agent"
    flags = [flag for flag in linux.CFLAGS if flag != "-static"]
    subprocess.run(["gcc", *flags, "-o", output, *sorted((linux.SOURCES / "agent").glob("*.c"))],
                   check=True, timeout=120)
    return output


@pytest.fixture
def agent(program: Path, tmp_path: Path) -> Iterator[Agent]:
    one = Agent(program, tmp_path)
    yield one
    one.process.kill()
    one.process.wait()
    assert one.process.stdout is not None
    one.process.stdout.close()


def test_greeting_and_report(agent: Agent) -> None:
    report = agent.ask("report")
    assert f"QUASAR-READY boot_id={report['boot_id']}" in agent.greeting
    assert report["ok"] and report["good"] and report["pid"] == agent.process.pid
    assert report["monotonic_ns"] > 0 and report["uptime"] > 0
    assert report["memory"]["size_mb"] == 0 and report["disk"]["path"] == str(agent.disk)


def test_lines_are_answered_in_their_order(agent: Agent) -> None:
    answers = agent.talk(COMMAND, b"ping a\nreport\r\n\nclock\nverify\nping b\n").splitlines()
    assert [json.loads(a)["command"] for a in answers] == ["ping", "report", "clock", "verify",
                                                          "ping"]
    assert json.loads(answers[-1])["text"] == "b"


def test_clock_goes_on(agent: Agent) -> None:
    first, second = agent.ask("clock"), agent.ask("clock")
    assert second["monotonic_ns"] > first["monotonic_ns"]
    assert abs(second["realtime_ns"] / 1e9 - time.time()) < 10


@pytest.mark.parametrize("line", ["nonsense", "dirty", "dirty 1", "dirty -1 1", "dirty 1 x",
                                  "dirty 1 99999999999999999999", "write 1 2000000",
                                  "dirty 1 1000000", "poweroff", "ping a b c"])
def test_bad_commands_are_refused(agent: Agent, line: str) -> None:
    answer = agent.ask(line)
    assert answer["ok"] is False and answer["error"]
    assert agent.ask("ping still")["text"] == "still"


def test_garbage_does_no_harm(agent: Agent) -> None:
    answer = agent.talk(COMMAND, b"x" * 100000 + b"\n" + bytes(range(1, 256)) + b"\nping ok\n")
    assert json.loads(answer.splitlines()[-1])["text"] == "ok"


def test_memory_is_dirtied_at_the_rate(agent: Agent) -> None:
    start = agent.ask("dirty 4000 8")["memory"]
    assert start["running"] and start["pages"] == 2048
    time.sleep(1)
    report = agent.ask("report")["memory"]
    assert 500 < report["writes"] - start["writes"] < 3000
    assert report["errors"] == 0 and report["checksum"] == report["expected"]
    stopped = agent.ask("stop")["memory"]
    time.sleep(0.2)
    assert agent.ask("report")["memory"]["checksum"] == stopped["checksum"]


def test_wrong_memory_is_found(agent: Agent) -> None:
    agent.ask("dirty 0 8")
    assert agent.ask("verify")["good"]
    maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
    rows = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 $", maps, re.M)
    with open(f"/proc/{agent.process.pid}/mem", "r+b", buffering=0) as memory:
        at = 0
        for start, end in ((int(a, 16), int(b, 16)) for a, b in rows):
            memory.seek(start)
            data = memory.read(min(end - start, 64 << 20))
            page = (5 << 32 | 1).to_bytes(8, "little")        # index 5, generation 1
            following = (6 << 32 | 1).to_bytes(8, "little")
            found = data.find(page)
            if found >= 0 and data[found + 4096:found + 4104] == following:
                at = start + found + 1000
        assert at
        memory.seek(at)
        byte = memory.read(1)
        memory.seek(at)
        memory.write(bytes([byte[0] ^ 1]))
    answer = agent.ask("verify")
    assert not answer["good"] and answer["memory"]["errors"] == 1
    assert answer["memory"]["first_wrong_page"] == 5
    assert answer["memory"]["checksum"] != answer["memory"]["expected"]


def test_wrong_disk_is_found(agent: Agent) -> None:
    if not agent.ask("write 8000 1")["ok"]:
        pytest.skip("this file system has no direct input and output")
    deadline = time.monotonic() + 20
    while agent.ask("disk")["disk"]["writes"] < 512 and time.monotonic() < deadline:
        time.sleep(0.05)
    state = agent.ask("stop")["disk"]
    assert state["errors"] == 0 and state["io_errors"] == 0 and state["writes"] >= 512
    assert agent.ask("verify")["good"]
    with open(agent.disk, "r+b") as disk:
        disk.seek(3 * 4096 + 100)
        disk.write(b"wrong")
    answer = agent.ask("verify")
    assert not answer["good"] and answer["disk"]["first_wrong_block"] == 3
    assert answer["disk"]["checksum"] != answer["disk"]["expected"]


def test_echo_returns_everything(agent: Agent) -> None:
    data = bytes(range(256)) * 40
    assert agent.talk(ECHO, data) == data


def test_counter_counts_and_pushes(agent: Agent) -> None:
    lines = agent.talk(COUNTER, b"a\nb\n\n").splitlines()
    assert [line.split()[0] for line in lines] == [b"1", b"2", b"3"]
    assert int(lines[0].split()[1]) < int(lines[2].split()[1])
    with agent.connect(COUNTER) as connection:
        connection.sendall(b"push 10\n")
        pushed = b""
        while pushed.count(b"\n") < 6:
            pushed += connection.recv(4096)
    numbers = [int(line.split()[0]) for line in pushed.splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert agent.ask("report")["counter"] >= numbers[-1]


def test_http(agent: Agent) -> None:
    assert b"Quasar test guest" in agent.get("/")
    assert json.loads(agent.get("/report"))["command"] == "report"
    assert json.loads(agent.get("/verify"))["good"]
    first, second = agent.get("/bytes/3000000"), agent.get("/bytes/5")
    assert len(first) == 3000000 and first[:5] == second
    for path in ("/nothing", "/bytes/x", "/bytes/99999999999999999999"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            agent.get(path)
    assert agent.talk(HTTP, b"POST / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 405")
    assert agent.talk(HTTP, b"\0" * 4096).startswith(b"HTTP/1.0 405")


def test_many_clients_and_silent_ones(agent: Agent) -> None:
    silent = [agent.connect(ECHO) for _ in range(40)]
    assert agent.ask("ping there")["text"] == "there"
    for connection in silent:
        connection.close()
    assert agent.ask("ping again")["text"] == "again"
