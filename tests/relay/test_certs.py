#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaching over TLS 1.3 with certificates, beside guests with keys."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import guest as g
import pytest
from authority import Authority
from relaylib import Relay, Server, echo, wait_for
from test_control import ctl

PIPE = os.environ.get("QUASAR_RELAY_TLS_PIPE", "tls-pipe")
MAC = bytes.fromhex("525400000001")
SECRET = "1a" * 32
HOSTS = "north.example;SOUTH.example"
UNACCEPTED = "unknown identity, or it does not accept this certificate"
IDENTITIES = {
    "acme/web": {"secret": SECRET, "mac": "52:54:00:00:00:01", "host-loopback": "true",
                 "certificate": HOSTS},
    "acme/db": {"certificate": "db.acme", "address": "10.0.2.16", "nat": "none"},
    "acme/key": {"secret": "2b" * 32, "address": "10.0.2.17", "nat": "none"},
    "other/web": {"certificate": "web.other", "nat": "none"},
}

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl signs them")


@pytest.fixture()
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture()
def served(tmp_path: Path, authority: Authority) -> Path:
    """The relay's own folder."""
    return authority.sign("server", "IP:127.0.0.1,DNS:localhost", tmp_path / "served")


@pytest.fixture()
def relay(served: Path) -> Iterator[Relay]:
    settings = {"listen-tls": "127.0.0.1:0", "tls-cert-dir": str(served),
                "handshake-seconds": "2", "max-links": "60"}
    with Relay(dict(IDENTITIES), **settings) as relay:
        yield relay


@pytest.fixture()
def north(tmp_path: Path, authority: Authority) -> Path:
    return authority.sign("client", "DNS:north.example", tmp_path / "north")


