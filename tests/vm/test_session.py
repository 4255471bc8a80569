# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole machine in one session: memory, devices and disk, to hosts that share nothing.

The destination's disk is an empty image of the same size; what the guest wrote before and writes
on the way has to be there afterwards.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import places
import pytest
from conftest import Trip
from deadlines import Deadline
from machine import Machine, Setup
from places import Place
from qmp import QmpError
from session import PASSES, Session
from shaper import RandomCuts

HOME = "x86_64"
IN_FLIGHT = 1 << 20         # more than 100 Mb/s and 20 ms ask for
FAST_IN_FLIGHT = 8 << 20    # more than 1 Gb/s and no distance ask for, on a busy machine too


@pytest.mark.quick
@pytest.mark.route("linux-x86_64", HOME, "ppc64le", HOME)
def test_there_and_back(trip: Trip) -> None:
    trip.go("quasar", clock_seconds=6)


@pytest.mark.route("linux-x86_64", HOME, "s390x", HOME)
def test_to_the_other_byte_order_and_back(trip: Trip) -> None:
    trip.go("quasar", clock_seconds=6, verify=True)


@pytest.mark.route("linux-x86_64", HOME, "ppc64le:64k", "aarch64", "ppc64", HOME)
def test_a_tour_of_unlike_hosts(trip: Trip) -> None:
    """With memory and devices compared at each stop."""
    trip.go("quasar", clock_seconds=6, verify=True)


@pytest.mark.route("linux-x86_64", HOME, HOME)
def test_disk_goes_along(trip: Trip) -> None:
    """Sparse stays sparse, and what QEMU tells of the disk is what was sent."""
    source = trip.machine
    leg = trip.move(trip.route.stops[1], "quasar-unix")
    trip.check(clock_seconds=5)
    image = trip.setup.disk
    assert image and image != source.setup.disk
    assert image.stat().st_blocks * 512 < image.stat().st_size
    told = trip.machine.qmp.execute("query-quasar")["disks"]
    assert [disk["size"] for disk in told] == [image.stat().st_size]
    assert 0 < told[0]["sent"] < image.stat().st_size
    assert leg.figures.bytes > told[0]["sent"]


# Between two processes, with a link that a test may break


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("level", [0, 1])
def test_lanes_and_levels(pair: Callable[..., Session], lanes: int, level: int) -> None:
    session = pair(settings={"lanes": lanes, "level": level})
    session.start()
    session.check_arrives()
    told = session.info("source")
    assert len(told["lanes"]) == lanes
    if level:
        assert told["wire-sent"] < told["plain-sent"] / 2
    else:
        assert told["plain-sent"] <= told["wire-sent"] < 1.02 * told["plain-sent"]
    assert told["session"] == session.info("destination")["session"]
    seen = [e.data["stage"] for e in session.source.qmp.events("QUASAR_STAGE")]
    assert seen[:2] == ["prepare", "bulk"] and seen[-3:] == ["stop", "commit", "done"]


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
@pytest.mark.parametrize(("level", "lanes"), [(0, 1), (1, 2)])
def test_lanes_where_work_can_be_shared(pair: Callable[..., Session], level: int,
                                        lanes: int) -> None:
    session = pair(settings={"level": level})
    session.start()
    session.check_arrives()
    assert len(session.info("source")["lanes"]) == lanes


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_a_fast_link_needs_little_under_way(pair: Callable[..., Session]) -> None:
    """What is under way when the machine stops adds to its pause."""
    session = pair(rate=1e9, parameters={"downtime-limit": 1})
    session.start()
    told = []
    deadline = Deadline(30, "the rate of the link")
    while len(told) < 40:
        deadline.left()
        info = session.info("source")
        if info["rate"] > 40e6:
            told.append(info["in-flight"])
        time.sleep(0.05)
    assert median(told) <= FAST_IN_FLIGHT, told
    session.source.qmp.execute("migrate_cancel")


@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_cut_ten_times(pair: Callable[..., Session]) -> None:
    """Nothing starts over: a cut costs no more than what was under way."""
    session = pair(parameters={"downtime-limit": 2000, "max-bandwidth": 4 << 20},
                   rate=100e6, delay=0.01)
    with RandomCuts(session.link, times=10, seconds=(0.1, 0.6), seed=11) as cuts:
        session.start()
        cuts.wait()
    session.source.qmp.execute("migrate-set-parameters", {"max-bandwidth": 0})
    session.check_arrives(120)
    told = session.info("source")
    assert sum(lane["cuts"] for lane in told["lanes"]) >= 8, told
    assert told["resent"] < 20 * IN_FLIGHT, told


