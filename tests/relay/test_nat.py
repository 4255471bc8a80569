#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic of one guest: ARP, DHCP, TCP and UDP through its NAT, and forwards."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import threading
from collections.abc import Iterator

import guest as g
import pytest
from network import free_port
from relaylib import Relay, Server, echo, wait_for

MAC = bytes.fromhex("525400000001")
WEB = {"secret": "11" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true", "mtu": "1400"}


@pytest.fixture()
def relay() -> Iterator[Relay]:
    with Relay({"acme/web": dict(WEB)}) as relay:
        yield relay


@pytest.fixture(name="guest")
def attached_guest(relay: Relay) -> Iterator[g.Guest]:
    link = relay.attach("acme/web", mac=MAC)
    yield g.Guest(link, MAC)
    link.close()


def test_arp(guest: g.Guest) -> None:
    assert guest.resolve(guest.gateway) == guest.gateway_mac


def solicit(guest: g.Guest) -> bytes:
    """The router advertisement that answers a solicitation, from its IPv6 header on."""
    source = bytes.fromhex("fe80" + "00" * 6) + guest.mac[:3] + b"\xff\xfe" + guest.mac[3:]
    target = bytes.fromhex("ff02" + "00" * 13 + "02")
    message = bytes.fromhex("8500000000000000") + b"\1\1" + guest.mac
    pseudo = source + target + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", g.checksum(pseudo + message)) + message[4:]
    packet = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + source + target + message
    for _ in range(60):
        guest.send_frame(bytes.fromhex("333300000002") + guest.mac + b"\x86\xdd" + packet)
        for frame in guest.collect(1.0, lambda f: f[12:14] == b"\x86\xdd" and f[54] == 134):
            return frame[14:]
    raise TimeoutError("no router advertisement")


def test_router_advertisements_give_the_mtu(guest: g.Guest) -> None:
    packet = solicit(guest)
    size, = struct.unpack("!H", packet[4:6])
    message = packet[40:40 + size]
    assert g.checksum(packet[8:40] + struct.pack("!II", size, 58) + message) == 0
    found, at = {}, 16
    while at < len(message):
        found[message[at]] = message[at + 2:at + message[at + 1] * 8]
        at += message[at + 1] * 8
    assert at == len(message) and 3 in found
    assert int.from_bytes(found[5], "big") == 1400


def test_dhcp_gives_the_identitys_address_and_mtu(guest: g.Guest) -> None:
    options = guest.dhcp()
    assert socket.inet_ntoa(options[0]) == "10.0.2.15"
    assert options[3] == guest.gateway
    assert int.from_bytes(options[26], "big") == 1400
    assert guest.link.mtu == 1400


def test_tcp_echo(guest: g.Guest) -> None:
    guest.resolve(guest.gateway)
    with Server(echo) as server:
        connection = guest.connect("10.0.2.2", server.port)
        data = os.urandom(100000)
        for at in range(0, len(data), 20000):
            connection.send(data[at:at + 20000])
        assert connection.receive(len(data)) == data


def test_many_bytes_to_a_slow_reader_are_not_lost(guest: g.Guest) -> None:
    """More than every queue on the way holds: the NAT must wait, not drop for ever."""
    data = os.urandom(3000000)

    def serve(sock: socket.socket) -> None:
        sock.sendall(data)

    guest.resolve(guest.gateway)
    with Server(serve) as server:
        connection = guest.connect("10.0.2.2", server.port)
        assert connection.receive(len(data), 40) == data


def test_urgent_data_is_taken_out(relay: Relay, guest: g.Guest) -> None:
    guest.resolve(guest.gateway)
    with Server(echo) as server:
        connection = guest.connect("10.0.2.2", server.port)
        payload = b"urgent"
        guest.send_ip(g.tcp(guest.ip, connection.port, connection.peer[0], connection.peer[1],
                            connection.next, connection.expected, g.ACK | g.PSH | g.URG, payload,
                            urgent=65535))
        # Passed on as ordinary data: the checksum was mended, or libslirp had dropped it.
        assert connection.receive(len(payload)) == payload
    assert "urgent-cleared=1" in relay.ask_worker("acme.web", "stat")


def test_urgent_data_from_outside_does_not_stop_what_follows(relay: Relay, guest: g.Guest) -> None:
    """A read ends before it, though more is there."""
    guest.resolve(guest.gateway)
    stop = threading.Event()

    def serve(sock: socket.socket) -> None:
        assert sock.recv(5) == b"ready"
        worker = int(re.search(r"pid=(\d+)", relay.ask_worker("acme.web", "stat"))[1])
        os.kill(worker, signal.SIGSTOP)
        try:
            sock.sendall(b"abc")
            sock.send(b"X", socket.MSG_OOB)
            sock.sendall(b"def")
        finally:
            os.kill(worker, signal.SIGCONT)
        stop.wait(20)

    with Server(serve) as server:
        connection = guest.connect("10.0.2.2", server.port)
        connection.send(b"ready")
        try:
            assert connection.receive(7) == b"abcXdef"
        finally:
            stop.set()


def test_tcp_fragments_do_not_reach_libslirp(relay: Relay, guest: g.Guest) -> None:
    guest.resolve(guest.gateway)
    packet = g.ipv4(6, guest.ip, guest.gateway, bytes(8), fragment=0x2000)
    guest.send_ip(packet)
    guest.resolve(guest.gateway)
    assert "refused=1" in relay.ask_worker("acme.web", "stat")


def test_udp_through_the_nat(guest: g.Guest) -> None:
    guest.resolve(guest.gateway)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        port = server.getsockname()[1]
        guest.send_ip(g.udp(guest.ip, 5000, guest.gateway, port, b"question"))
        data, peer = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", peer)
        frames = guest.collect(10, lambda f: f[23] == 17 and f[42:48] == b"answer")
        assert frames and frames[0][36:38] == (5000).to_bytes(2, "big")


def test_loopback_is_closed_by_default() -> None:
    identity = {k: v for k, v in WEB.items() if k != "host-loopback"}
    with Relay({"acme/web": identity}) as relay, Server(echo) as server:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        with pytest.raises((ConnectionResetError, TimeoutError)):
            guest.connect("10.0.2.2", server.port, 2)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "127.1.2.3"])