def dial(relay: Relay, place: Path | None, known: Path | None = None) -> ssl.SSLSocket:
    """A client with the certificate in PLACE; the relay is verified by its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations((known or Path(relay.settings["tls-cert-dir"])) / "ca-cert.pem")
    if place is not None:
        context.load_cert_chain(place / "client-cert.pem", place / "client-key.pem")
    sock = socket.create_connection(relay.where("tls"), 10)
    return context.wrap_socket(sock, server_hostname="127.0.0.1")


def attach(relay: Relay, key: str, place: Path | None, **more: object) -> g.Link:
    return g.handshake(dial(relay, place), key, None, **more)


def refusal(relay: Relay, key: str, place: Path | None) -> str:
    """What a client is told that does not come in, which the log says too."""
    before = relay.result("status")["denied"]  # type: ignore[index]
    with pytest.raises(g.Refused) as refused:
        attach(relay, key, place)
    assert refused.value.reason == g.R_DENIED
    assert relay.result("status")["denied"] == before + 1  # type: ignore[index]
    assert f'identity={key} reason=denied text="{refused.value.text}"' in relay.log()
    return refused.value.text


def by_key(relay: Relay, key: str, secret: str, *more: str) -> tuple[socket.socket,
                                                                    subprocess.Popen[str]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    host, port = relay.where("tls")
    process = subprocess.Popen([PIPE, str(theirs.fileno()), host, str(port), key, secret, *more],
                               pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
    theirs.close()
    return ours, process


def test_traffic_and_takeover(relay: Relay, north: Path, tmp_path: Path,
                              authority: Authority) -> None:
    """A guest moves to a host with a certificate of its own; epochs are as with keys."""
    south = authority.sign("client", "DNS:South.Example", tmp_path / "south")
    web = g.Guest(attach(relay, "acme/web", north), MAC)
    web.resolve(web.gateway)
    with Server(echo) as server:
        connection = web.connect("10.0.2.2", server.port)
        data = os.urandom(200000)
        for at in range(0, len(data), 20000):
            connection.send(data[at:at + 20000])
        assert connection.receive(len(data)) == data
        old = web.link
        with pytest.raises(g.Refused) as refused:       # another copy, with the same certificate
            attach(relay, "acme/web", north, epoch=old.epoch)
        assert refused.value.reason == g.R_STALE
        with pytest.raises(g.Refused) as refused:
            attach(relay, "acme/web", south)
        assert refused.value.reason == g.R_IN_USE
        web.link = attach(relay, "acme/web", south, epoch=old.epoch + 1)
        assert old.wait_closed() == g.R_TAKEN_OVER
        connection.send(b"moved")
        assert connection.receive(5) == b"moved"
    assert 'identity=acme/web names="south.example"' in relay.log()


def test_keys_on_the_same_listener(relay: Relay, north: Path) -> None:
    sock, _ = by_key(relay, "acme/web", SECRET)
    link = g.handshake(sock, "acme/web", None)
    moved = attach(relay, "acme/web", north, epoch=link.epoch + 1)
    assert link.wait_closed() == g.R_TAKEN_OVER
    assert moved.epoch == link.epoch + 1
    sock, process = by_key(relay, "acme/web", "3c" * 32)
    assert process.wait(10) == 1, "a wrong key"
    # Its priority has certificates too: without one the wrong key is still not forgiven.
    sock, process = by_key(relay, "acme/web", "3c" * 32,
                           "NORMAL:-VERS-ALL:+VERS-TLS1.3:+ECDHE-PSK:+DHE-PSK")
    assert process.wait(10) == 1
    assert relay.port("acme/web")["attaches"] == 2


@pytest.mark.parametrize("secret,answer", [(SECRET, g.WELCOME), ("3c" * 32, None)])
def test_a_key_and_a_certificate_at_once(relay: Relay, north: Path, secret: str,
                                         answer: int | None) -> None:
    """The key counts: a wrong one ends it, whatever certificate is at hand."""
    host, port = relay.where("tls")
    with subprocess.Popen(["openssl", "s_client", "-connect", f"{host}:{port}", "-psk_identity",
                           "acme/web", "-psk", secret, "-cert", str(north / "client-cert.pem"),
                           "-key", str(north / "client-key.pem"), "-tls1_3", "-quiet"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(g.record(g.HELLO, g.hello("acme", "web")))
        process.stdin.flush()
        got = process.stdout.read(1)
        process.kill()
    assert got == (b"" if answer is None else bytes([answer]))
    assert "certificate-accepted" not in relay.log()


def test_what_one_certificate_opens(relay: Relay, north: Path, tmp_path: Path,
                                    authority: Authority) -> None:
    """Nothing but the identities that name it, whatever it says of itself."""
    for key in ("acme/db", "acme/key", "other/web", "acme/nobody", "nobody/web"):
        assert refusal(relay, key, north) == UNACCEPTED
    assert 'certificate-denied peer=127.0.0.1:' in relay.log()
    assert 'identity=acme/db names="north.example"' in relay.log()
    both = authority.sign("client", "DNS:elsewhere.example,DNS:db.acme,DNS:web.other",
                          tmp_path / "both")
    for key in ("acme/db", "other/web"):
        attach(relay, key, both).close()
    assert refusal(relay, "acme/web", both) == UNACCEPTED


@pytest.mark.parametrize("names,common", [
    ("", "north.example"), ("email:root@north.example", "north.example"),
    ("URI:north.example,IP:10.0.0.1", "north.example"), ("DNS:*.example", "north.example"),
    ("DNS:north.example.", "x"), ("DNS:north.example.evil", "x"), ("DNS:xnorth.example", "x")])
def test_names_that_are_not_the_one(relay: Relay, tmp_path: Path, authority: Authority, names: str,
                                    common: str) -> None:
    place = authority.sign("client", names, tmp_path / "odd", common=common)
    text = refusal(relay, "acme/web", place)
    assert text == (UNACCEPTED if "DNS:" in names else
                    "the client's certificate has no name for DNS in its subjectAltName")


def test_a_name_with_a_nul(relay: Relay, tmp_path: Path, authority: Authority) -> None:
    name = b"north.example\0.evil.example"
    der = (bytes([0x30, len(name) + 2, 0x82, len(name)]) + name).hex(":")
    place = authority.sign("client", f"DER:{der}", tmp_path / "odd", common="x")
    assert "no name for DNS" in refusal(relay, "acme/web", place)


def test_no_certificate(relay: Relay) -> None:
    assert refusal(relay, "acme/web", None) == \
        "the client came with neither a key nor a certificate"


@pytest.mark.parametrize("more,text", [
    ({"begins": -2, "ends": -1}, "has expired; renew it"),
    ({"begins": 1}, "not valid yet"),
    ({"purpose": "server"}, "not made for clients")])
def test_not_good(relay: Relay, tmp_path: Path, authority: Authority, more: dict[str, object],
                  text: str) -> None:
    place = authority.sign("client", "DNS:north.example", tmp_path / "bad", **more)  # type: ignore
    assert text in refusal(relay, "acme/web", place)


def test_of_another_authority(relay: Relay, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")       # of the same name
    place = other.sign("client", "DNS:north.example", tmp_path / "stranger")
    assert "not signed by an authority that this relay knows" in refusal(relay, "acme/web", place)


def test_a_certificate_is_no_authority(relay: Relay, tmp_path: Path, authority: Authority,
                                       north: Path) -> None:
    """Whoever holds one cannot make more."""
    forger = Authority(tmp_path / "forger", authority)
    for name in ("cert", "key"):
        shutil.copy(north / f"client-{name}.pem", forger.folder / f"ca-{name}.pem")
    place = forger.sign("client", "DNS:db.acme", tmp_path / "forged")
    assert "not signed by an authority that this relay knows" in refusal(relay, "acme/db", place)


def test_chains(relay: Relay, tmp_path: Path, authority: Authority) -> None:
    """Three between a client and the relay's authority are taken; more are not looked at."""
    lowest = authority
    for depth in range(1, 6):
        lowest = Authority(tmp_path / f"below{depth}", lowest, f"below{depth}")
        place = lowest.sign("client", "DNS:north.example", tmp_path / f"deep{depth}")
        if depth <= 3:
            attach(relay, "acme/web", place).close()
            wait_for(lambda: relay.port("acme/web")["state"] == "away")
        else:
            assert "too long" in refusal(relay, "acme/web", place)