@pytest.mark.parametrize(("rate", "delay"), [(5e6, 0.02), (50e6, 0.15)], ids=["narrow", "far"])
@pytest.mark.route("linux-x86_64", HOME, HOME)
def test_slow_link(run_folder: Path, rate: float, delay: float) -> None:
    """Half a megabyte a second, or 300 ms there and back, and a guest that does little."""
    here = Place.parse(HOME)
    setup = Setup(places.guest("linux-x86_64"), net=False)
    with Session(here, here, setup, run_folder / f"slow{delay}", settings={"level": 1}, rate=rate,
                 delay=delay, parameters={"downtime-limit": 300}) as session:
        session.source.wait_ready()
        session.start()
        told = session.wait_settled("source", 150)
        assert told["where"] == "peer", told
        downtime = session.source.qmp.execute("query-migrate")["downtime"]
        assert downtime < 600 + 4000 * delay, downtime


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_cancel_and_go_again(pair: Callable[..., Session]) -> None:
    """Cancelling answers within a second; the destination is told why, and another one serves."""
    session = pair(rate=10e6)
    session.start()
    time.sleep(1)
    began = time.monotonic()
    session.source.qmp.execute("migrate_cancel")
    session.source.qmp.wait_event("MIGRATION", lambda d: d["status"] == "cancelled", timeout=10)
    assert time.monotonic() - began < 1
    assert session.runners() == ["source"]
    session.destination.process.wait(10)
    assert "cancelled" in session.destination.stderr()


@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_yank_ends_it_at_once(pair: Callable[..., Session]) -> None:
    session = pair(rate=10e6)
    session.start()
    time.sleep(1)
    session.link.silence()
    began = time.monotonic()
    session.source.qmp.execute("yank", {"instances": [{"type": "migration"}]})
    session.source.qmp.wait_event("MIGRATION", lambda d: d["status"] == "failed", timeout=10)
    assert time.monotonic() - began < 1
    assert session.runners() == ["source"]


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_the_side_that_gave_it_away_is_silent(pair: Callable[..., Session]) -> None:
    session = pair()
    session.start()
    session.check_arrives()
    with pytest.raises(QmpError, match="on the other side"):
        session.source.qmp.execute("cont")
    with pytest.raises(QmpError, match="previous migration"):
        session.source.qmp.execute("migrate", {"uri": "quasar:127.0.0.1:1"})
    with pytest.raises(QmpError, match="nothing to resolve"):
        session.source.qmp.execute("quasar-resolve", {"verdict": "run"})
    assert session.runners() == ["destination"]


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_unlike_machines_are_told_apart(run_folder: Path) -> None:
    """Each difference is refused in words before a byte moves; the destination stays ready."""
    guest, here = places.guest("bare-x86_64"), Place.parse(HOME)
    folder = run_folder / f"unlike{len(list(run_folder.iterdir()))}"
    with Machine(here, Setup(guest, net=False), folder / "a") as source:
        for number, (there, words) in enumerate([
                (Setup(guest, net=False, memory_mb=2 * guest.memory_mb), "the memory is"),
                (Setup(guest, net=False, extra=("-smp", "2")), "the processors are"),
                (Setup(guest, net=False, extra=("-device", "virtio-rng-pci")),
                 "the devices differ: .*virtio-rng-pci"),
                (Setup(guest, net=False, extra=("-cpu", "Opteron_G1")), "the processor model"),
        ]):
            with Machine(here, there, folder / str(number), incoming="defer") as destination:
                uri = f"quasar:unix={destination.folder / 'move'}"
                destination.qmp.execute("migrate-incoming", {"uri": uri})
                since = source.qmp.mark()
                source.qmp.execute("migrate", {"uri": uri})
                source.qmp.wait_event("QUASAR_STAGE", lambda d: d["stage"] == "failed",
                                      since=since, timeout=20)
                reason = source.qmp.execute("query-migrate")["error-desc"]
                assert re.search(words, reason), reason
                assert source.qmp.execute("query-status")["running"]
                assert destination.running


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_bad_requests(pair: Callable[..., Session]) -> None:
    session = pair()
    execute = session.source.qmp.execute
    for uri, words in (("quasar:", "address"), ("quasar:unix=", "path"),
                       ("quasar:nowhere", "address"),
                       ("quasar:127.0.0.1:1,ipv4=off,ipv6=off", "IPv4 and IPv6")):
        with pytest.raises(QmpError, match=words):
            execute("migrate", {"uri": uri})
    with pytest.raises(QmpError, match="open to everybody"):
        execute("migrate", {"uri": "quasar:192.0.2.1:9"})
    for settings, words in (({"lanes": 0}, "from 1 to 64"), ({"lanes": 65}, "from 1 to 64"),
                            ({"level": 20}, "from -7 to 19"),
                            ({"resume-timeout": 0}, "from 1 to 86400")):
        with pytest.raises(QmpError, match=words):
            execute("quasar-set", settings)
    execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "postcopy-ram", "state": True}]})
    with pytest.raises(QmpError, match="postcopy-ram"):
        session.start()
    execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "postcopy-ram", "state": False}]})
    assert session.runners() == ["source"]
    session.start()
    session.check_arrives()


