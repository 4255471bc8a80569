#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""An unmodified QEMU by its "stream" netdev: its boot ROM asks DHCP, it moves, the relay dies."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import guest as g
import pytest
from relaylib import Relay, wait_for

QEMU = os.environ.get("QUASAR_TEST_QEMU") or shutil.which("qemu-system-x86_64")
# Another host's, perhaps: scripts/host has them.
DESTINATION = os.environ.get("QUASAR_TEST_QEMU_DESTINATION") or QEMU
ROMS = os.environ.get("QUASAR_TEST_QEMU_ROMS")

pytestmark = pytest.mark.skipif(QEMU is None, reason="no qemu-system-x86_64 on PATH, nor named by "
                                                     "QUASAR_TEST_QEMU")


class Machine:
    """A VM without a disk: its network boot ROM is all the guest there is."""

    def __init__(self, relay: Relay, name: str, *more: str, qemu: str | None = QEMU) -> None:
        self.qmp_path = f"{relay.dir}/{name}.qmp"
        words = [qemu, "-nodefaults", "-machine", "pc,accel=tcg", "-m", "64", "-display", "none",
                 "-boot", "n", "-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-netdev",
                 "stream,id=n0,server=off,addr.type=unix,"
                 f"addr.path={relay.dir}/web,reconnect-ms=100",
                 "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01", *more]
        words += ["-L", ROMS] if ROMS else []
        with open(f"{relay.dir}/{name}.log", "wb") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: os.path.exists(self.qmp_path) or self.process.poll() is not None, 30)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        wait_for(self._connected, what="QEMU to listen")    # it binds first
        self.lines = self.sock.makefile()
        self.lines.readline()
        self.qmp("qmp_capabilities")

    def _connected(self) -> bool:
        return self.sock.connect_ex(self.qmp_path) == 0

    def qmp(self, command: str, **arguments: object) -> dict[str, object]:
        self.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture()
def relay() -> Iterator[Relay]:
    relay = Relay({})
    relay.identities["acme/web"] = {"mac": "52:54:00:00:00:01", "socket": f"{relay.dir}/web"}
    relay.write_identities()
    with relay:
        yield relay


def exchanged(relay: Relay) -> bool:
    """DISCOVER, REQUEST and what they were answered."""
    port = relay.port("acme/web")
    return port["rx-frames"] >= 2 and port["tx-frames"] >= 2  # type: ignore[operator]


def test_stock_qemu(relay: Relay) -> None:
    first = Machine(relay, "first")
    machines = [first]
    try:
        wait_for(lambda: exchanged(relay), 30, "the boot ROM's DHCP")
        assert relay.port("acme/web")["rx-spoofed"] == 0
        worker = relay.workers()["acme.web"]
        # The relay dies; QEMU returns by itself.
        relay.kill()
        relay.start()
        wait_for(lambda: relay.port("acme/web")["state"] == "attached")
        # It moves: the destination waits until the source lets go.
        migration = f"unix:{relay.dir}/migration"
        second = Machine(relay, "second", "-incoming", migration, qemu=DESTINATION)
        machines.append(second)
        first.qmp("migrate", uri=migration)
        wait_for(lambda: first.qmp("query-migrate")["status"] == "completed")
        epoch = relay.port("acme/web")["epoch"]
        first.qmp("quit")
        first.process.wait(10)
        wait_for(lambda: relay.port("acme/web")["state"] == "attached"
                 and relay.port("acme/web")["epoch"] > epoch)  # type: ignore[operator]
        assert second.qmp("query-status")["status"] == "running"
        assert relay.workers()["acme.web"] == worker
        # And it still has a network there.
        before = int(str(relay.port("acme/web")["tx-frames"]))
        second.qmp("system_reset")
        wait_for(lambda: int(str(relay.port("acme/web")["tx-frames"])) >= before + 2, 60,
                 "DHCP after the move")
    finally:
        for machine in machines:
            machine.end()


def test_two_at_once(relay: Relay) -> None:
    """A second one on the same socket gets nowhere while the first is there."""
    link = g.Link(g.connect(f"{relay.dir}/web"))
    wait_for(lambda: relay.port("acme/web")["state"] == "attached")
    machine = Machine(relay, "late")
    try:
        wait_for(lambda: "event=link-refused kind=raw" in relay.log())
        assert relay.port("acme/web")["attaches"] == 1
        link.close()
        wait_for(lambda: relay.port("acme/web")["attaches"] == 2)
    finally:
        machine.end()
