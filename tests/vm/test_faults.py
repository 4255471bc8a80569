# SPDX-License-Identifier: GPL-2.0-or-later
"""The fault matrix: whatever fails in whatever stage, exactly one guest runs, or a paused one that
says why, and nothing of it is lost.

Each case is a real move of a guest that dirties and checks its memory all the time.  A fault
strikes at the moment at which an end tells that it entered a stage.
"""

import signal
import threading
import time
from collections.abc import Callable

import pytest
from session import STAGES, Session

RESUME_SECONDS = 2
HOLD_SECONDS = 2
GUEST = "bare-x86_64"

pytestmark = pytest.mark.route(GUEST, "x86_64", "x86_64")


@pytest.fixture
def session(pair: Callable[..., Session]) -> Session:
    return pair(settings={"resume-timeout": RESUME_SECONDS}, parameters={"downtime-limit": 500},
                rate=1e9, delay=0.001)


def hold(session: Session, end: str) -> Callable[[], None]:
    """Stop an end, and let it go on by itself: 'migrate' may not have been answered yet."""
    def stop() -> None:
        session.signal(end, signal.SIGSTOP)
        threading.Timer(HOLD_SECONDS, session.signal, (end, signal.SIGCONT)).start()

    return stop


def kill(session: Session, end: str) -> Callable[[], None]:
    return lambda: session.signal(end, signal.SIGKILL)


@pytest.mark.parametrize("stage", STAGES)
def test_destination_is_killed(session: Session, stage: str) -> None:
    session.at_stage("source", stage, kill(session, "destination"))
    session.start()
    session.wait(lambda: not session.destination.running, "the destination's end")
    if stage != "commit":
        told = session.wait_settled("source")
        if told["stage"] == "failed":
            assert told["where"] == "here" and told["reason"]
            assert session.runners() == ["source"]
            session.check_guest("source")
            return
    # It had the whole guest and was told to run it: this side must not guess.
    time.sleep(RESUME_SECONDS + 1)
    assert session.runners() == []
    told = session.info("source")
    assert told["where"] in ("undecided", "peer"), told
    with pytest.raises(Exception, match="not known|other side"):
        session.source.qmp.execute("cont")
    if told["where"] == "undecided":
        session.source.qmp.execute("quasar-resolve", {"verdict": "run"})
        session.source.qmp.execute("cont")
        session.check_guest("source")


@pytest.mark.parametrize("stage", STAGES)
def test_source_is_killed(session: Session, stage: str) -> None:
    session.at_stage("source", stage, kill(session, "source"))
    session.start()
    session.wait(lambda: not session.source.running, "the source's end")
    session.wait(lambda: session.runs("destination") or not session.destination.running
                 or session.info("destination").get("where") == "undecided"
                 or session.info("destination").get("stage") in ("prepare", "failed"),
                 "what the destination makes of it")
    time.sleep(1)
    if not session.destination.running:
        assert "destination" not in session.runners()
        return
    told = session.info("destination")
    if told["where"] == "undecided":
        assert session.runners() == []
        with pytest.raises(Exception, match="not known"):
            session.destination.qmp.execute("cont")
        session.destination.qmp.execute("quasar-resolve", {"verdict": "run"})
    if told["where"] in ("undecided", "here"):
        session.check_guest("destination")
    else:
        assert session.runners() == []


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("end", ["source", "destination"])
def test_an_end_is_stopped_for_a_while(session: Session, end: str, stage: str) -> None:
    session.at_stage("source", stage, hold(session, end))
    session.start()
    one_runs(session)


@pytest.mark.parametrize("stage", STAGES)
def test_the_link_is_cut_for_a_moment(session: Session, stage: str) -> None:
    session.at_stage("source", stage, session.link.cut)
    session.start()
    session.wait_settled("source")
    session.wait_settled("destination")
    assert session.runners() == ["destination"]
    session.check_guest("destination")


def one_runs(session: Session) -> str:
    """Wait for the outcome of a move whose ends both live; tell where the guest runs."""
    told = session.wait_settled("source")
    if told["where"] == "peer":
        session.wait_settled("destination")
    session.wait(lambda: len(session.runners()) == 1, "one end that runs the guest")
    runner, = session.runners()
    assert runner == ("source" if told["where"] == "here" else "destination")
    session.check_guest(runner)
    return runner


@pytest.mark.parametrize("stage", STAGES)
def test_the_link_is_lost(session: Session, stage: str) -> None:
    """For good while the source waits: it goes on, or both pause, and all is well afterwards."""
    def lose() -> None:
        session.link.refuse()
        session.link.cut()

    session.at_stage("source", stage, lose)
    session.start()
    time.sleep(RESUME_SECONDS + 1)
    session.runners()
    told = session.info("source")
    if told["stage"] == "failed":
        assert told["reason"]
        assert session.runners() == ["source"]
        session.check_guest("source")
    session.link.refuse(False)
    one_runs(session)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("direction", ["down", "both"])
def test_the_link_falls_silent(session: Session, direction: str, stage: str) -> None:
    session.at_stage("source", stage, lambda: session.link.silence(True, direction))
    session.start()
    time.sleep(RESUME_SECONDS)
    session.runners()
    time.sleep(RESUME_SECONDS)
    session.link.silence(False)
    session.link.cut()
    one_runs(session)


@pytest.mark.parametrize("stage", ["prepare", "bulk", "rounds", "stop"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_bit_is_flipped(session: Session, direction: str, stage: str) -> None:
    """The frame is noticed and sent again; the guest arrives whole."""
    session.at_stage("source", stage, lambda: session.link.corrupt(direction))
    session.start()
    assert one_runs(session) == "destination" or stage == "prepare"
    if session.link.figures().flipped and stage in ("bulk", "rounds") and direction == "up":
        assert session.info("destination")["faults"] >= 1
