#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets that were opened by whoever started the relay, as systemd's socket units do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import guest as g
import pytest
from relaylib import Relay, wait_for
from test_control import ctl

KEY = "acme/web"
IDENTITIES = {KEY: {"secret": "11" * 32, "nat": "none"}}
# Brings the sockets to descriptor 3 and behind, as their receiver expects, and becomes it.
STARTER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(given):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)),
               "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""


class Passing(Relay):
    """A relay that is given sockets."""

    def __init__(self) -> None:
        super().__init__(IDENTITIES)
        self.sockets: dict[str, socket.socket] = {}
        del self.settings["listen-unix"]

    def open(self, name: str) -> None:
        if name == "unix":
            self.sockets[name] = socket.socket(socket.AF_UNIX)
            self.sockets[name].bind(self.unix)
            self.sockets[name].listen()
        else:
            self.sockets[name] = socket.create_server(("127.0.0.1", 0))

    def start(self) -> None:
        numbers = [sock.fileno() for sock in self.sockets.values()]
        words = [sys.executable, "-c", STARTER, ",".join(map(str, numbers)),
                 ":".join(self.sockets), *self.arguments()]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, pass_fds=numbers)
        wait_for(lambda: self._answers() or self.process.poll() is not None, 20, "the relay")
        assert self.process.poll() is None, self.log()

    def end(self) -> None:
        super().end()
        for sock in self.sockets.values():
            sock.close()


@pytest.fixture()
def relay() -> Iterator[Passing]:
    relay = Passing()
    try:
        yield relay
    finally:
        relay.end()


def test_links_come_by_passed_sockets(relay: Passing) -> None:
    for name in ("unix", "plain", "tls"):
        relay.open(name)
    relay.start()
    plain, tls = (relay.sockets[name].getsockname() for name in ("plain", "tls"))
    assert relay.result("status")["listeners"] == [  # type: ignore[index]
        f"unix {relay.unix}", f"plain 127.0.0.1:{plain[1]}", f"tls 127.0.0.1:{tls[1]}"]
    link = relay.attach(KEY)
    link.send(g.RELEASE)
    assert link.wait_closed() == g.R_RELEASED
    link = g.attach(plain, KEY, relay.secret(KEY))
    # What waits while the relay starts anew is served by the next, and its name stays.
    ctl(relay, "restart")
    assert link.wait_closed() == g.R_SHUTDOWN
    again = relay.attach(KEY, epoch=link.epoch, token=link.token)
    assert again.epoch == link.epoch
    relay.stop()
    assert os.path.exists(relay.unix)
    with g.connect(relay.unix):
        relay.start()
        assert relay.attach(KEY).epoch == link.epoch + 1


def test_variables_for_another_process_are_passed_over(relay: Passing) -> None:
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "tls"}
    try:
        Relay.start(relay)
    finally:
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            del os.environ[name]
    assert relay.result("status")["listeners"] == []  # type: ignore[index]


@pytest.mark.parametrize("name,text", [
    ("quasar-relayd.socket", "FileDescriptorName= in its unit is tls, plain or unix"),
    ("raw", "is tls, plain or unix"), ("unix", "unix: a socket that was passed is no unix"),
    ("a:tls", "2 names for 1 sockets"),
])
def test_wrong_names_are_told(relay: Passing, name: str, text: str) -> None:
    relay.sockets[name] = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(AssertionError, match=text):
        relay.start()


def test_wrong_sockets_are_told(relay: Passing) -> None:
    relay.sockets["tls"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(AssertionError, match="tls: a"):
        relay.start()
    relay.sockets["tls"].close()
    relay.sockets["tls"] = socket.socket(socket.AF_INET)
    with pytest.raises(AssertionError, match="no TCP stream socket that listens"):
        relay.start()
    relay.sockets["plain"] = relay.sockets.pop("tls")
    relay.sockets["plain"].bind(("0.0.0.0", 0))
    relay.sockets["plain"].listen()
    with pytest.raises(AssertionError, match="not on loopback"):
        relay.start()