def test_loopback_is_not_reached_by_its_own_addresses(address: str) -> None:
    """The gateway's MAC, and behind it an address that never stands on a wire."""
    reached = threading.Event()
    identity = {k: v for k, v in WEB.items() if k != "host-loopback"}
    with Relay({"acme/web": identity}) as relay, Server(lambda _: reached.set()) as server:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        with pytest.raises((ConnectionResetError, TimeoutError)):
            guest.connect(address, server.port, 2)
        assert not reached.is_set()
        assert re.search(r"refused=[1-9]", relay.ask_worker("acme.web", "stat"))


def serve_one(guest: g.Guest, port: int, size: int) -> threading.Thread:
    def run() -> None:
        connection = guest.accept(port)
        connection.send(connection.receive(size).upper())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_static_and_run_time_forwards() -> None:
    first, second = free_port(), free_port()
    identity = {**WEB, "forward": f"tcp:127.0.0.1:{first}:80"}
    with Relay({"acme/web": identity}) as relay:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        for port, inside in ((first, 80), (second, 81)):
            if port == second:
                relay.result("forward-add", identity="acme/web",
                             forward=f"tcp:127.0.0.1:{second}:81")
            thread = serve_one(guest, inside, 5)
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                sock.sendall(b"hello")
                sock.settimeout(10)
                assert sock.recv(5) == b"HELLO"
            thread.join()
        assert relay.result("forward-list", identity="acme/web") == [
            f"tcp:127.0.0.1:{first}:80", f"tcp:127.0.0.1:{second}:81"]
        again = relay.ask("forward-add", identity="acme/web", forward=f"tcp:127.0.0.1:{first}:99")
        assert not again["ok"] and "collides" in str(again["error"])
        relay.result("forward-del", identity="acme/web", forward=f"tcp:127.0.0.1:{second}:81")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", second), 2)


@pytest.mark.skipif("QUASAR_RELAY_SET" in os.environ, reason="the settings are others")
def test_both_processes_are_fenced_in(relay: Relay, guest: g.Guest) -> None:
    guest.resolve(guest.gateway)
    assert relay.process is not None
    for pid in (relay.process.pid, relay.workers()["acme.web"]):
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            lines = file.read().splitlines()
        assert "Seccomp:\t2" in lines and "NoNewPrivs:\t1" in lines


def test_flows_are_listed(relay: Relay, guest: g.Guest) -> None:
    guest.resolve(guest.gateway)
    with Server(echo) as server:
        connection = guest.connect("10.0.2.2", server.port)
        connection.send(b"x")
        flows = relay.result("flows", identity="acme/web")
        assert any(f["protocol"] == "TCP" and f["target-port"] == str(server.port)
                   and f["state"] == "ESTABLISHED" for f in flows), flows  # type: ignore


def test_a_worker_that_is_killed_costs_its_own_guest_alone() -> None:
    other = {"secret": "22" * 32, "address": "10.0.2.16", "host-loopback": "true"}
    with Relay({"acme/web": dict(WEB), "acme/db": other}) as relay, Server(echo) as server:
        web = g.Guest(relay.attach("acme/web"), MAC)
        db = g.Guest(relay.attach("acme/db"), bytes.fromhex("525400000002"), "10.0.2.16")
        for one in (web, db):
            one.resolve(one.gateway)
        lost = web.connect("10.0.2.2", server.port)
        kept = db.connect("10.0.2.2", server.port)
        os.kill(relay.workers()["acme.web"], 9)
        wait_for(lambda: "event=nat-lost identity=acme/web" in relay.log())
        wait_for(lambda: relay.port("acme/web")["nat"] == "running")
        kept.send(b"still here")
        assert kept.receive(10) == b"still here"
        web.resolve(web.gateway)
        with pytest.raises(ConnectionResetError):
            lost.send(b"x")
        again = web.connect("10.0.2.2", server.port)
        again.send(b"new")
        assert again.receive(3) == b"new"
        assert relay.port("acme/web")["nat-losses"] == 1
        assert relay.port("acme/db")["nat-losses"] == 0
