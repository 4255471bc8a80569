# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on the relay moves, and its connections with it: -netdev relay, real sockets outside."""

import base64
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import places
import pytest
from gateway import KEY, PAUSE_SECONDS, Gateway, Talker
from machine import ECHO, HTTP, Machine, MachineError, Setup
from places import Place
from relaylib import wait_for
from session import Session

HOME = "x86_64"
GUEST = "linux-x86_64"
TALKERS = 20

pytestmark = pytest.mark.route(GUEST, HOME, HOME)


class VmGateway(Gateway):
    """One that QEMU attaches to, by its own words."""

    def __init__(self, folder: Path):
        super().__init__(Place.parse(HOME))
        self.file = folder / "secret"
        self.file.write_bytes(base64.b64encode(self.secret))

    def setup(self, netdev: str = "", file: Path | None = None) -> Setup:
        words = netdev or f"relay,path={self.relay.unix},identity=web,secret=relay0"
        secret = f"secret,id=relay0,format=base64,file={file or self.file}"
        return Setup(places.guest(GUEST), netdev=words, extra=("-object", secret))


@pytest.fixture
def gateway(run_folder: Path) -> Iterator[VmGateway]:
    folder = run_folder / f"gateway{len(list(run_folder.iterdir()))}"
    folder.mkdir()
    one = VmGateway(folder)
    with one.relay:
        yield one


def netdev(machine: Machine) -> dict[str, Any]:
    one, = machine.qmp.execute("query-relay-netdevs")
    return one


@pytest.mark.parametrize("there", [
    pytest.param(HOME, marks=[pytest.mark.quick, pytest.mark.route(GUEST, HOME, HOME)]),
    pytest.param("ppc64le", marks=pytest.mark.route(GUEST, HOME, "ppc64le")),
    pytest.param("s390x", marks=pytest.mark.route(GUEST, HOME, "s390x"))])
def test_connections_go_along(gateway: VmGateway, run_folder: Path, there: str) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(Session(
            Place.parse(HOME), Place.parse(there), gateway.setup(), run_folder / f"relay-{there}"))
        gateway.wait_guest()
        assert netdev(session.source)["epoch"] == 1
        idle = stack.enter_context(gateway.connect(ECHO))
        idle.settimeout(PAUSE_SECONDS)
        talkers = [Talker(gateway) for _ in range(TALKERS)]
        time.sleep(0.5)
        session.start()
        session.wait_settled("source")
        session.wait_settled("destination")
        wait_for(lambda: netdev(session.destination)["state"] == "attached", PAUSE_SECONDS)
        at_arrival = [talker.said for talker in talkers]
        wait_for(lambda: all(talker.error or talker.said > before + 3
                             for talker, before in zip(talkers, at_arrival, strict=True)),
                 2 * PAUSE_SECONDS, "each connection to go on")
        for talker in talkers:
            talker.end()
        idle.sendall(b"still here\n")
        assert idle.recv(20) == b"still here\n"
        told = netdev(session.destination)
        assert (told["epoch"], told["identity"]) == (2, KEY)
        wait_for(lambda: netdev(session.source)["state"] == "ended", PAUSE_SECONDS)
        assert "taken-over" in netdev(session.source)["reason"]


def test_user_network_loses_them(run_folder: Path) -> None:
    """What the relay is for: the same with a network inside QEMU."""
    here = Place.parse(HOME)
    with Session(here, here, Setup(places.guest(GUEST)), run_folder / "user") as session:
        session.source.wait_ready()
        with socket.create_connection(session.source.address(ECHO), PAUSE_SECONDS) as one:
            one.sendall(b"hello\n")
            assert one.recv(6) == b"hello\n"
            session.start()
            session.wait_settled("source")
            session.wait_settled("destination")
            session.source.stop()
            try:
                one.sendall(b"are you there\n")
                answer = one.recv(20)
            except OSError:
                answer = b""
            assert not answer, "it was answered"


@pytest.mark.quick
def test_a_cancelled_move_resumes(gateway: VmGateway, run_folder: Path) -> None:
    """The source keeps its epoch; the destination never claimed."""
    here = Place.parse(HOME)
    with Session(here, here, gateway.setup(), run_folder / "cancel", rate=20e6) as session:
        gateway.wait_guest()
        talker = Talker(gateway)
        session.start()
        time.sleep(1)
        session.source.qmp.execute("migrate_cancel")
        session.wait_settled("source")
        talker.wait_more()
        talker.end()
        told = netdev(session.source)
        assert (told["state"], told["epoch"]) == ("attached", 1)


