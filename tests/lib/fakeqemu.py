#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays QEMU for the harness's own tests: connects its sockets and speaks a little QMP.

usage: fakeqemu.py MODE -chardev socket,id=NAME,path=PATH ...
MODE is good, or what goes wrong: dies (before connecting), deaf (ignores `quit` and SIGTERM),
refuses (fails to send a migration), chokes (ends while it loads one).
"""

import json
import re
import signal
import socket
import sys
from typing import Any

BOOT_ID = "01234567-89ab-cdef-0123-456789abcdef"
USERNET = """VLAN -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  15       127.0.0.1 40001       10.0.2.15     7     0     0
  TCP[HOST_FORWARD]  16       127.0.0.1 40002       10.0.2.15     8     0     0
"""
RAM = {"transferred": 5000, "remaining": 0, "total": 9000, "normal": 2, "duplicate": 3,
       "dirty-sync-count": 4}
LISTENS = {"socket-address": [{"type": "inet", "host": "127.0.0.1", "port": "40009"}]}


class Fake:
    def __init__(self, mode: str):
        self.mode = mode
        self.status: dict[str, Any] = dict(LISTENS)
        self.console, self.agent, self.qmp = (self.connect(name) for name in
                                              ("serial0", "agent0", "qmp0"))

    @staticmethod
    def connect(name: str) -> socket.socket:
        found = re.search(rf"socket,id={name},path=([^ ]+)", " ".join(sys.argv))
        assert found
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(found.group(1))
        return connection

    def send(self, message: dict[str, Any]) -> None:
        self.qmp.sendall(json.dumps(message).encode() + b"\n")

    def event(self, name: str, **data: Any) -> None:
        self.send({"event": name, "data": data})

    def migrate(self) -> None:
        self.event("MIGRATION", status="active")
        if self.mode == "refuses":
            self.status = {"status": "failed", "error-desc": "told to refuse"}
            self.event("MIGRATION", status="failed")
            return
        self.event("STOP")
        self.status = {"status": "completed", "total-time": 7, "downtime": 1, "ram": RAM}
        self.event("MIGRATION", status="completed")

    def load(self) -> None:
        if self.mode == "chokes":
            sys.exit("fakeqemu: Size too large: /rom@etc/acpi/rsdp")
        self.event("RESUME")

    def answer(self, command: str) -> dict[str, Any]:
        if command == "fail":
            return {"error": {"class": "GenericError", "desc": "told to fail"}}
        answers: dict[str, Any] = {"human-monitor-command": USERNET, "query-migrate": self.status}
        return {"return": answers.get(command, {})}

    def serve(self) -> None:
        self.console.sendall(f"booting\nQUASAR-READY boot_id={BOOT_ID}\n".encode())
        version = {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": ""}
        self.send({"QMP": {"version": version, "capabilities": []}})
        with self.qmp.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                command = request["execute"]
                self.send({**self.answer(command), "id": request["id"]})
                if command == "migrate":
                    self.migrate()
                elif command == "migrate-incoming":
                    self.load()
                elif command == "quit" and self.mode != "deaf":
                    return
        while self.mode == "deaf":
            signal.pause()


def main() -> None:
    mode = sys.argv[1]
    if mode == "dies":
        sys.exit("fakeqemu: nobody can start me")
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Fake(mode).serve()


main()