KEY, OTHER_KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2


def shared_key(folder: Path, keys: dict[str, str]) -> Callable[[str, Machine], None]:
    """Give each end its key; both together are what Session calls its preparation."""
    def prepare(name: str, end: Machine) -> None:
        place = folder / name
        place.mkdir()
        (place / "keys.psk").write_text(f"quasar:{keys[name]}\n")
        role = "client" if name == "source" else "server"
        who = {"username": "quasar"} if role == "client" else {}
        end.qmp.execute("object-add", {"qom-type": "tls-creds-psk", "id": "tls0",
                                       "endpoint": role, "dir": str(place), **who})
        end.qmp.execute("migrate-set-parameters", {"tls-creds": "tls0"})

    return prepare


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_encrypted_on_each_lane(pair: Callable[..., Session], tmp_path: Path) -> None:
    """Also on the connections that are made after a cut."""
    session = pair(settings={"lanes": 3}, rate=200e6,
                   parameters={"downtime-limit": 2000, "max-bandwidth": 8 << 20},
                   prepare=shared_key(tmp_path, {"source": KEY, "destination": KEY}))
    session.start()
    session.source.qmp.wait_event("QUASAR_STAGE", lambda d: d["stage"] == "bulk", timeout=20)
    time.sleep(0.5)
    session.link.cut()
    session.check_arrives()
    assert all(lane["cuts"] >= 1 for lane in session.info("source")["lanes"])


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_another_key_is_refused(pair: Callable[..., Session], tmp_path: Path) -> None:
    session = pair(prepare=shared_key(tmp_path, {"source": OTHER_KEY, "destination": KEY}))
    session.start()
    told = session.wait_settled("source")
    assert told["where"] == "here" and told["reason"]
    assert session.runners() == ["source"]
    assert session.destination.running


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_command_line_and_human_monitor(run_folder: Path) -> None:
    setup, here = Setup(places.guest("bare-x86_64"), net=False), Place.parse(HOME)
    folder = run_folder / f"human{len(list(run_folder.iterdir()))}"
    address = f"quasar:unix={folder}.sock"
    with Machine(here, setup, folder / "there", incoming=address) as destination, \
            Machine(here, setup, folder / "here") as source:
        source.console.wait_line(PASSES, timeout=60)
        assert source.qmp.human(f"migrate -d {address}") == ""
        destination.qmp.wait_event("RESUME", timeout=30)
        assert not source.qmp.execute("query-status")["running"]


@pytest.mark.quick
@pytest.mark.route("bare-x86_64", HOME, HOME)
def test_pause_before_the_switchover(pair: Callable[..., Session]) -> None:
    session = pair()
    execute = session.source.qmp.execute
    execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "pause-before-switchover", "state": True}]})
    session.start()
    session.source.qmp.wait_event("MIGRATION", lambda d: d["status"] == "pre-switchover",
                                  timeout=30)
    assert session.runners() == []
    execute("migrate-continue", {"state": "pre-switchover"})
    session.check_arrives()
