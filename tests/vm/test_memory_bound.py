# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session holds in memory, beside what stock QEMU holds for the same guest and link.

The guest rewrites its memory several times as fast as the link carries it, so whatever takes in
more than it passes on grows.  Both moves go on until the same amount has arrived, which is enough
for all of the guest's memory and for more than the bound once again; then they are given up.
"""

from dataclasses import dataclass
from pathlib import Path

import places
import pytest
from machine import Machine, Setup
from places import Place
from processes import peak_rss, reset_peak
from shaper import Shaper

GUEST = "linux-x86_64"
MIB = 1 << 20
MEMORY_MB = 640
DIRTY_MB = 320
DIRTY_KB = 200 << 10        # a second
RATE = 400e6                # the link's, in bits a second: a quarter of that
ENOUGH = 2 * (DIRTY_MB + 128) * MIB     # bytes that arrive
BOUND = 256 * MIB
NEVER_MS = 1                # a downtime that this guest and link do not allow


@dataclass(frozen=True)
class Held:
    """The most that each end held, in bytes."""

    source: int
    destination: int


def listen(machine: Machine, scheme: str) -> tuple[str, int]:
    machine.qmp.execute("migrate-incoming", {"uri": f"{scheme}:127.0.0.1:0"})
    address = machine.qmp.execute("query-migrate")["socket-address"][0]
    return address["host"], int(address["port"])


def move(source: Machine, destination: Machine, scheme: str) -> Held:
    """Send the guest until enough has arrived, and look what both ends held meanwhile."""
    source.qmp.execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "events", "state": True}]})
    source.qmp.execute("migrate-set-parameters",
                       {"max-bandwidth": 0, "downtime-limit": NEVER_MS})
    ends = (source, destination)
    with Shaper(listen(destination, scheme), rate=RATE, delay=0.001) as link:
        assert isinstance(link.address, tuple)
        for end in ends:
            reset_peak(end.process.pid)
        source.qmp.execute("migrate", {"uri": f"{scheme}:{link.address[0]}:{link.address[1]}"})
        link.wait_figures(lambda seen: seen.up >= ENOUGH, "enough to arrive", 180)
        held = Held(*(peak_rss(end.process.pid) for end in ends))
        told = source.qmp.execute("query-migrate")
        source.qmp.execute("migrate_cancel")
        source.qmp.wait_event("MIGRATION", lambda data: data["status"] == "cancelled", timeout=30)
    assert told["status"] == "active" and told["ram"]["dirty-sync-count"] > 1, told
    return held


def held_by(place: Place, scheme: str, folder: Path) -> Held:
    setup = Setup(places.guest(GUEST), memory_mb=MEMORY_MB, net=False)
    with Machine(place, setup, folder / "source") as source, \
            Machine(place, setup, folder / "destination", incoming="defer") as destination:
        source.wait_ready()
        source.agent.request(f"dirty {DIRTY_KB} {DIRTY_MB}")
        return move(source, destination, scheme)


@pytest.mark.route(GUEST, "x86_64", "x86_64/stock")
def test_a_session_holds_little(request: pytest.FixtureRequest, run_folder: Path) -> None:
    _, fork, stock = request.node.get_closest_marker("route").args
    ours = held_by(Place.parse(fork), "quasar", run_folder / "bound-quasar")
    theirs = held_by(Place.parse(stock), "tcp", run_folder / "bound-stock")
    print(f"stock {theirs}, quasar {ours}")
    assert min(theirs.source, theirs.destination) > DIRTY_MB * MIB, "not all of it went over"
    assert ours.source - theirs.source <= BOUND
    assert ours.destination - theirs.destination <= BOUND