def test_a_certificate_that_is_too_large(relay: Relay, tmp_path: Path,
                                         authority: Authority) -> None:
    names = ",".join(f"DNS:{'x' * 50}{i}.example" for i in range(400))
    place = authority.sign("client", names, tmp_path / "large", common="x")
    with pytest.raises((OSError, g.LinkClosed)):
        attach(relay, "acme/web", place)
    wait_for(lambda: relay.result("status")["garbage"] == 1)  # type: ignore[index]
    # With names that fit, those behind the first 64 do not count.
    names = ",".join(f"DNS:{i}.example" for i in range(64)) + ",DNS:north.example"
    place = authority.sign("client", names, tmp_path / "many", common="x")
    assert refusal(relay, "acme/web", place) == UNACCEPTED


def test_adding_one(relay: Relay, tmp_path: Path, authority: Authority) -> None:
    """It gets no secret, for that would be a second way in."""
    assert ctl(relay, "identity", "add", "acme/new", "nat=none", "certificate=New.acme") == ""
    listed = json.loads(ctl(relay, "--json", "identity", "list"))
    assert {row["identity"]: row["certificate"] for row in listed}["acme/new"] == "new.acme"
    with open(f"{relay.dir}/ids", encoding="ascii") as file:
        assert "secret" not in file.read().partition("[acme/new]")[2]
    place = authority.sign("client", "DNS:new.acme", tmp_path / "new")
    assert attach(relay, "acme/new", place).sync() == []
    with pytest.raises(g.Refused):
        g.attach(relay.unix, "acme/new", b"")


