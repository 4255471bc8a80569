# SPDX-License-Identifier: GPL-2.0-or-later
"""How a session ends when somebody interferes: a person, a debugger, a stranger, a bad moment.

Whatever it is, no more than one side runs the guest, and each side learns what it has to know.
"""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from qmp import QmpError
from session import Session

HOME = "x86_64"
FAR = 0.1                             # seconds one way: a fault meets what is still under way
EMPTY_DUMP = 24                       # bytes of a pcap file that holds no frame

pytestmark = [pytest.mark.quick, pytest.mark.route("bare-x86_64", HOME, HOME)]


def in_the_background(action: Callable[[], None]) -> Callable[[], None]:
    """Make what is to happen at a stage happen beside the thread that reads the events."""
    return lambda: threading.Thread(target=action, daemon=True).start()


def test_cancel_while_nobody_answers(pair: Callable[..., Session]) -> None:
    """Before the other side has said a word; another move may begin at once."""
    session = pair()
    session.link.silence()
    for _ in range(2):
        session.start()
        time.sleep(0.5)
        mark = session.source.qmp.mark()
        session.source.qmp.execute("migrate_cancel")
        session.source.qmp.wait_event("MIGRATION", lambda d: d["status"] == "cancelled",
                                      since=mark, timeout=1)
        told = session.info("source")
        assert (told["stage"], told["where"]) == ("failed", "here"), told
        assert "cancelled" in told["reason"]
    assert session.runners() == ["source"]


def test_cancel_while_the_answer_is_under_way(pair: Callable[..., Session]) -> None:
    """The destination has begun by then: it is told, and does not wait for a dead session."""
    session = pair()
    session.link.shape(delay=1)
    session.start()
    session.wait(lambda: "peer" in session.info("destination"), "the hello at the destination")
    session.source.qmp.execute("migrate_cancel")
    session.source.qmp.wait_event("MIGRATION", lambda d: d["status"] == "cancelled", timeout=1)
    session.destination.process.wait(10)
    assert "cancelled" in session.destination.stderr()
    assert session.runners() == ["source"]


def test_a_debugger_runs_nothing_that_is_gone(pair: Callable[..., Session],
                                              tmp_path: Path) -> None:
    session = pair()
    session.start()
    session.check_arrives()
    path = tmp_path / "gdb"
    session.source.qmp.human(f"gdbserver unix:{path},server=on,wait=off")
    with socket.socket(socket.AF_UNIX) as debugger:
        debugger.connect(str(path))
        debugger.sendall(b"+$c#63")
        assert debugger.recv(1) == b"+"
        time.sleep(0.5)
        assert session.runners() == ["destination"]


def test_the_source_ends_with_the_word_unsaid(pair: Callable[..., Session]) -> None:
    """It has decided, the link is down, and it is told to quit: the word goes out first."""
    session = pair()
    link = session.link

    def quit_in_the_dark() -> None:
        link.refuse()
        link.cut()
        threading.Timer(1, link.refuse, (False,)).start()
        session.ask("source", "quit")

    link.shape(delay=FAR)
    session.source.qmp.listen(lambda event: in_the_background(quit_in_the_dark)()
                              if event.name == "MIGRATION" and event.data["status"] == "completed"
                              else None)
    session.start()
    session.wait(lambda: not session.source.running, "the source's end")
    told = session.wait_settled("destination", 10)
    assert (told["stage"], told["where"]) == ("done", "here"), told
    session.check_guest("destination")


def test_the_source_ends_before_it_has_decided(pair: Callable[..., Session]) -> None:
    """The destination does not wait for somebody who has gone, and says why."""
    session = pair(rate=10e6)
    session.start()
    time.sleep(1)
    session.ask("source", "quit")
    session.destination.process.wait(10)
    assert "the process there was ended" in session.destination.stderr()


def test_who_voted_is_told_later(pair: Callable[..., Session]) -> None:
    """The link breaks with the vote under way and comes back after the source has given up."""
    session = pair(settings={"resume-timeout": 2})
    link = session.link

    def lose() -> None:
        link.refuse()
        link.cut()

    link.shape(delay=FAR)
    session.at_stage("destination", "commit", lose)
    session.start()
    reason = session.check_stays()
    assert "lost" in reason
    assert session.info("destination")["where"] == "undecided"
    link.refuse(False)
    session.destination.process.wait(10)
    assert "the machine stays at the source" in session.destination.stderr()
    assert session.runners() == ["source"]


