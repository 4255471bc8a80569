#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a relay of its own for a test, in a folder of its own, on loopback alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable

import guest as g

DAEMON = os.environ.get("QUASAR_RELAYD", "quasar-relayd")
CTL = os.environ.get("QUASAR_RELAYCTL", "quasar-relayctl")
# Settings for every relay of a run: a sanitizer, for one, needs "seccomp=false".
EXTRA = dict(item.split("=", 1) for item in os.environ.get("QUASAR_RELAY_SET", "").split())
# The kind of NAT of identities that do not say; conftest.py runs some tests with each.
NAT = "slirp"
WRAPPER = os.environ.get("QUASAR_RELAY_WRAPPER", "").split()


def wait_for(condition: Callable[[], object], timeout: float = 10.0, what: str = "") -> object:
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"in vain: waited for {what or condition}"
        time.sleep(0.02)


class Relay:
    """A daemon, its folder and its workers."""

    def __init__(self, identities: dict[str, dict[str, str]], **settings: str) -> None:
        # Short, for socket paths are.
        self.dir = tempfile.mkdtemp(prefix="qr", dir="/tmp")
        self.unix = f"{self.dir}/attach"
        self.log_path = f"{self.dir}/log"
        self.settings = {"run-dir": self.dir, "state-dir": f"{self.dir}/state",
                         "identities": f"{self.dir}/ids", "listen-unix": self.unix,
                         "log-level": "debug", **EXTRA, **settings}
        self.identities = identities
        self.process: subprocess.Popen[bytes] | None = None
        self.write_identities()

    def __enter__(self) -> Relay:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def write_identities(self) -> None:
        path = f"{self.dir}/ids"
        with open(path, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as out:
            for key, values in self.identities.items():
                out.write(f"[{key}]\n")
                out.writelines(f"{name}={value}\n" for name, value
                               in {"nat": NAT, **values}.items())

    def arguments(self) -> list[str]:
        return [*WRAPPER, DAEMON] + [f"--set={k}={v}" for k, v in self.settings.items()]

    def start(self) -> None:
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.arguments(), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        wait_for(lambda: self._answers() or self.process.poll() is not None, 20, "the relay")
        assert self.process.poll() is None, self.log()

    def _answers(self) -> bool:
        try:
            return self.result("status")["pid"] == self.process.pid or bool(WRAPPER)
        except OSError:
            return False

    def log(self) -> str:
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(10)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def workers(self) -> dict[str, int]:
        """Process ids of the workers, by name."""
        found = {}
        for name in os.listdir(f"{self.dir}/nat") if os.path.isdir(f"{self.dir}/nat") else []:
            if name.endswith(".ctl"):
                reply = self.ask_worker(name[:-4], "stat")
                match = re.search(r"pid=(\d+)", reply)
                if match:
                    found[name[:-4]] = int(match[1])
        return found

    def ask_worker(self, name: str, line: str) -> str:
        try:
            with g.connect(f"{self.dir}/nat/{name}.ctl") as sock:
                sock.sendall(line.encode() + b"\n")
                return sock.makefile().readline().strip()
        except OSError:
            return ""

    def end(self) -> None:
        """Ends the daemon and every worker it left behind, and removes the folder."""
        try:
            self._end_processes()
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def _end_processes(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self._own_workers():
            os.kill(pid, signal.SIGTERM)
            try:
                wait_for(lambda pid=pid: not alive(pid), 3)
            except AssertionError:
                os.kill(pid, signal.SIGKILL)

    def _own_workers(self) -> list[int]:
        """Also those that were just starting: they name our folder."""
        mark = f"--directory={self.dir}/nat".encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def ask(self, command: str, **more: object) -> dict[str, object]:
        with g.connect(f"{self.dir}/control") as sock:
            sock.sendall(json.dumps({"command": command, **more}).encode() + b"\n")
            return json.loads(sock.makefile().readline())

    def result(self, command: str, **more: object) -> object:
        answer = self.ask(command, **more)
        assert answer["ok"], answer
        return answer["result"]

    def port(self, key: str) -> dict[str, object]:
        return next(p for p in self.result("ports") if p["identity"] == key)  # type: ignore

    def where(self, kind: str) -> tuple[str, int]:
        match = re.findall(rf"event=listening kind={kind} where=(\S+):(\d+)", self.log())
        return match[-1][0], int(match[-1][1])

    def secret(self, key: str) -> bytes:
        return bytes.fromhex(self.identities[key]["secret"])

    def attach(self, key: str, **more: object) -> g.Link:
        return g.attach(self.unix, key, self.secret(key), **more)

    def memory_kib(self) -> int:
        assert self.process is not None
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])

    def descriptors(self) -> int:
        assert self.process is not None
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except PermissionError:
            # It forbids being looked at; root may nevertheless.
            return 0


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Server:
    """A TCP server on loopback that runs `serve` for each connection in a thread."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        self.errors: list[BaseException] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        try:
            with sock:
                self.serve(sock)
        except OSError as error:
            self.errors.append(error)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)
