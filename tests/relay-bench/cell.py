#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest without an emulated processor: a network namespace whose sockets are handed out.

    with Cell("10.0.2.15", 1500) as cell:
        tap = cell.make_card()              # or a program makes one: cell.pid
        cell.configure()
        sock = cell.connect("10.0.2.2", port)

The card is a tap device.  Its descriptor comes out of the namespace, so that any program can carry
its frames; slirp4netns and pasta make one themselves.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "relay"))

from tapguest import IFF_NO_PI, IFF_TAP, NAMESPACE, TUNSETIFF  # noqa: E402

PATIENCE = 15.0
CARD = "eth0"
GATEWAY = "10.0.2.2"
MAC = "52:54:00:00:00:%02x"


class CellError(Exception):
    """The namespace cannot do what it was asked for."""


class Cell:
    """The end of whoever measures."""

    def __init__(self, address: str, mtu: int) -> None:
        self.address, self.mtu = address, mtu
        self.mac = MAC % int(address.rpartition(".")[2])
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE)
        with theirs:
            self._process = subprocess.Popen(
                [*NAMESPACE, sys.executable, str(Path(__file__)), str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._expect_ready()

    def _expect_ready(self) -> None:
        try:
            ready = self._control.recv(100)
        except TimeoutError:
            ready = b""
        if ready != b"ready":
            self.close()
            raise CellError("the namespace was not made")

    def __enter__(self) -> Cell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _ask(self, what: str) -> int | None:
        self._control.sendall(what.encode())
        answer, found, _, _ = socket.recv_fds(self._control, 4000, 1)
        if answer != b"ok":
            raise CellError(f"{what}: {answer.decode(errors='replace') or 'it has ended'}")
        return found[0] if found else None

    def make_card(self) -> int:
        """Make the tap device; return its descriptor."""
        found = self._ask("card")
        assert found is not None
        return found

    def configure(self) -> None:
        """Give the card its addresses and routes, over what another program may have set."""
        for line in (f"link set {CARD} address {self.mac} mtu {self.mtu} up",
                     f"address flush dev {CARD}", f"address add {self.address}/24 dev {CARD}",
                     f"route replace default via {GATEWAY}"):
            self._ask(f"ip -4 {line}")

    def socket(self) -> socket.socket:
        found = self._ask("socket")
        assert found is not None
        return socket.socket(fileno=found)

    def connect(self, address: str, port: int) -> socket.socket:
        sock = self.socket()
        try:
            sock.settimeout(PATIENCE)
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def listen(self) -> socket.socket:
        sock = self.socket()
        sock.bind(("", 0))
        sock.listen(8)
        return sock


# The program in the namespace

def _make_card() -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", CARD.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def _serve(control: socket.socket, what: str) -> None:
    if what == "card":
        tap = _make_card()
        socket.send_fds(control, [b"ok"], [tap])
        os.close(tap)
    elif what == "socket":
        with socket.socket() as sock:
            socket.send_fds(control, [b"ok"], [sock.fileno()])
    else:
        done = subprocess.run(what.split(), check=False, capture_output=True)
        control.send(done.stderr.strip() or b"failed" if done.returncode else b"ok")


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    control.send(b"ready")
    while what := control.recv(1000):
        try:
            _serve(control, what.decode())
        except OSError as error:
            control.send(str(error).encode())


if __name__ == "__main__":
    main()
