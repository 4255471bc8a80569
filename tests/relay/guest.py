#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest made of Python: the attach protocol, and just enough ARP, DHCP, UDP and TCP.

It is a second implementation of net-relay/protocol.h, written from docs/relay.rst.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import time

FRAME, HELLO, CHALLENGE, PROOF, WELCOME, REFUSED = 0, 1, 2, 3, 4, 5
PAUSE, RESUME, RELEASE, BYE, PING, PONG = 6, 7, 8, 9, 10, 11
MAGIC = 0x51735265
LABEL = b"quasar-relay-proof-1"
FLAG_TOKEN, FLAG_PAUSED = 1, 2
(R_VERSION, R_DENIED, R_STALE, R_IN_USE, R_MAC, R_MALFORMED, R_TIMEOUT, R_LIMIT, R_TAKEN_OVER,
 R_RELEASED, R_REMOVED, R_SHUTDOWN, R_INTERNAL, R_DRAINING) = range(1, 15)

BROADCAST = b"\xff" * 6
TEST_TYPE = b"\x88\xb5"
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
DEADLINE = 10.0


class Refused(Exception):
    """The relay said no."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(f"reason {reason}: {text}")
        self.reason = reason
        self.text = text


class LinkClosed(Exception):
    """The relay ended the link; `reason` is 0 without a BYE."""

    def __init__(self, reason: int = 0) -> None:
        super().__init__(f"link closed, reason {reason}")
        self.reason = reason


def record(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", kind << 24 | len(payload)) + payload


def hello(tenant: str, identity: str, *, epoch: int = 0, token: bytes = b"", flags: int = 0,
          mac: bytes = bytes(6), versions: tuple[int, int] = (1, 1), extra: bytes = b"") -> bytes:
    if token:
        flags |= FLAG_TOKEN
    names = tenant.encode() + identity.encode()
    return struct.pack("!IHHIIQ16sI6sBB", MAGIC, *versions, flags, 0, epoch, token, 0, mac,
                       len(tenant), len(identity)) + names + extra


class Link:
    """Records over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.epoch = 0
        self.token = b""
        self.mtu = 0
        self.bye = 0

    def close(self) -> None:
        self.sock.close()

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.sock.sendall(record(kind, payload))

    def receive(self, timeout: float = DEADLINE, ahead: int = 262144) -> tuple[int, bytes]:
        """The next record, or TimeoutError; without `ahead` not a byte more is read."""
        deadline = time.monotonic() + timeout
        while True:
            missing = 4 - len(self.buffer)
            if missing <= 0:
                head, = struct.unpack("!I", self.buffer[:4])
                size = head & 0xFFFFFF
                missing = 4 + size - len(self.buffer)
                if missing <= 0:
                    payload = self.buffer[4:4 + size]
                    self.buffer = self.buffer[4 + size:]
                    return head >> 24, payload
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no record came")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(ahead or missing)
            except ConnectionError as error:
                raise LinkClosed(self.bye) from error
            if not data:
                raise LinkClosed(self.bye)
            self.buffer += data

    def receive_frame(self, timeout: float = DEADLINE) -> bytes:
        deadline = time.monotonic() + timeout
        while True:
            kind, payload = self.receive(max(deadline - time.monotonic(), 0.001))
            if kind == FRAME:
                return payload
            if kind == BYE:
                self.bye, = struct.unpack("!H", payload[:2])
            elif kind == PING:
                self.send(PONG, payload)

    def receive_test(self, timeout: float = DEADLINE) -> bytes:
        """The next frame of the type that tests use; announcements are passed over."""
        while True:
            frame = self.receive_frame(timeout)
            if frame[12:14] == TEST_TYPE:
                return frame

    def sync_test(self) -> list[bytes]:
        return [frame for frame in self.sync() if frame[12:14] == TEST_TYPE]

    def wait_closed(self, timeout: float = DEADLINE) -> int:
        """Reads until the relay ends the link; returns its reason."""
        try:
            while True:
                self.receive_frame(timeout)
        except LinkClosed as closed:
            return closed.reason

    def sync(self) -> list[bytes]:
        """Waits until the relay has worked on everything sent; returns frames that came."""
        mark = os.urandom(8)
        frames = []
        self.send(PING, mark)
        while True:
            kind, payload = self.receive()
            if kind == PONG and payload == mark:
                return frames
            if kind == FRAME:
                frames.append(payload)