def reload(relay: Relay) -> str:
    """An empty text, or why nothing changed."""
    return str(relay.ask("reload").get("error", ""))


def test_revoked(relay: Relay, served: Path, north: Path, authority: Authority) -> None:
    link = attach(relay, "acme/web", north)
    authority.revoke(north / "client-cert.pem")
    authority.write_revoked(served)
    assert reload(relay) == ""
    assert link.sync() == [], "a link that stands goes on"
    assert refusal(relay, "acme/web", north) == "the client's certificate is revoked"


def test_reload(relay: Relay, served: Path, north: Path, tmp_path: Path,
                authority: Authority) -> None:
    """A new authority; links, and handshakes under way, are not touched."""
    link = attach(relay, "acme/web", north)
    half = dial(relay, north)
    other = Authority(tmp_path / "other")
    other.sign("server", "IP:127.0.0.1", served)
    assert reload(relay) == ""
    assert link.sync() == []
    renewed = g.handshake(half, "acme/web", None, epoch=link.epoch + 1)
    assert link.wait_closed() == g.R_TAKEN_OVER
    assert "not signed" in refusal(relay, "acme/web", north)
    place = other.sign("client", "DNS:north.example", tmp_path / "renewed")
    attach(relay, "acme/web", place, epoch=renewed.epoch + 1)


def spoil_key(served: Path, _: Authority) -> None:
    (served / "server-key.pem").chmod(0o640)


def other_key(served: Path, authority: Authority) -> None:
    shutil.copy(authority.folder / "ca-key.pem", served / "server-key.pem")


def no_ca(served: Path, _: Authority) -> None:
    (served / "ca-cert.pem").unlink()


def leaf_as_ca(served: Path, _: Authority) -> None:
    shutil.copy(served / "server-cert.pem", served / "ca-cert.pem")


def other_ca(served: Path, authority: Authority) -> None:
    other = Authority(authority.folder / "other")
    shutil.copy(other.folder / "ca-cert.pem", served / "ca-cert.pem")


def garbage(served: Path, _: Authority) -> None:
    (served / "server-cert.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")


def too_large(served: Path, _: Authority) -> None:
    (served / "server-cert.pem").write_bytes(b"\n" * 300000)


def of_a_client(served: Path, authority: Authority) -> None:
    authority.sign("server", "IP:127.0.0.1", served, purpose="client")


def own_is_revoked(served: Path, authority: Authority) -> None:
    authority.revoke(served / "server-cert.pem")
    authority.write_revoked(served)


def stranger_revokes(served: Path, authority: Authority) -> None:
    Authority(authority.folder / "other").write_revoked(served)


def no_revocation_list(served: Path, _: Authority) -> None:
    (served / "ca-crl.pem").write_text("\n")


def lost_revocation_list(served: Path, _: Authority) -> None:
    (served / "ca-crl.pem").symlink_to("elsewhere")


@pytest.mark.parametrize("spoil,file,text", [
    (spoil_key, "server-key.pem", "run: chmod 600 "),
    (other_key, "server-key.pem", "not the key"),
    (no_ca, "ca-cert.pem", "No such file"), (leaf_as_ca, "ca-cert.pem", "not an authority's"),
    (other_ca, "server-cert.pem", "do not belong together"),
    (garbage, "server-cert.pem", "no certificates in PEM"),
    (too_large, "server-cert.pem", "at most 262144 bytes"),
    (of_a_client, "server-cert.pem", "not made for servers"),
    (own_is_revoked, "server-cert.pem", "revoked"),
    (stranger_revokes, "ca-crl.pem", "not signed by an authority"),
    (no_revocation_list, "ca-crl.pem", "no revocation list"),
    (lost_revocation_list, "ca-crl.pem", "No such file")])
