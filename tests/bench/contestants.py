# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to move a guest that are measured beside each other.

Each is set up as somebody would who knows it well and wants it to end: no limit of bandwidth, the
same downtime limit, auto-converge.  What it costs to prepare a destination counts from the first
command on, and the end is the same for all: the guest runs at the destination, and the source has
said that it is done.

The copy of disks through NBD does what libvirt does for `virsh migrate --copy-storage-all`: the
destination is started paused and exports its empty disk; the source mirrors its own to it (a full
copy, in the background); when the mirror is ready the memory goes, with pause-before-switchover;
in that pause the mirror is ended, and only then the rest is sent; the export is closed before the
guest may run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cases import DOWNTIME_MS, LINKS, Case
from deadlines import Deadline
from machine import Machine
from migration import ENDS, MigrationFailed
from network import free_port

Reach = Callable[[tuple[str, int]], tuple[str, int]]

DISK = "disk0"              # the node of the guest's disk, at both ends
MIRROR = "mirror0"
TARGET = "target0"
LANES = 2                   # multifd's default, and ours
SLOW = 200e6                # bits a second: one core compresses more


@dataclass
class Pair:
    """Both ends of a move; REACH tells where on the link an address of the destination is dialled.
    """

    source: Machine
    destination: Machine
    reach: Reach
    deadline: Deadline

    def capabilities(self, *names: str) -> None:
        for machine in (self.source, self.destination):
            machine.qmp.execute("migrate-set-capabilities", {"capabilities": [
                {"capability": name, "state": True} for name in ("events", *names)]})

    def parameters(self, **values: Any) -> None:
        """Set parameters at both ends; underlines stand for dashes."""
        wanted = {name.replace("_", "-"): value for name, value in values.items()}
        for machine in (self.source, self.destination):
            machine.qmp.execute("migrate-set-parameters", wanted)

    def listen(self, scheme: str) -> str:
        """Let the destination listen; return where the source is to go."""
        qmp = self.destination.qmp
        qmp.execute("migrate-incoming", {"uri": f"{scheme}:127.0.0.1:0"})
        for address in qmp.execute("query-migrate").get("socket-address", []):
            if address["type"] == "inet":
                host, port = self.reach((address["host"], int(address["port"])))
                return f"{scheme}:{host}:{port}"
        raise MigrationFailed("the destination listens nowhere")

    def wait_status(self, *wanted: str) -> str:
        """Wait until the migration says one of these, or that it is over."""
        event = self.source.qmp.wait_event(
            "MIGRATION", lambda data: data["status"] in (*wanted, *ENDS),
            timeout=self.deadline.left())
        if event.data["status"] not in wanted:
            answer = self.source.qmp.execute("query-migrate")
            raise MigrationFailed(f"it {event.data['status']}: "
                                  f"{answer.get('error-desc', 'no reason was told')}")
        return event.data["status"]

    def finish(self) -> None:
        """Wait until the source is done and the guest runs at the destination."""
        self.wait_status("completed")
        self.destination.qmp.wait_event("RESUME", timeout=self.deadline.left())


def _send(pair: Pair, scheme: str) -> None:
    pair.source.qmp.execute("migrate", {"uri": pair.listen(scheme)})


def _usual(pair: Pair, *capabilities: str, **parameters: Any) -> None:
    pair.capabilities("auto-converge", *capabilities)
    pair.parameters(max_bandwidth=0, downtime_limit=DOWNTIME_MS, **parameters)


def precopy(pair: Pair) -> None:
    _usual(pair)
    _send(pair, "tcp")
    pair.finish()


def multifd(pair: Pair) -> None:
    _usual(pair, "multifd", multifd_channels=LANES, multifd_compression="zstd")
    _send(pair, "tcp")
    pair.finish()


def _export(machine: Machine) -> tuple[str, int]:
    """Export a machine's disk; return where."""
    port = free_port()
    machine.qmp.execute("nbd-server-start", {"addr": {
        "type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}})
    machine.qmp.execute("block-export-add", {"type": "nbd", "id": "export0", "node-name": DISK,
                                             "name": DISK, "writable": True})
    return "127.0.0.1", port


def _mirror(pair: Pair) -> None:
    """Copy the disk until both are alike, and keep them so."""
    host, port = pair.reach(_export(pair.destination))
    qmp = pair.source.qmp
    qmp.execute("blockdev-add", {
        "driver": "raw", "node-name": TARGET, "file": {
            "driver": "nbd", "export": DISK,
            "server": {"type": "inet", "host": host, "port": str(port)}}})
    qmp.execute("blockdev-mirror", {"job-id": MIRROR, "device": DISK, "target": TARGET,
                                    "sync": "full", "copy-mode": "background"})
    qmp.wait_event("BLOCK_JOB_READY", timeout=pair.deadline.left())


def mirror(pair: Pair) -> None:
    _usual(pair, "pause-before-switchover")
    _mirror(pair)
    _send(pair, "tcp")
    pair.wait_status("pre-switchover")
    qmp = pair.source.qmp
    qmp.execute("block-job-cancel", {"device": MIRROR})      # of a ready one: finish and detach
    done = qmp.wait_event("BLOCK_JOB_COMPLETED", timeout=pair.deadline.left())
    if "error" in done.data:
        raise MigrationFailed(f"the disk's copy failed: {done.data['error']}")
    qmp.execute("blockdev-del", {"node-name": TARGET})
    qmp.execute("migrate-continue", {"state": "pre-switchover"})
    pair.wait_status("completed")
    there = pair.destination.qmp
    there.wait_event("MIGRATION", lambda data: data["status"] == "completed",
                     timeout=pair.deadline.left())
    there.execute("nbd-server-stop")
    there.execute("cont")
    there.wait_event("RESUME", timeout=pair.deadline.left())


def _quasar(pair: Pair, **settings: Any) -> None:
    _usual(pair)
    pair.source.qmp.execute("quasar-set", {"lanes": LANES, **settings})
    _send(pair, "quasar")
    pair.finish()


@dataclass(frozen=True)
class Contestant:
    name: str
    title: str
    run: Callable[[Pair], None]
    stock: bool
    disks: bool             # the disk goes along; else both ends see the same image
    paused: bool = False    # the destination does not run by itself
    slow_only: bool = False  # not for links that are faster than the compressor


CONTESTANTS = (
    Contestant("precopy", "stock precopy", precopy, stock=True, disks=False),
    Contestant("multifd", "stock multifd, zstd", multifd, stock=True, disks=False),
    Contestant("quasar", "quasar, memory", lambda pair: _quasar(pair, disks=False), stock=False,
               disks=False),
    Contestant("quasar-zstd", "quasar, memory, level 1",
               lambda pair: _quasar(pair, disks=False, level=1), stock=False, disks=False,
               slow_only=True),
    Contestant("mirror", "stock NBD mirror, precopy", mirror, stock=True, disks=True, paused=True),
    Contestant("quasar-whole", "quasar, whole", _quasar, stock=False, disks=True),
    Contestant("quasar-whole-zstd", "quasar, whole, level 1",
               lambda pair: _quasar(pair, level=1), stock=False, disks=True, slow_only=True),
)


def taking_part(case: Case) -> list[Contestant]:
    """Choose who is measured: compression on slow links, and who takes the disk if it changes."""
    rate = LINKS[case.link].rate
    slow = rate is not None and rate < SLOW
    return [one for one in CONTESTANTS
            if (one.disks or not case.disks_only) and (slow or not one.slow_only)]