def connect(where: str | tuple[str, int]) -> socket.socket:
    if isinstance(where, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(where)
        return sock
    return socket.create_connection(where, DEADLINE)


def handshake(sock: socket.socket, key: str, secret: bytes | None, **more: object) -> Link:
    """`secret` None: TLS has proved it already.  What follows the welcome is left in the socket,
    for whoever the link is handed to."""
    link = Link(sock)
    payload = hello(*key.split("/"), **more)  # type: ignore[arg-type]
    link.send(HELLO, payload)
    kind, answer = link.receive(ahead=0)
    if kind == CHALLENGE and secret is not None:
        link.send(PROOF, hmac.new(secret, LABEL + answer + payload, hashlib.sha256).digest())
        kind, answer = link.receive(ahead=0)
    if kind == REFUSED:
        sock.close()
        raise Refused(struct.unpack("!H", answer[:2])[0], answer[2:].decode())
    assert kind == WELCOME, kind
    _, _, _, link.epoch, link.token, link.mtu = struct.unpack("!HHIQ16sI", answer[:36])
    return link


def attach(where: str | tuple[str, int], key: str, secret: bytes, **more: object) -> Link:
    return handshake(connect(where), key, secret, **more)


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(proto: int, src: bytes, dst: bytes, payload: bytes, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, fragment, 64, proto, 0, src,
                       dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def with_checksum(proto: int, src: bytes, dst: bytes, segment: bytes, at: int) -> bytes:
    pseudo = src + dst + struct.pack("!BBH", 0, proto, len(segment))
    value = checksum(pseudo + segment)
    return segment[:at] + struct.pack("!H", value or 0xFFFF) + segment[at + 2:]


def udp(src: bytes, sport: int, dst: bytes, dport: int, payload: bytes) -> bytes:
    segment = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return ipv4(17, src, dst, with_checksum(17, src, dst, segment, 6))


def tcp(src: bytes, sport: int, dst: bytes, dport: int, seq: int, ack: int, flags: int,
        payload: bytes = b"", urgent: int = 0, window: int = 65535) -> bytes:
    options = b"\x02\x04\x05\xb4" if flags & SYN else b""
    segment = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                          (20 + len(options)) // 4 << 4, flags, window, 0, urgent)
    segment += options + payload
    return ipv4(6, src, dst, with_checksum(6, src, dst, segment, 16))


class Connection:
    """TCP without frills: in order, one segment size, retransmission by timeout."""

    def __init__(self, guest: Guest, peer: tuple[bytes, int], port: int) -> None:
        self.guest = guest
        self.peer = peer
        self.port = port
        self.next = self.unacked = int.from_bytes(os.urandom(4), "big")
        self.expected = 0
        self.open = False
        self.reset = False
        self.ended = False
        self.received = b""
        self.pending = b""

    def _send(self, flags: int, payload: bytes = b"", seq: int | None = None) -> None:
        self.guest.send_ip(tcp(self.guest.ip, self.port, self.peer[0], self.peer[1],
                               self.next if seq is None else seq, self.expected, flags, payload))

    def input(self, segment: bytes) -> None:
        seq, ack, offset, flags = struct.unpack("!IIBB", segment[4:14])
        payload = segment[(offset >> 4) * 4:]
        if flags & RST:
            self.reset = True
            return
        if flags & SYN:
            self.expected = seq + 1 & 0xFFFFFFFF
            if flags & ACK:
                self.unacked = self.next = ack
                self.open = True
                self._send(ACK)
            else:
                self._send(SYN | ACK)
            return
        if flags & ACK:
            self.open = True
            advance = ack - self.unacked & 0xFFFFFFFF
            if 0 < advance < 1 << 31:
                self.unacked = ack
                if advance <= len(self.pending):
                    self.pending = self.pending[advance:]
        if payload or flags & FIN:
            if seq == self.expected:
                self.received += payload
                self.expected = seq + len(payload) & 0xFFFFFFFF
                if flags & FIN:
                    self.ended = True
                    self.expected = self.expected + 1 & 0xFFFFFFFF
            self._send(ACK)

    def _check(self) -> None:
        if self.reset:
            raise ConnectionResetError("the connection was reset")

    def connect(self, timeout: float = DEADLINE) -> None:
        deadline = time.monotonic() + timeout
        first = self.next
        while not self.open:
            self._send(SYN, seq=first)
            self.guest.pump_until(lambda: self.open or self.reset, 1.0)
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError("no answer to SYN")

    def send(self, data: bytes, timeout: float = DEADLINE) -> None:
        """Returns when all of it was acknowledged."""
        deadline = time.monotonic() + timeout
        for at in range(0, len(data), 8192):
            self.pending = data[at:at + 8192]
            self.next = self.unacked + len(self.pending) & 0xFFFFFFFF
            while self.pending:
                base = self.unacked
                for part in range(0, len(self.pending), 1400):
                    self._send(ACK | PSH, self.pending[part:part + 1400], base + part)
                self.guest.pump_until(lambda: not self.pending or self.reset, 0.5)
                self._check()
                if time.monotonic() > deadline:
                    raise TimeoutError("data was not acknowledged")

    def receive(self, size: int, timeout: float = DEADLINE) -> bytes:
        self.guest.pump_until(lambda: len(self.received) >= size or self.reset or self.ended,
                              timeout)
        self._check()
        if len(self.received) < size:
            raise TimeoutError(f"{len(self.received)} of {size} bytes came")
        data, self.received = self.received[:size], self.received[size:]
        return data


class Guest:
    """A NIC with an address; its link may change under it, as in a migration."""

    def __init__(self, link: Link, mac: bytes, address: str = "10.0.2.15") -> None:
        self.link = link
        self.mac = mac
        self.ip = socket.inet_aton(address)
        self.gateway = self.ip[:3] + b"\x02"
        self.gateway_mac = b"\x52\x55" + self.gateway
        self.connections: dict[tuple[int, bytes, int], Connection] = {}
        self.listening: set[int] = set()
        self.inbox: list[bytes] = []
        self.port = 40000

    def send_frame(self, frame: bytes) -> None:
        self.link.send(FRAME, frame)

    def send_ip(self, packet: bytes, to: bytes | None = None) -> None:
        self.send_frame((to or self.gateway_mac) + self.mac + b"\x08\x00" + packet)

    def arp_request(self, address: bytes) -> None:
        self.send_frame(BROADCAST + self.mac + struct.pack(
            "!HHHBBH6s4s6s4s", 0x0806, 1, 0x0800, 6, 4, 1, self.mac, self.ip, bytes(6), address))

    def resolve(self, address: bytes, timeout: float = DEADLINE) -> bytes:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.arp_request(address)
            for frame in self.collect(0.5, lambda f: f[12:14] == b"\x08\x06"
                                      and f[20:22] == b"\0\x02" and f[28:32] == address):
                return frame[22:28]
        raise TimeoutError("no ARP reply")

    def _input(self, frame: bytes) -> None:
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\x01" and frame[38:42] == self.ip:
            self.send_frame(frame[6:12] + self.mac + struct.pack(
                "!HHHBBH6s4s6s4s", 0x0806, 1, 0x0800, 6, 4, 2, self.mac, self.ip, frame[22:28],
                frame[28:32]))
        elif frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[30:34] == self.ip:
            packet = frame[14:14 + struct.unpack("!H", frame[16:18])[0]]
            segment = packet[(packet[0] & 15) * 4:]
            sport, dport = struct.unpack("!HH", segment[:4])
            key = (dport, packet[12:16], sport)
            if key not in self.connections and dport in self.listening and segment[13] & SYN:
                self.connections[key] = Connection(self, (packet[12:16], sport), dport)
            if key in self.connections:
                self.connections[key].input(segment)
            elif not segment[13] & RST:
                ack, = struct.unpack("!I", segment[8:12])
                self.send_ip(tcp(self.ip, dport, packet[12:16], sport, ack, 0, RST))
        self.inbox.append(frame)

    def pump_until(self, done: object, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not done():  # type: ignore[operator]
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                self._input(self.link.receive_frame(left))
            except TimeoutError:
                return bool(done())  # type: ignore[operator]
        return True

    def collect(self, timeout: float, wanted: object, count: int = 1) -> list[bytes]:
        """Frames for which `wanted` is true, at most `count` of them."""
        self.inbox = []

        def found() -> list[bytes]:
            return [f for f in self.inbox if wanted(f)]  # type: ignore[operator]

        self.pump_until(lambda: len(found()) >= count, timeout)
        return found()[:count]

    def connect(self, address: str, port: int, timeout: float = DEADLINE) -> Connection:
        self.port += 1
        peer = (socket.inet_aton(address), port)
        connection = Connection(self, peer, self.port)
        self.connections[(self.port, *peer)] = connection
        connection.connect(timeout)
        return connection

    def accept(self, port: int, timeout: float = DEADLINE) -> Connection:
        self.listening.add(port)

        def there() -> list[Connection]:
            return [c for c in self.connections.values() if c.port == port and c.open]

        self.pump_until(there, timeout)
        return there()[0]

    def dhcp(self, timeout: float = DEADLINE) -> dict[int, bytes]:
        """DISCOVER; the options of the OFFER, and the address under 0."""
        xid = os.urandom(4)
        body = struct.pack("!BBBB4sHH4s4s4s4s16s192s", 1, 1, 6, 0, xid, 0, 0x8000, bytes(4),
                           bytes(4), bytes(4), bytes(4), self.mac + bytes(10), bytes(192))
        body += b"\x63\x82\x53\x63" + b"\x35\x01\x01" + b"\xff"
        packet = udp(bytes(4), 68, b"\xff" * 4, 67, body + bytes(300 - len(body)))
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.send_ip(packet, BROADCAST)
            for frame in self.collect(1.0, lambda f: f[34:38] == b"\0\x43\0\x44"
                                      and f[46:50] == xid):
                return parse_dhcp(frame)
        raise TimeoutError("no DHCP offer")


def parse_dhcp(frame: bytes) -> dict[int, bytes]:
    packet = frame[14:14 + struct.unpack("!H", frame[16:18])[0]]
    segment = packet[20:]
    stated, = struct.unpack("!H", segment[6:8])
    if stated:
        pseudo = packet[12:20] + struct.pack("!BBH", 0, 17, len(segment))
        assert checksum(pseudo + segment) == 0, "the UDP checksum is wrong"
    options = {0: segment[8 + 16:8 + 20]}
    at = 8 + 240
    while segment[at] != 255:
        if segment[at] == 0:
            at += 1
            continue
        options[segment[at]] = segment[at + 2:at + 2 + segment[at + 1]]
        at += 2 + segment[at + 1]
    return options
