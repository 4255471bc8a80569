# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP client against a peer that plays every part."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from deadlines import Deadline, TooLate
from qmp import Event, Lost, Qmp, QmpError

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": ""},
                    "capabilities": ["oob"]}}


class Peer:
    """QEMU's end; answers `qmp_capabilities` by itself."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.settimeout(5)
        self._lines = self.socket.makefile("rb")
        greeter = threading.Thread(target=self._greet)
        greeter.start()
        self.qmp = Qmp(ours, "peer", timeout=5)
        greeter.join()

    def _greet(self) -> None:
        self.send(GREETING)
        request = self.take()
        assert request["execute"] == "qmp_capabilities"
        self.send({"return": {}, "id": request["id"]})

    def send(self, message: Any) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\r\n")

    def take(self) -> dict[str, Any]:
        return json.loads(self._lines.readline())

    def end(self) -> None:
        self._lines.close()
        self.socket.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    one = Peer()
    yield one
    one.end()
    one.qmp.close()


def in_background(function: Any) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_greeting_tells_the_version(peer: Peer) -> None:
    assert peer.qmp.version == "10.0.13"


def test_command_returns_what_was_returned(peer: Peer) -> None:
    def serve() -> None:
        request = peer.take()
        assert request["arguments"] == {"a": [1, "ü"]}
        peer.send({"event": "NOISE", "data": {}})
        peer.send({"return": {"status": "running"}, "id": request["id"]})

    thread = in_background(serve)
    assert peer.qmp.execute("query-status", {"a": [1, "ü"]}) == {"status": "running"}
    thread.join()


def test_refusal_names_the_command(peer: Peer) -> None:
    thread = in_background(lambda: peer.send(
        {"error": {"class": "GenericError", "desc": "no such thing"}, "id": peer.take()["id"]}))
    with pytest.raises(QmpError) as caught:
        peer.qmp.execute("frobnicate")
    thread.join()
    assert str(caught.value) == "frobnicate: no such thing"
    assert caught.value.kind == "GenericError"


def test_answers_find_their_askers_in_any_order(peer: Peer) -> None:
    found: dict[str, Any] = {}
    threads = [in_background(lambda n=name: found.update({n: peer.qmp.execute(n)}))
               for name in ("one", "two")]
    requests = [peer.take(), peer.take()]
    for request in reversed(requests):
        peer.send({"return": request["execute"].upper(), "id": request["id"]})
    for thread in threads:
        thread.join()
    assert found == {"one": "ONE", "two": "TWO"}


def test_answer_split_into_bytes(peer: Peer) -> None:
    def serve() -> None:
        text = json.dumps({"return": "whole", "id": peer.take()["id"]}).encode() + b"\r\n"
        for i in range(len(text)):
            peer.socket.sendall(text[i:i + 1])

    thread = in_background(serve)
    assert peer.qmp.execute("x") == "whole"
    thread.join()


def test_event_before_the_wait_is_found_and_marks_separate(peer: Peer) -> None:
    peer.send({"event": "STOP", "timestamp": {}})
    first = peer.qmp.wait_event("STOP", timeout=5)
    mark = peer.qmp.mark()
    assert first.number == mark
    assert peer.qmp.poll_event("STOP", since=mark, timeout=0.05) is None
    peer.send({"event": "MIGRATION", "data": {"status": "active"}})
    peer.send({"event": "MIGRATION", "data": {"status": "completed"}})
    event = peer.qmp.wait_event("MIGRATION", lambda d: d["status"] == "completed", since=mark,
                                timeout=5)
    assert event.data == {"status": "completed"}
    assert [e.name for e in peer.qmp.events()] == ["STOP", "MIGRATION", "MIGRATION"]


def test_listener_is_called(peer: Peer) -> None:
    heard: list[Event] = []
    came = threading.Event()
    peer.qmp.listen(lambda event: (heard.append(event), came.set()))
    peer.send({"event": "RESUME"})
    assert came.wait(5)
    assert heard[0].name == "RESUME" and heard[0].data == {}


def test_silence_ends_in_time(peer: Peer) -> None:
    began = time.monotonic()
    with pytest.raises(TooLate, match="answer to query-status: nothing within 0.1 seconds"):
        peer.qmp.execute("query-status", timeout=0.1)
    assert time.monotonic() - began < 2


def test_late_answer_is_dropped(peer: Peer) -> None:
    with pytest.raises(TooLate):
        peer.qmp.execute("slow", timeout=0.05)
    late = peer.take()
    peer.send({"return": "late", "id": late["id"]})
    thread = in_background(lambda: peer.send({"return": "new", "id": peer.take()["id"]}))
    assert peer.qmp.execute("quick", timeout=5) == "new"
    thread.join()


def test_loss_ends_each_wait(peer: Peer) -> None:
    thread = in_background(lambda: (peer.take(), peer.end()))
    with pytest.raises(Lost, match="peer: QMP"):
        peer.qmp.execute("query-status", timeout=5)
    thread.join()
    with pytest.raises(Lost):
        peer.qmp.wait_event("STOP", timeout=5)
    assert peer.qmp.lost


def test_event_before_the_loss_still_counts(peer: Peer) -> None:
    peer.send({"event": "SHUTDOWN", "data": {}})
    peer.end()
    assert peer.qmp.wait_event("SHUTDOWN", timeout=5).name == "SHUTDOWN"


@pytest.mark.parametrize("nonsense", [b"not json\n", b"[1,2]\n", b"\xff\xfe\n"])
def test_nonsense_is_a_loss_not_a_hang(peer: Peer, nonsense: bytes) -> None:
    peer.socket.sendall(nonsense)
    with pytest.raises(Lost):
        peer.qmp.wait_event("STOP", timeout=5)


def test_no_greeting_is_too_late() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(TooLate, match="greeting"):
        Qmp(ours, "mute", timeout=0.05)
    theirs.close()
    ours.close()


def test_deadline_says_what_it_waited_for() -> None:
    deadline = Deadline(0, "tea")
    assert deadline.passed
    with pytest.raises(TooLate, match="tea: nothing within 0 seconds"):
        deadline.left()
    assert 0 < Deadline(10, "tea").left() <= 10
