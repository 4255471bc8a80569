# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines, requests and answers of a guest's channels."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from channel import Channel, ChannelError, parse_answer
from deadlines import TooLate


class Guest:
    def __init__(self, log: Path) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.settimeout(5)
        self.channel = Channel(ours, "guest", log)

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def answer(self, *lines: str) -> threading.Thread:
        """Wait for a request, then say LINES."""
        def serve() -> None:
            self.socket.recv(4096)
            for line in lines:
                self.say(line)

        thread = threading.Thread(target=serve)
        thread.start()
        return thread


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    one = Guest(tmp_path / "log")
    yield one
    one.socket.close()
    one.channel.close()


def test_line_is_found_in_pieces_and_with_carriage_returns(guest: Guest, tmp_path: Path) -> None:
    guest.say("boot\r\nQUASAR-RE")
    guest.say("ADY boot_id=abc\r\n")
    assert guest.channel.wait_line(r"QUASAR-READY boot_id=(\w+)$", timeout=5).group(1) == "abc"
    assert guest.channel.tail() == ["boot", "QUASAR-READY boot_id=abc"]
    assert b"QUASAR-READY" in (tmp_path / "log").read_bytes()


def test_old_lines_do_not_count_after_a_mark(guest: Guest) -> None:
    guest.say("ready\n")
    guest.channel.wait_line("ready", timeout=5)
    with pytest.raises(TooLate):
        guest.channel.wait_line("ready", since=guest.channel.mark(), timeout=0.05)


def test_request_is_timed_around_its_answer(guest: Guest) -> None:
    thread = guest.answer('{"ok":true,"command":"clock","monotonic_ns":5}\n')
    before = time.monotonic_ns()
    answer = guest.channel.request("clock", timeout=5)
    thread.join()
    assert before <= answer.sent_ns <= answer.received_ns <= time.monotonic_ns()
    assert answer.value["monotonic_ns"] == 5


def test_kernel_noise_and_late_answers_are_passed_over(guest: Guest) -> None:
    thread = guest.answer("[ 1.2] virtio: noise\n", '{"ok":true,"command":"ping"}\n',
                          '{"ok":true, broken\n', '# {"ok":true,"command":"report","pid":1}\n')
    assert guest.channel.request("report", timeout=5).value["pid"] == 1
    thread.join()


def test_refusal_is_an_error_with_the_agents_words(guest: Guest) -> None:
    thread = guest.answer('{"ok":false,"command":"dirty","error":"not that much"}\n')
    with pytest.raises(ChannelError, match="'dirty 1 2': not that much"):
        guest.channel.request("dirty 1 2", timeout=5)
    thread.join()


def test_silence_is_too_late_and_the_channel_goes_on(guest: Guest) -> None:
    with pytest.raises(TooLate, match="answer to 'verify'"):
        guest.channel.request("verify", timeout=0.05)
    guest.socket.recv(100)
    thread = guest.answer('{"ok":true,"command":"verify"}\n{"ok":true,"command":"ping"}\n')
    assert guest.channel.request("ping", timeout=5).value["command"] == "ping"
    thread.join()


def test_closed_channel_says_so(guest: Guest) -> None:
    guest.socket.close()
    with pytest.raises(ChannelError):
        guest.channel.request("ping", timeout=5)
    with pytest.raises(ChannelError):
        guest.channel.wait_line("x", timeout=5)


@pytest.mark.parametrize(("text", "value"), [
    ('{"ok":true,"a":1}', {"ok": True, "a": 1}),
    ('login: {"ok":true} rest', {"ok": True}),
    ('{"ok":tr', None), ("", None), ('{"other":1}', None), ("[1]", None),
])
def test_parse_answer(text: str, value: dict | None) -> None:
    assert parse_answer(text) == value