def card(dump: Path) -> tuple[str, ...]:
    """Give QEMU's arguments for a network card whose frames are written to a file."""
    return ("-netdev", "user,id=n0", "-device", "e1000,netdev=n0",
            "-object", f"filter-dump,id=f0,netdev=n0,file={dump}")


def test_it_announces_itself_when_it_runs(pair: Callable[..., Session], tmp_path: Path) -> None:
    """Not when it voted: until the decision, switches must send to the source."""
    session = pair(card(tmp_path / "source"), card(tmp_path / "destination"))
    dump = tmp_path / "destination"
    session.link.shape(delay=FAR)
    session.at_stage("destination", "commit", session.link.silence)
    session.start()
    session.wait(lambda: session.info("destination")["where"] == "undecided", "the vote")
    time.sleep(0.5)
    assert dump.stat().st_size == EMPTY_DUMP
    session.link.silence(False)
    session.check_arrives()
    assert dump.stat().st_size > EMPTY_DUMP


def test_stop_while_it_comes(pair: Callable[..., Session], tmp_path: Path) -> None:
    """It is here all the same, and says so on the network."""
    session = pair(card(tmp_path / "source"), card(tmp_path / "destination"), rate=50e6)
    session.start()
    session.source.qmp.wait_event("QUASAR_STAGE", lambda d: d["stage"] == "bulk")
    session.destination.qmp.execute("stop")
    session.link.shape(rate=None)
    assert session.wait_settled("source")["where"] == "peer"
    told = session.wait_settled("destination")
    assert "as it was told" in told["reason"]
    assert session.runners() == []
    assert (tmp_path / "destination").stat().st_size > EMPTY_DUMP
    session.destination.qmp.execute("cont")
    session.check_guest("destination")


def test_silent_strangers_keep_nobody_waiting(pair: Callable[..., Session]) -> None:
    session = pair()
    answer = session.destination.qmp.execute("query-migrate")["socket-address"][0]
    strangers = [socket.create_connection((answer["host"], int(answer["port"])))
                 for _ in range(80)]
    try:
        session.start()
        session.source.qmp.wait_event("QUASAR_STAGE", lambda d: d["stage"] == "bulk", timeout=5)
        session.check_arrives()
    finally:
        for stranger in strangers:
            stranger.close()


def test_nobody_answers_the_call(pair: Callable[..., Session]) -> None:
    """Packets that are swallowed: told after seconds, where TCP itself would try for minutes."""
    session = pair()
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for caller in (first, second):      # the queue is full: what comes now is not answered
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        time.sleep(0.2)
        began = time.monotonic()
        session.source.qmp.execute("migrate", {"uri": f"quasar:127.0.0.1:{full.getsockname()[1]}"})
        session.wait_settled("source", 30)
        assert 5 < time.monotonic() - began < 20
    assert "cannot be reached: Connection timed out" in session.check_stays()


def test_listening_again_after_a_refusal(pair: Callable[..., Session]) -> None:
    """What could not begin does not stand in the way of what can."""
    waits = pair(listens=False).destination
    with pytest.raises(QmpError, match="everybody on the network"):
        waits.qmp.execute("migrate-incoming", {"uri": "quasar:0.0.0.0:0"})
    waits.qmp.execute("migrate-incoming", {"uri": "quasar:127.0.0.1:0"})
    assert waits.qmp.execute("query-migrate")["socket-address"]


def test_given_up_while_nobody_hears(pair: Callable[..., Session]) -> None:
    """Who has voted learns that the move is off, however late the link is back."""
    session = pair()
    link = session.link
    assert link

    def lose() -> None:
        link.refuse()
        link.cut()

    link.shape(delay=FAR)
    session.at_stage("destination", "commit", lose)
    session.start()
    session.wait(lambda: session.info("destination").get("where") == "undecided", "the vote")
    session.source.qmp.execute("migrate_cancel")
    session.wait(lambda: session.runners() == ["source"], "the guest's going on")
    time.sleep(7)               # longer than a farewell takes that owes nothing
    assert session.info("destination")["where"] == "undecided"
    link.refuse(False)
    session.destination.process.wait(30)
    assert "the machine stays at the source" in session.destination.stderr()
    assert session.runners() == ["source"]


def test_another_mode_meanwhile(pair: Callable[..., Session]) -> None:
    """QEMU lets it be set; what both sides are told does not hang on it."""
    session = pair(rate=5e6)
    session.start()
    session.source.qmp.wait_event("QUASAR_STAGE", lambda d: d["stage"] == "bulk")
    session.source.qmp.execute("migrate-set-parameters", {"mode": "cpr-reboot"})
    session.source.qmp.execute("migrate_cancel")
    assert "cancelled" in session.check_stays()
