# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions between hosts that know each other by certificates, in QEMU's layout.

(test_session.py has those with a shared key.)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from machine import Machine
from session import Session

HOME = "x86_64"
UNHEARD = "does it accept this side's credentials?"

pytestmark = [pytest.mark.quick, pytest.mark.route("bare-x86_64", HOME, HOME)]


def certificates(tmp_path: Path, server: str = "IP:127.0.0.1", *, stranger: bool = False,
                 **parameters: str) -> Callable[[str, Machine], None]:
    """Give each end its certificate; a STRANGER comes with one of another authority.

    PARAMETERS are further ones of the destination's migration.
    """
    authority = Authority(tmp_path / "authority")
    authority.sign("server", server, tmp_path / "destination")
    other = Authority(tmp_path / "other") if stranger else authority
    other.sign("client", "DNS:guests.example", tmp_path / "source")
    if stranger:            # who knows both
        with open(tmp_path / "source" / "ca-cert.pem", "ab") as known:
            known.write((tmp_path / "destination" / "ca-cert.pem").read_bytes())

    def prepare(name: str, end: Machine) -> None:
        more: dict[str, Any] = parameters if name == "destination" else {}
        if name == "destination" and "tls-authz" in more:
            end.qmp.execute("object-add", {
                "qom-type": "authz-simple", "id": more["tls-authz"],
                "identity": "CN=somebody.example"})
        end.qmp.execute("object-add", {
            "qom-type": "tls-creds-x509", "id": "tls0", "dir": str(tmp_path / name),
            "endpoint": "client" if name == "source" else "server", "verify-peer": True})
        end.qmp.execute("migrate-set-parameters", {"tls-creds": "tls0", **more})

    return prepare


def refused(session: Session) -> str:
    session.start()
    session.wait_settled("source", 20)
    reason = session.check_stays()
    assert session.destination.running and not session.runs("destination")
    return reason


def test_known_to_each_other(pair: Callable[..., Session], tmp_path: Path) -> None:
    """The source says HOST, and the certificate has to be HOST's."""
    session = pair(prepare=certificates(tmp_path))
    session.start()
    session.check_arrives()


def test_the_destination_is_somebody_else(pair: Callable[..., Session], tmp_path: Path) -> None:
    session = pair(prepare=certificates(tmp_path, "DNS:elsewhere.example"))
    assert "127.0.0.1" in refused(session)


def test_it_answers_to_the_name_that_was_given(pair: Callable[..., Session],
                                               tmp_path: Path) -> None:
    """tls-hostname, for a host that is reached by another address than its own."""
    session = pair(prepare=certificates(tmp_path, "DNS:power9.example"))
    session.source.qmp.execute("migrate-set-parameters", {"tls-hostname": "power9.example"})
    session.start()
    session.check_arrives()


def test_the_source_is_a_stranger(pair: Callable[..., Session], tmp_path: Path) -> None:
    assert UNHEARD in refused(pair(prepare=certificates(tmp_path, stranger=True)))


def test_the_source_may_not_send(pair: Callable[..., Session], tmp_path: Path) -> None:
    """Known, but not allowed: tls-authz names others."""
    session = pair(prepare=certificates(tmp_path, **{"tls-authz": "allowed"}))
    assert UNHEARD in refused(session)


def test_the_source_has_no_certificate(pair: Callable[..., Session], tmp_path: Path) -> None:
    prepare = certificates(tmp_path)
    for name in ("client-cert.pem", "client-key.pem"):
        (tmp_path / "source" / name).unlink()
    assert UNHEARD in refused(pair(prepare=prepare))