@pytest.fixture
def machine(gateway: VmGateway, run_folder: Path) -> Iterator[Machine]:
    folder = run_folder / f"one{len(list(run_folder.iterdir()))}"
    with Machine(Place.parse(HOME), gateway.setup(), folder) as one:
        gateway.wait_guest()
        yield one


@pytest.mark.quick
def test_pause_holds_connections(gateway: VmGateway, machine: Machine) -> None:
    with gateway.connect(ECHO) as one:
        one.settimeout(PAUSE_SECONDS)
        machine.qmp.execute("stop")
        wait_for(lambda: gateway.relay.port(KEY)["state"] == "paused")
        one.sendall(b"sleep well\n")
        time.sleep(1)
        machine.qmp.execute("cont")
        assert one.recv(20) == b"sleep well\n"


@pytest.mark.quick
def test_the_relay_is_killed(gateway: VmGateway, machine: Machine) -> None:
    """It comes back with the token: the same epoch, the same connections."""
    talker = Talker(gateway)
    time.sleep(0.3)
    gateway.relay.kill()
    gateway.relay.start()
    talker.wait_more()
    talker.end()
    assert netdev(machine)["epoch"] == 1


@pytest.mark.quick
def test_encrypted(gateway: VmGateway, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.psk").write_text(f"{KEY}:{gateway.secret.hex()}\n")
    host, port = gateway.relay.where("tls")
    words = f"relay,host={host},port={port},identity=web,tls-creds=tls0"
    setup = gateway.setup(words)
    creds = f"tls-creds-psk,id=tls0,endpoint=client,dir={tmp_path},username={KEY}"
    setup = replace(setup, extra=("-object", creds))
    with Machine(Place.parse(HOME), setup, run_folder / "tls") as one:
        gateway.wait_guest()
        with gateway.connect(HTTP) as client:
            client.settimeout(PAUSE_SECONDS)
            client.sendall(b"GET /bytes/3000000 HTTP/1.0\r\n\r\n")
            got = sum(len(piece) for piece in iter(lambda: client.recv(65536), b""))
        assert got > 3000000
        assert netdev(one)["state"] == "attached"


@pytest.mark.quick
def test_quit_releases(gateway: VmGateway, machine: Machine) -> None:
    machine.qmp.execute("quit")
    machine.process.wait(10)
    wait_for(lambda: "reason=released" in gateway.relay.log())


@pytest.mark.quick
def test_a_second_copy_is_refused(gateway: VmGateway, machine: Machine, run_folder: Path) -> None:
    """It runs without a network, and says why."""
    with Machine(Place.parse(HOME), gateway.setup(), run_folder / "copy") as copy:
        wait_for(lambda: "in-use" in netdev(copy).get("reason", ""), PAUSE_SECONDS)
        assert netdev(copy)["state"] == "waiting"
    assert netdev(machine)["state"] == "attached"


@pytest.mark.quick
def test_a_state_that_was_restored_before(gateway: VmGateway, machine: Machine,
                                          run_folder: Path) -> None:
    """The second copy is refused; a person may say that it is the only one."""
    state = run_folder / f"state{machine.process.pid}"
    machine.qmp.execute("migrate", {"uri": f"file:{state}"})
    machine.qmp.wait_event("STOP")
    wait_for(lambda: machine.qmp.execute("query-migrate")["status"] == "completed", PAUSE_SECONDS)
    machine.stop()
    more = ",ignore-epoch=on"
    words = f"relay,path={gateway.relay.unix},identity=web,secret=relay0"
    for netdev_words, wanted in ((words, 2), (words, 0), (words + more, 3)):
        folder = run_folder / f"again{machine.process.pid}-{wanted}"
        with Machine(Place.parse(HOME), gateway.setup(netdev_words), folder,
                     incoming=f"file:{state}") as one:
            if wanted:
                wait_for(lambda one=one: netdev(one)["state"] == "attached", PAUSE_SECONDS)
                assert netdev(one)["epoch"] == wanted
                one.qmp.execute("quit")
                one.process.wait(10)
            else:
                wait_for(lambda one=one: netdev(one)["state"] == "ended", PAUSE_SECONDS)
                assert "stale" in netdev(one)["reason"]
                assert "stale" in one.stderr()


@pytest.mark.quick
def test_who_never_owned_it_claims_nothing_while_paused(gateway: VmGateway,
                                                        run_folder: Path) -> None:
    """It may be on its way to where somebody else will claim."""
    gateway.relay.kill()
    with Machine(Place.parse(HOME), gateway.setup(), run_folder / "never") as one:
        wait_for(lambda: netdev(one)["state"] == "waiting", PAUSE_SECONDS)
        one.qmp.execute("stop")
        assert netdev(one)["state"] == "idle"
        gateway.relay.start()
        time.sleep(1)
        assert gateway.relay.port(KEY)["state"] == "away"
        one.qmp.execute("cont")
        wait_for(lambda: netdev(one)["state"] == "attached", PAUSE_SECONDS)


@pytest.mark.quick
def test_a_relay_that_says_nothing(gateway: VmGateway, run_folder: Path, tmp_path: Path) -> None:
    """TLS waits for it, and nothing else does."""
    (tmp_path / "keys.psk").write_text(f"{KEY}:{gateway.secret.hex()}\n")
    creds = f"tls-creds-psk,id=tls0,endpoint=client,dir={tmp_path},username={KEY}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = f"relay,host=127.0.0.1,port={silent.getsockname()[1]},identity=web,tls-creds=tls0"
        setup = replace(gateway.setup(words), extra=("-object", creds))
        with Machine(Place.parse(HOME), setup, run_folder / "silent") as one:
            client, _ = silent.accept()
            time.sleep(0.5)
            assert one.qmp.execute("query-status", timeout=5)["running"]
            wait_for(lambda: "does not answer" in netdev(one).get("reason", ""), 20)
            client.settimeout(5)
            while client.recv(4096):
                pass            # the hello of TLS, then the end
            client.close()


@pytest.mark.quick
def test_a_wrong_secret(gateway: VmGateway, run_folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(base64.b64encode(bytes(32)))
    with Machine(Place.parse(HOME), gateway.setup(file=wrong), run_folder / "wrong") as one:
        wait_for(lambda: "denied" in netdev(one).get("reason", ""), PAUSE_SECONDS)
        assert netdev(one)["state"] == "waiting"
        assert one.qmp.execute("query-status")["running"]


@pytest.mark.quick
@pytest.mark.parametrize(("words", "says"), [
    ("relay,host=10.0.0.1,port=1,identity=web,secret=relay0", "open to everybody"),
    ("relay,identity=web,secret=relay0", "by host= and port=, or by path="),
    ("relay,path=/x,host=h,port=1,identity=web,secret=relay0", "by host= and port=, or by path="),
    ("relay,path=/x,identity=web", "by secret= or by tls-creds="),
    ("relay,path=/x,identity=web,secret=other", "other"),
    ("relay,path=/x,identity=We/b,secret=relay0", "begin with a letter"),
    ("relay,path=/x,identity=web,secret=relay0,mtu=70000", "mtu must be"),
    ("relay,path=/x,identity=web,tls-creds=relay0", "tls-creds"),
    ("relay,path=/x,secret=relay0", "identity")])
def test_bad_options(gateway: VmGateway, run_folder: Path, words: str, says: str) -> None:
    with pytest.raises(MachineError, match=says):
        Machine(Place.parse(HOME), gateway.setup(words), run_folder / f"bad{hash(words)}").stop()


@pytest.mark.quick
def test_another_identity_in_the_state(gateway: VmGateway, run_folder: Path) -> None:
    """The destination's card would be somebody else's: refused before the vote."""
    here = Place.parse(HOME)
    other = gateway.setup(f"relay,path={gateway.relay.unix},identity=mail,secret=relay0")
    with Session(here, here, gateway.setup(), run_folder / "other", arrives_in=other) as session:
        gateway.wait_guest()
        session.start()
        told = session.wait_settled("source")
        assert told["where"] == "here", told
        session.destination.process.wait(10)
        assert "relay-netdev/default/web" in session.destination.stderr()
        gateway.wait_guest()
