# SPDX-License-Identifier: GPL-2.0-or-later
"""The tools of the relay's benchmark: its endpoints, the namespaces' card, the page."""

import json
import random
import re
import shutil
import socket
import struct
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import endpoint
import netmeasure
import netpage
import netplan
import pytest
from netcontest import CONTESTANTS, taking_part

SVG = "{http://www.w3.org/2000/svg}"
SPEEDS = {"slirp4netns": 800.0, "pasta": 700.0, "passt": 600.0, "relay-slirp": 500.0,
          "relay-scaled": 1000.0, "wire": 3000.0, "relay-switch": 2000.0, "user": 90.0,
          "vm-passt": 80.0, "vm-relay-slirp": 70.0, "vm-relay-scaled": 100.0}
OVER_LINK = {"passt": 300.0, "relay-slirp": 20.0, "relay-scaled": 400.0}


@pytest.fixture
def sample() -> dict[str, Any]:
    """Made-up measurements of a whole plan, three turns, each a little slower."""
    rows = []
    for case in netplan.FULL.cases():
        for who in taking_part(case):
            far = case.place == netplan.LINK
            speed = (OVER_LINK if far else SPEEDS)[who.name]
            rows += [netmeasure.as_dict(netmeasure.Row(
                who.name, case.guest, case.mtu, case.place, case.delay, way, turn,
                netmeasure.MEASURED, bytes=10 ** 8, lost=0, mbit=speed - turn, cpu=0.25,
                card_cpu=0.125, rounds=100, median_us=150.0, p99_us=300.0))
                for way in case.ways for turn in range(3)]
    meta = {"date": "2000-01-01", "commit": "0123456789ab", "qemu": "10.0.13", "processors": 2,
            "model": "made up, for the tests of the page", "memory_gib": 8, "system": "no system",
            "kernel": "0.0", "load": 0.25, "plan": "sample", "limit": 1,
            "congestion": "none at all"}
    return {"meta": meta, "results": rows}


def some(sample: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in sample["results"]
            if all(row[name] == value for name, value in wanted.items())]


def table_rows(text: str, title: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in text.splitlines()
            if re.match(rf"{re.escape(title)}\s{{2,}}\d", line)]


def judged(sample: dict[str, Any], words: str) -> list[netpage.Goal]:
    found = [goal for goal in netpage.goals(netpage.Found(sample["results"]))
             if words in goal.asked]
    assert found
    return found


# The page

def test_same_results_make_the_same_files(sample: dict[str, Any]) -> None:
    first = netpage.render(sample)
    assert first == netpage.render(json.loads(first["relay-benchmarks/results.json"]))
    shuffled = {**sample, "results": random.Random(1).sample(sample["results"],
                                                             len(sample["results"]))}
    again = netpage.render(shuffled)
    for name in first:
        if not name.endswith(".json"):
            assert again[name] == first[name], f"{name} depends on the order of the results"
    assert netpage.MARK in first[netpage.PAGE].splitlines()[:3]


def test_medians_and_spreads_stand_in_the_tables(sample: dict[str, Any]) -> None:
    text = netpage.render(sample)[netpage.PAGE]
    near = table_rows(text, "relay, nat=scaled")[0]
    assert near[1:6] == ["1500", "999 (998 to 1000)", "999 (998 to 1000)", "0.25 + 0.12",
                         "0.25 + 0.12"]
    assert near[6:] == ["150", "300"]


def test_goals_hold_the_relay_against_libslirp(sample: dict[str, Any]) -> None:
    assert all(goal.met for goal in judged(sample, "no delay"))
    assert all(goal.met for goal in judged(sample, "10 ms between guest and NAT"))
    assert all(goal.met for goal in judged(sample, "50 ms between guest and NAT"))
    assert [goal.met for goal in judged(sample, "a VM")] == [True]
    assert not any(goal.asked.startswith("1 ms between")
                   for goal in netpage.goals(netpage.Found(sample["results"])))
    for row in some(sample, contestant="relay-scaled", place="link"):
        row["mbit"] = 150.0                 # less than ten times 20
    assert not any(goal.met for goal in judged(sample, "between guest and NAT"))
    for row in some(sample, contestant="relay-scaled", place="none"):
        row["mbit"] = 790.0
    assert [goal.met for goal in judged(sample, "no delay")] == [False] * 4
    assert "**no**" in netpage.render(sample)[netpage.PAGE]