def test_files_that_are_wrong(relay: Relay, served: Path, north: Path, authority: Authority,
                              spoil: Callable[[Path, Authority], None], file: str,
                              text: str) -> None:
    """They change nothing in a relay that runs, and one does not start with them."""
    link = attach(relay, "acme/web", north)
    saved = served.with_name("saved")
    shutil.copytree(served, saved)
    spoil(served, authority)
    relay.identities["acme/later"] = {"secret": "4d" * 32, "address": "10.0.2.20"}
    relay.write_identities()
    said = reload(relay)
    assert f"{served}/{file}: " in said and text in said
    assert link.sync() == []
    assert all(p["identity"] != "acme/later" for p in relay.result("ports"))  # type: ignore
    moved = g.handshake(dial(relay, north, saved), "acme/web", None, epoch=link.epoch + 1)
    assert moved.sync() == []
    done = subprocess.run([*relay.arguments(), "--check"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1 and text in done.stderr


def test_what_runs_out_is_a_warning(served: Path, authority: Authority) -> None:
    """Guests with keys do not depend on it."""
    authority.sign("server", "IP:127.0.0.1", served, begins=-2, ends=-1)
    authority.write_revoked(served, "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate",
                            "20200102000000Z")
    settings = {"listen-tls": "127.0.0.1:0", "tls-cert-dir": str(served)}
    with Relay(dict(IDENTITIES), **settings) as relay:
        for file, text in (
                ("server-cert.pem", "a certificate has expired; renew it, then reload"),
                ("ca-crl.pem", "the next list is due; fetch it, then reload")):
            assert f'certificate-time file={served}/{file} text="{text}"' in relay.log()
        sock, _ = by_key(relay, "acme/web", SECRET)
        assert g.handshake(sock, "acme/web", None).sync() == []


def test_the_flag_and_a_relay_without_any(served: Path) -> None:
    with Relay(dict(IDENTITIES), **{"listen-tls": "127.0.0.1:0"}) as relay:
        assert re.search(r"event=certificates-off identities=3 ", relay.log())
        relay.settings["tls-cert-dir"] = str(served)
        with pytest.raises(OSError):
            dial(relay, None).recv(1)
        del relay.settings["tls-cert-dir"]
        done = subprocess.run([*relay.arguments(), f"--tls-cert-dir={served}/nothing", "--check"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 1 and f"{served}/nothing/ca-cert.pem" in done.stderr


def test_clients_that_stop_half_way(relay: Relay, north: Path) -> None:
    """Handshakes that are not gone on with cost a place for a few seconds, and little memory."""
    link = attach(relay, "acme/web", north)
    before = relay.memory_kib()
    with ExitStack() as stack:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        socks = []
        for _ in range(50):
            sock = stack.enter_context(socket.create_connection(relay.where("tls"), 10))
            outgoing = ssl.MemoryBIO()
            client = context.wrap_bio(ssl.MemoryBIO(), outgoing)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            sock.sendall(outgoing.read())
            socks.append(sock)
        for sock in socks:      # its answer is here; ours never comes
            assert len(sock.recv(1 << 16)) > 100
        assert relay.memory_kib() - before < 16 * 1024
        begin = time.monotonic()
        for sock in socks:
            while sock.recv(1 << 16):
                pass
        assert time.monotonic() - begin < 6
    assert link.sync() == []
    assert relay.result("status")["timeouts"] == 50  # type: ignore[index]


def test_a_message_that_never_ends(relay: Relay) -> None:
    """A handshake message of 16 MiB is not waited for, whoever sends it."""
    before = relay.memory_kib()
    for _ in range(20):
        with g.connect(relay.where("tls")) as sock:
            start = b"\x01\xff\xff\xff\x03\x03" + bytes(15994)
            sent = 0
            with pytest.raises(ConnectionError):
                while sent < 1 << 24:
                    sock.sendall(b"\x16\x03\x03" + struct.pack("!H", len(start)) + start)
                    sent += len(start)
                    start = bytes(16000)
    assert relay.memory_kib() - before < 16 * 1024
    assert 'text="TLS handshake: more than 49152 bytes without any to read"' in relay.log()
    assert relay.result("status")["garbage"] == 20  # type: ignore[index]
