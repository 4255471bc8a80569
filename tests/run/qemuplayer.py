#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays the QEMU that a launcher starts, and what QEMU never does when it is asked to.

It is put on PATH as qemu-system-x86_64. The file that FAKE_QEMU names holds, as JSON, what becomes
of commands: {"cont": "refuse"}, "silent" (no answer to this command) or "die"; it is read anew for
each, so a test can change its mind. Any object is the command's result; without one, there was no
session to query. Beside it, NAME.asked
lists the commands that came.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": ""},
                    "capabilities": []}}


def answer(request: dict[str, Any]) -> dict[str, Any] | None:
    command = request["execute"]
    script = Path(os.environ["FAKE_QEMU"])
    with open(script.with_suffix(".asked"), "a") as asked:
        asked.write(command + "\n")
    told = json.loads(script.read_text()).get(command)
    if told == "die" or command == "quit":
        os._exit(1)
    if told == "silent":
        return None
    if told == "refuse" or (told is None and command == "query-quasar"):
        return {"error": {"class": "GenericError", "desc": f"no {command} today"}}
    status = {"status": "prelaunch"} if command == "query-status" else {}
    return {"return": told if told is not None else status}


def talk(peer: socket.socket) -> None:
    with peer, peer.makefile("rb") as lines:
        peer.sendall(json.dumps(GREETING).encode() + b"\n")
        for line in lines:
            request = json.loads(line)
            said = answer(request)
            if said is not None:
                peer.sendall(json.dumps({**said, "id": request["id"]}).encode() + b"\n")


def serve(listener: socket.socket) -> None:
    while True:
        peer, _ = listener.accept()
        with contextlib.suppress(OSError):      # who asked may have gone
            talk(peer)


def main() -> None:
    if "-machine" in sys.argv and "help" in sys.argv:
        print("Supported machines are:\npc-q35-10.0          Standard PC (Q35 + ICH9, 2009)")
        return
    found = re.findall(r"socket,id=(qmp\d),fd=(\d+)", " ".join(sys.argv))
    threads = [threading.Thread(target=serve, args=[socket.socket(fileno=int(fd))])
               for _, fd in found]
    for thread in threads:
        thread.start()


main()