def test_what_is_not_installed_is_told_and_no_goal_is_met(sample: dict[str, Any]) -> None:
    for row in some(sample, contestant="slirp4netns"):
        row |= {"outcome": "absent", "reason": "slirp4netns is not installed", "mbit": None,
                "cpu": None, "card_cpu": None, "bytes": None, "lost": None, "median_us": None}
    text = netpage.render(sample)[netpage.PAGE]
    assert "Not measured: slirp4netns is not installed." in text
    assert table_rows(text, "libslirp (slirp4netns)")[0][2] == "absent"
    assert {goal.met for goal in judged(sample, "no delay")} == {None}
    row = some(sample, contestant="slirp4netns")[0]
    assert netpage.line(row).endswith("absent: slirp4netns is not installed")


def test_what_failed_or_had_no_time_is_told(sample: dict[str, Any]) -> None:
    row = some(sample, contestant="pasta", place="none", mtu=1500, way="up")[0]
    row |= {"outcome": "failed", "reason": "Faulty: damaged within 7 bytes after 10", "mbit": None}
    for late in some(sample, place="outside", turn=2):
        late |= {"outcome": "skipped", "reason": "the run's time was over", "mbit": None}
    text = netpage.render(sample)[netpage.PAGE]
    assert re.search(r"- passt, on the tap \(pasta\), no delay, MTU 1500, guest to host failed: "
                     r"``Faulty: damaged within 7 bytes after 10``", text)
    count = len(some(sample, outcome="skipped"))
    assert f"was over before {count} of {len(sample['results'])} measurements" in text


def test_lost_bytes_are_told(sample: dict[str, Any]) -> None:
    row = some(sample, contestant="passt", place="none", mtu=1500, way="up")[0]
    row["lost"] = 4711
    assert netpage.line(row).endswith("4711 bytes lost")
    found = table_rows(netpage.render(sample)[netpage.PAGE], "passt, over a stream")[0]
    assert found[2].endswith(", lost") and not found[3].endswith(", lost")


def test_a_busy_machine_is_told(sample: dict[str, Any]) -> None:
    assert ".. warning::" not in netpage.render(sample)[netpage.PAGE]
    sample["results"][3]["strangers"] = 0.5
    assert ".. warning::" in netpage.render(sample)[netpage.PAGE]


def test_plots_are_svg_with_a_bar_for_each(sample: dict[str, Any]) -> None:
    files = netpage.render(sample)
    plots = {name for name in files if name.endswith(".svg")}
    for name in plots:
        assert f".. image:: {name}" in files[netpage.PAGE]
        assert netpage.MAKER in files[name]
        place, _, way = Path(name).stem.partition("-")
        root = ElementTree.fromstring(files[name])
        guest, where = next((guest, where) for key, guest, where in netpage.PLOTS if key == place)
        rows = some(sample, guest=guest, place=where, way=way, turn=0)
        assert len(root.findall(f"{SVG}rect")) == len(rows) + 1     # and the ground
    assert {name.partition("/")[2] for name in plots} == {
        "near-up.svg", "near-down.svg", "near-between.svg", "outside-up.svg", "outside-down.svg",
        "link-up.svg", "link-down.svg", "vm-echo.svg"}


# The plan

@pytest.mark.parametrize("plan", [netplan.QUICK, netplan.FULL], ids=["quick", "full"])
def test_each_of_ours_has_a_peer_beside_it(plan: netplan.Plan) -> None:
    cases = plan.cases()
    assert len({case.name for case in cases}) == len(cases)
    met = set()
    for case in cases:
        who = taking_part(case)
        met |= set(who)
        assert any(one.ours for one in who) and not all(one.ours for one in who), case
    assert met == set(CONTESTANTS)


# The endpoints

@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(10)
    yield ends
    for end in ends:
        end.close()


def received(pair: tuple[socket.socket, socket.socket], data: bytes) -> dict[str, Any]:
    def send() -> None:
        with suppress(BrokenPipeError):     # who found a fault reads no more
            pair[0].sendall(data)
            pair[0].shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    found = endpoint.receive(pair[1], 0.0)
    pair[1].close()
    thread.join()
    return found


def test_a_stream_is_what_was_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    found: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: found.update(endpoint.send(pair[0], 0.3)))
    thread.start()
    got = endpoint.receive(pair[1], 0.3)
    thread.join()
    assert got["bytes"] == found["bytes"] > 2 * endpoint.PERIOD and got["mbit"] > 0


