#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with the kernel's own TCP: a network namespace whose one card is attached to a relay.

    with TapGuest(WEB_MAC) as guest:
        guest.attach(relay.attach("acme/web").sock)
        with guest.socket() as sock:
            sock.connect(("10.0.2.2", port))

The program part makes the namespace's tap device and carries its frames over whatever stream it is
handed; sockets are opened there and passed out, and stay in the namespace whoever holds them.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 2, 0x1000
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
PATIENCE = 30.0
FRAME, PING, PONG = 0, 10, 11


def usable() -> str:
    """Why it cannot be used here, or nothing."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun cannot be opened"
    if subprocess.run([*NAMESPACE, "ip", "link"], check=False, capture_output=True).returncode:
        return "no network namespaces for this user"
    return ""


class TapGuest:
    """The test's end."""

    def __init__(self, mac: bytes, address: str = "10.0.2.15/24", gateway: str = "10.0.2.2",
                 mtu: int = 1500) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE)
        with theirs:
            self._process = subprocess.Popen(
                [*NAMESPACE, sys.executable, str(Path(__file__)), str(theirs.fileno()),
                 mac.hex(":"), address, gateway, str(mtu)],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        assert self._control.recv(100) == b"ready"

    def __enter__(self) -> TapGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, what: bytes, descriptors: list[int]) -> list[int]:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        self._control.sendmsg([what], rights if descriptors else [])
        answer, found, _, _ = socket.recv_fds(self._control, 1000, 1)
        assert answer == b"ok", answer
        return found

    def attach(self, sock: socket.socket) -> None:
        """Its card's frames go over this stream from now on, and no other."""
        self._ask(b"attach", [sock.fileno()])

    def detach(self) -> None:
        self._ask(b"detach", [])

    def listen(self, port: int, family: int = socket.AF_INET) -> socket.socket:
        sock = self.socket(family)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", port))
        sock.listen(128)
        return sock

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        found, = self._ask(f"socket {int(family)} {int(kind)}".encode(), [])
        sock = socket.socket(fileno=found)
        sock.settimeout(PATIENCE)
        return sock

    def connect(self, address: str, port: int) -> socket.socket:
        sock = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock


# The program in the namespace

class Card:
    def __init__(self, mac: str, address: str, gateway: str, mtu: str) -> None:
        self.tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
        prefix = "fec0::5054:ff:fe00:1"
        for words in (f"link set eth0 address {mac} mtu {mtu}", "link set lo up",
                      f"address add {address} dev eth0", f"address add {prefix}/64 dev eth0 nodad",
                      "link set eth0 up", f"route add default via {gateway}",
                      "-6 route add default via fec0::2"):
            subprocess.run(["ip", *words.split()], check=True)
        self.link: socket.socket | None = None
        self.sending = threading.Lock()
        self.down: threading.Thread | None = None
        threading.Thread(target=self.carry_up, daemon=True).start()

    def send(self, kind: int, payload: bytes) -> None:
        with self.sending:
            if self.link is not None:
                try:
                    self.link.sendall(struct.pack("!I", kind << 24 | len(payload)) + payload)
                except OSError:
                    pass                    # lost with the link, as on a wire

    def carry_up(self) -> None:
        while True:
            self.send(FRAME, os.read(self.tap, 65600))

    def carry_down(self, link: socket.socket) -> None:
        buffer = bytearray()
        while True:
            try:
                data = link.recv(1 << 20)
            except OSError:
                return
            if not data:
                return
            buffer += data
            at = 0
            with memoryview(buffer) as view:
                while len(buffer) - at >= 4:
                    head, = struct.unpack_from("!I", view, at)
                    end = at + 4 + (head & 0xFFFFFF)
                    if end > len(buffer):
                        break
                    if head >> 24 == FRAME:
                        os.write(self.tap, view[at + 4:end])
                    elif head >> 24 == PING:
                        self.send(PONG, bytes(view[at + 4:end]))
                    at = end
            del buffer[:at]

    def detach(self) -> None:
        if self.link is not None:
            self.link.shutdown(socket.SHUT_RDWR)
            with self.sending:
                self.link.close()
                self.link = None
            assert self.down is not None
            self.down.join()

    def attach(self, link: socket.socket) -> None:
        self.detach()
        link.setblocking(True)
        self.down = threading.Thread(target=self.carry_down, args=(link,), daemon=True)
        self.down.start()
        with self.sending:
            self.link = link


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    card = Card(*sys.argv[2:])
    control.send(b"ready")
    while True:
        what, descriptors, _, _ = socket.recv_fds(control, 100, 1)
        words = what.decode().split()
        if not words:
            os._exit(0)
        if words[0] == "socket":
            with socket.socket(int(words[1]), int(words[2])) as sock:
                socket.send_fds(control, [b"ok"], [sock.fileno()])
            continue
        if words[0] == "attach":
            card.attach(socket.socket(fileno=descriptors[0]))
        else:
            card.detach()
        control.send(b"ok")


if __name__ == "__main__":
    main()
