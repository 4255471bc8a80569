# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's card on the relay by certificates, in QEMU's layout: -netdev relay, tls-creds-x509.

(tests/relay/test_certs.py has the relay's side.)
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import places
import pytest
from authority import Authority
from gateway import KEY, PAUSE_SECONDS, Gateway, Talker
from machine import Machine, MachineError, Setup
from places import Place
from relaylib import wait_for
from session import Session

HOME = "x86_64"
GUEST = "linux-x86_64"

pytestmark = [pytest.mark.quick, pytest.mark.route(GUEST, HOME, HOME)]


class Site:
    """A relay that takes certificates alone, an authority, and a host with a certificate."""

    def __init__(self, folder: Path, server: str = "IP:127.0.0.1"):
        self.folder = folder
        self.authority = Authority(folder / "authority")
        self.gateway = Gateway(Place.parse(HOME))
        relay = self.gateway.relay
        relay.settings["tls-cert-dir"] = str(
            self.authority.sign("server", server, folder / "served"))
        del relay.identities[KEY]["secret"]
        relay.identities[KEY]["certificate"] = "north.example;south.example"
        relay.write_identities()
        self.own = self.sign("north.example")

    def sign(self, name: str, **more: Any) -> Path:
        return self.authority.sign("client", f"DNS:{name}", self.folder / name, **more)

    def setup(self, own: Path | None = None, creds: str = "x509") -> Setup:
        host, port = self.gateway.relay.where("tls")
        kind, _, more = creds.partition(",")
        words = f"tls-creds-{kind},id=tls0,endpoint=client,dir={own or self.own},{more}"
        return Setup(places.guest(GUEST), extra=("-object", words.rstrip(",")),
                     netdev=f"relay,host={host},port={port},identity=web,tls-creds=tls0")


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Site]:
    stack = ExitStack()

    def make(**more: Any) -> Site:
        made = Site(tmp_path, **more)
        stack.enter_context(made.gateway.relay)
        return made

    with stack:
        yield make


def netdev(machine: Machine) -> dict[str, Any]:
    one, = machine.qmp.execute("query-relay-netdevs")
    return one


def reason(site: Site, run_folder: Path, own: Path | None = None) -> str:
    """Why a guest of a host with the certificate in OWN has no network; it runs on without."""
    folder = run_folder / f"alone{len(list(run_folder.iterdir()))}"
    with Machine(Place.parse(HOME), site.setup(own), folder) as one:
        wait_for(lambda: "reason" in netdev(one), PAUSE_SECONDS)
        told = netdev(one)
        assert told["state"] in ("waiting", "connecting", "greeting")
        assert one.qmp.execute("query-status")["running"]
        assert site.gateway.relay.port(KEY)["attaches"] == 0
    return str(told["reason"])


def test_connections_go_along(site: Callable[..., Site], run_folder: Path) -> None:
    here = site()
    with ExitStack() as stack:
        session = stack.enter_context(Session(Place.parse(HOME), Place.parse(HOME), here.setup(),
                                              run_folder / "certs"))
        here.gateway.wait_guest()
        talkers = [Talker(here.gateway) for _ in range(5)]
        session.start()
        session.wait_settled("source")
        session.wait_settled("destination")
        for talker in talkers:
            talker.wait_more()
            talker.end()
        told = netdev(session.destination)
        assert (told["state"], told["epoch"]) == ("attached", 2)
    assert 'identity=default/web names="north.example"' in here.gateway.relay.log()


def test_a_certificate_of_somebody_else(site: Callable[..., Site], run_folder: Path) -> None:
    here = site()
    assert "does not accept this certificate" in reason(here, run_folder, here.sign("x.example"))


def test_one_that_was_revoked(site: Callable[..., Site], run_folder: Path) -> None:
    here = site()
    here.authority.revoke(here.own / "client-cert.pem")
    here.authority.write_revoked(here.folder / "served")
    here.gateway.relay.result("reload")
    assert "the client's certificate is revoked" in reason(here, run_folder)


def test_a_host_without_one(site: Callable[..., Site], run_folder: Path) -> None:
    here = site()
    for name in ("client-cert.pem", "client-key.pem"):
        (here.own / name).unlink()
    assert "neither a key nor a certificate" in reason(here, run_folder)


def test_the_relay_is_somebody_else(site: Callable[..., Site], run_folder: Path) -> None:
    """Its certificate is good, but not for the name that was dialled."""
    assert "127.0.0.1" in reason(site(server="DNS:elsewhere.example"), run_folder)


def test_an_authority_that_is_not_known(site: Callable[..., Site], run_folder: Path) -> None:
    here = site()
    other = Authority(here.folder / "other")
    place = other.sign("client", "DNS:north.example", here.folder / "stranger")
    assert "certificate" in reason(here, run_folder, place)
    with open(place / "ca-cert.pem", "ab") as known:        # it knows the relay's, but not so back
        known.write((here.own / "ca-cert.pem").read_bytes())
    assert "not signed by an authority that this relay knows" in reason(here, run_folder, place)


@pytest.mark.parametrize("creds,text,hint", [
    ("x509,verify-peer=off", "anybody on the way could pass for the relay",
     "without verify-peer=off"),
    ("anon", "neither a key nor certificates", "Use a tls-creds-psk or tls-creds-x509 object")])
def test_the_relay_is_always_verified(site: Callable[..., Site], run_folder: Path, creds: str,
                                      text: str, hint: str) -> None:
    setup = site().setup(creds=creds)
    folder = run_folder / f"unverified{len(list(run_folder.iterdir()))}"
    with (pytest.raises(MachineError) as failed, Machine(Place.parse(HOME), setup, folder)):
        pass
    assert text in str(failed.value) and hint in str(failed.value)