@pytest.mark.parametrize("fault", ["changed", "lost", "twice", "exchanged"])
def test_damage_shows(pair: tuple[socket.socket, socket.socket], fault: str) -> None:
    data = bytearray(endpoint.pattern()[:900_000])
    at, size = 500_000, 4096
    if fault == "changed":
        data[at] ^= 1
    elif fault == "lost":
        del data[at:at + size]
    elif fault == "twice":
        data[at:at] = data[at - size:at]
    else:
        data[at:at + 2 * size] = data[at + size:at + 2 * size] + data[at:at + size]
    assert "damaged" in received(pair, bytes(data))["error"]


def test_another_answer_is_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    thread = threading.Thread(target=lambda: (pair[1].recv(1), pair[1].sendall(b"?")))
    thread.start()
    assert "another answer" in endpoint.ask(pair[0], 0.1)["error"]
    thread.join()


def test_questions_are_answered_and_timed(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].settimeout(10)
    thread = threading.Thread(target=endpoint.answer, args=(pair[1], 0))
    thread.start()
    found = endpoint.ask(pair[0], 0.1)
    thread.join()
    assert found["rounds"] >= 5 and 0 < found["median_us"] <= found["p99_us"]


@pytest.mark.parametrize(("part", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_quantiles(part: float, value: int) -> None:
    assert endpoint.quantile([float(one) for one in range(100, 0, -1)], part) == value


# The card

@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if not compiler:
        pytest.skip("gcc is not installed")
    program = tmp_path_factory.mktemp("card") / "tap-card"
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", "-o", program,
                    Path(__file__).with_name("tap-card.c")], check=True)
    return program


@pytest.fixture
def plugged(card: Path) -> Iterator[tuple[socket.socket, socket.socket, subprocess.Popen]]:
    """A card between something that keeps frames apart, as a tap does, and a stream."""
    tap, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    link, other = socket.socketpair()
    with tap, link:
        with theirs, other:
            process = subprocess.Popen([card, str(theirs.fileno()), str(other.fileno())],
                                       pass_fds=[theirs.fileno(), other.fileno()],
                                       stderr=subprocess.PIPE)
        for sock in (tap, link):
            sock.settimeout(10)
        yield tap, link, process
        link.close()
        process.communicate(timeout=10)


def read_record(link: socket.socket) -> tuple[int, bytes]:
    head, = struct.unpack("!I", link.recv(4, socket.MSG_WAITALL))
    return head >> 24, link.recv(head & 0xFFFFFF, socket.MSG_WAITALL)


def record(payload: bytes, kind: int = 0) -> bytes:
    return struct.pack("!I", kind << 24 | len(payload)) + payload


def test_frames_pass_both_ways(plugged: tuple) -> None:
    tap, link, _ = plugged
    frames = [random.Random(size).randbytes(size) for size in (14, 60, 1514, 65534, 42)]
    for frame in frames:
        tap.send(frame)
        assert read_record(link) == (0, frame)
    stream = b"".join(map(record, frames))
    sender = threading.Thread(target=lambda: [link.sendall(stream[at:at + 1000])
                                              for at in range(0, len(stream), 1000)])
    sender.start()
    assert [tap.recv(70000) for _ in frames] == frames
    sender.join()


def test_a_ping_is_answered_and_other_records_pass_by(plugged: tuple) -> None:
    tap, link, _ = plugged
    link.sendall(record(b"some notice", 6) + record(b"are you there", 10) + record(b"f" * 60))
    assert read_record(link) == (11, b"are you there")
    assert tap.recv(100) == b"f" * 60


def test_a_record_that_is_too_long_ends_the_card(plugged: tuple) -> None:
    _, link, process = plugged
    link.sendall(struct.pack("!I", 0xFFFFFF))
    _, said = process.communicate(timeout=10)
    assert process.returncode == 1 and b"a record of 16777215 bytes" in said


def test_the_page_is_what_its_results_make() -> None:
    """Nobody has changed the page or its plots by hand, or the generator without it."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    stored = docs / netpage.FOLDER / "results.json"
    if not stored.exists():
        pytest.skip(f"no results are stored in docs/{netpage.FOLDER}")
    for name, text in netpage.render(json.loads(stored.read_text(encoding="utf-8"))).items():
        assert (docs / name).read_text(encoding="utf-8") == text, f"{name}: run netpage.py again"
