# SPDX-License-Identifier: GPL-2.0-or-later
"""A gateway host with a relay: one identity, whose guest's services are reached from outside."""

import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path

from deadlines import Deadline
from machine import ECHO, HTTP
from network import free_port
from places import Place

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "relay"))

import relaylib  # noqa: E402
from relaylib import Relay  # noqa: E402

KEY = "default/web"
PAUSE_SECONDS = 60          # an emulated host is slow at first, above all when it is busy


class Gateway:
    """A relay with one identity, whose guest's echo and HTTP are forwarded."""

    def __init__(self, home: Place):
        relaylib.DAEMON = home.command(["quasar-relayd"])[0][0]
        self.secret = secrets.token_bytes(32)
        self.ports = {service: free_port() for service in (ECHO, HTTP)}
        forwards = ";".join(f"tcp:127.0.0.1:{port}:{service}"
                            for service, port in self.ports.items())
        self.relay = Relay({KEY: {"secret": self.secret.hex(), "forward": forwards}},
                           **{"listen-tls": "127.0.0.1:0"})

    def connect(self, service: int, timeout: float = PAUSE_SECONDS) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[service]), timeout)

    def write_secret(self, path: Path) -> Path:
        """A file as a person gives it."""
        with open(path, "w", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(self.secret.hex() + "\n")
        return path

    def wait_guest(self) -> None:
        """Wait until the guest has its address and answers through the relay."""
        deadline = Deadline(300, "the guest's echo")
        while deadline.left():
            try:
                with self.connect(ECHO, 2) as one:
                    one.settimeout(2)
                    one.sendall(b"hello\n")
                    if one.recv(6) == b"hello\n":
                        return
            except OSError:
                time.sleep(0.2)


class Talker:
    """A connection on which numbered lines go there and come back, all the time."""

    def __init__(self, gateway: Gateway):
        self.socket = gateway.connect(ECHO)
        self.lines = self.socket.makefile("rb")
        self.said = 0
        self.gap = 0.0
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        try:
            while not self._stop.wait(0.05):
                began = time.monotonic()
                line = b"%d\n" % (self.said + 1)
                self.socket.sendall(line)
                assert self.lines.readline() == line
                self.said += 1
                self.gap = max(self.gap, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - told by end()
            self.error = error

    def wait_more(self, lines: int = 3) -> None:
        """Until so many more lines came back, or the connection failed."""
        said = self.said
        deadline = Deadline(2 * PAUSE_SECONDS, "the connection to go on")
        while not self.error and self.said <= said + lines:
            deadline.left()
            time.sleep(0.02)

    def end(self) -> int:
        self._stop.set()
        self._thread.join(PAUSE_SECONDS)
        self.socket.close()
        if self.error:
            raise self.error
        return self.said
