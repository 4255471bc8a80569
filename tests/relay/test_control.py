#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""quasar-relayctl against a running relay, and the daemon's own configuration."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
from collections.abc import Iterator

import guest as g
import pytest
from relaylib import CTL, DAEMON, Relay, wait_for

MAC = bytes.fromhex("525400000001")
IDENTITIES = {"acme/web": {"secret": "11" * 32, "mac": "52:54:00:00:00:01"}}


@pytest.fixture()
def relay() -> Iterator[Relay]:
    with Relay(IDENTITIES) as relay:
        yield relay


def ctl(relay: Relay, *words: str, code: int = 0) -> str:
    done = subprocess.run([CTL, f"--control={relay.dir}/control", f"--identities={relay.dir}/ids",
                           *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    assert (done.stderr.startswith("error: ")) == (code != 0), done.stderr
    return done.stdout if code == 0 else done.stderr


def test_tables_and_json(relay: Relay) -> None:
    link = relay.attach("acme/web")
    head, row = ctl(relay, "ports").splitlines()
    assert head.split()[:3] == ["IDENTITY", "STATE", "EPOCH"]
    assert row.split()[:5] == ["acme/web", "attached", "1", "unix", "10.0.2.15"]
    assert json.loads(ctl(relay, "--json", "ports"))[0]["state"] == "attached"
    assert "attached     1" in ctl(relay, "status")
    assert "quasar_relay_identities 1" in ctl(relay, "metrics")
    guest = g.Guest(link, MAC)
    guest.resolve(guest.gateway)
    assert ctl(relay, "flows", "acme/web").split()[0] == "PROTO"


def test_detach_and_return(relay: Relay) -> None:
    link = relay.attach("acme/web")
    ctl(relay, "detach", "acme/web")
    assert link.wait_closed() == g.R_SHUTDOWN
    assert relay.attach("acme/web", epoch=1, token=link.token).epoch == 1


def frames_in(path: str) -> list[bytes]:
    with open(path, "rb") as file:
        data = file.read()
    assert data[:24] == bytes.fromhex("a1b2c3d4 0002 0004 00000000 00000000 00010011 00000001")
    frames, at = [], 24
    while at < len(data):
        size, whole = struct.unpack("!II", data[at + 8:at + 16])
        assert size == whole
        frames.append(data[at + 16:at + 16 + size])
        at += 16 + size
    return frames


def test_capture(relay: Relay) -> None:
    guest = g.Guest(relay.attach("acme/web"), MAC)
    path = ctl(relay, "pcap", "start", "acme/web").strip()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    guest.resolve(guest.gateway)
    ctl(relay, "pcap", "stop", "acme/web")
    guest.resolve(guest.gateway)
    frames = [f for f in frames_in(path) if f[12:14] == b"\x08\x06"]
    # The first question may come before the worker is there, and is asked again then.
    assert {f[20:22] for f in frames[:-1]} == {b"\0\1"} and frames[-1][20:22] == b"\0\2"
    assert frames[0][6:12] == MAC
    # A capture is bounded.
    relay.result("pcap-start", identity="acme/web", mib=1)
    frame = g.record(g.FRAME, g.BROADCAST + MAC + g.TEST_TYPE + bytes(60000))
    for _ in range(30):
        guest.link.sock.sendall(frame)
    guest.link.sync()
    assert os.path.getsize(path) <= 1 << 20
    assert len(frames_in(path)) == (1 << 20) // 60030
    assert "event=capture-full" in relay.log()
    # A file that cannot be.
    os.unlink(path)
    os.mkdir(path)
    assert "cannot write" in ctl(relay, "pcap", "start", "acme/web", code=1)


def test_identities_come_and_go(relay: Relay) -> None:
    secret = ctl(relay, "identity", "add", "acme/db", "mtu=9000").strip()
    assert len(secret) == 64
    listed = json.loads(ctl(relay, "--json", "identity", "list"))
    assert listed[0] == {"identity": "acme/db", "mac": "", "address": "10.0.2.16", "mtu": 9000,
                         "rate": 0, "nat": "slirp", "certificate": ""}
    assert secret not in ctl(relay, "--json", "identity", "list")
    link = g.attach(relay.unix, "acme/db", bytes.fromhex(secret))
    assert link.mtu == 9000
    assert stat.S_IMODE(os.stat(f"{relay.dir}/ids").st_mode) == 0o600
    ctl(relay, "identity", "del", "acme/db")
    assert link.wait_closed() == g.R_REMOVED
    with pytest.raises(g.Refused):
        g.attach(relay.unix, "acme/db", bytes.fromhex(secret))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_the_file_to_its_owner(relay: Relay) -> None:
    path = f"{relay.dir}/ids"
    os.chown(path, 12345, 54321)
    for words in (["add", "acme/db"], ["del", "acme/db"]):
        ctl(relay, "identity", *words)
        state = os.stat(path)
        assert (state.st_uid, state.st_gid) == (12345, 54321)
        assert stat.S_IMODE(state.st_mode) == 0o600
    assert [name for name in os.listdir(relay.dir) if name.startswith("ids")] == ["ids"]
    # A folder in the place of the file: it stays, and nothing is left beside it.
    os.rename(path, f"{path}.old")
    os.mkdir(path)
    assert "not a regular file" in ctl(relay, "identity", "add", "acme/db", code=1)
    os.rmdir(path)
    os.rename(f"{path}.old", path)


@pytest.mark.parametrize("words,code,text", [
    (["identity", "add", "acme/web"], 1, "already"),
    (["identity", "add", "acme"], 1, "TENANT/NAME"),
    (["identity", "add", "acme/db", "colour=blue"], 1, 'unknown key "colour"'),
    (["identity", "add", "acme/db", "mac=52:54:00:00:00:01"], 1, "both have the mac"),
    (["identity", "add", "acme/db", "address=10.0.2.15"], 1, "both have the address"),
    (["identity", "del", "acme/db"], 1, "is not in"),
    (["flows", "acme/db"], 1, "no identity"),
    (["flows"], 2, "usage"), (["fly"], 2, "no such command"), ([], 2, "missing"),
    (["--nonsense"], 2, "nonsense"),
])
def test_errors(relay: Relay, words: list[str], code: int, text: str) -> None:
    before = open(f"{relay.dir}/ids", encoding="ascii").read()
    assert text in ctl(relay, *words, code=code)
    assert open(f"{relay.dir}/ids", encoding="ascii").read() == before


def test_without_a_relay(relay: Relay) -> None:
    relay.stop()
    assert "is quasar-relayd running?" in ctl(relay, "status", code=1)
    done = subprocess.run([CTL, f"--control={relay.dir}/control", f"--identities={relay.dir}/new",
                           "identity", "add", "a/b"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "note: the relay does not run" in done.stderr
    assert "[a/b]" in open(f"{relay.dir}/new", encoding="ascii").read()


def test_stop_and_completion(relay: Relay) -> None:
    assert "forward add" in ctl(relay, "complete").splitlines()
    ctl(relay, "stop")
    assert relay.process is not None
    assert relay.process.wait(10) == 0
    assert not os.path.exists(f"{relay.dir}/control")


def check(relay: Relay, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DAEMON, "--check", *words], capture_output=True, text=True, timeout=30,
                          check=False)


def test_configuration_file(relay: Relay) -> None:
    path = f"{relay.dir}/conf"
    with open(path, "w", encoding="ascii") as file:
        file.write(f"[relay]\nidentities={relay.dir}/ids\nrun-dir={relay.dir}\nhold-seconds=5\n")
    assert check(relay, f"--config={path}").stdout == "1 identities\n"
    for line, text in (("hold-seconds=0", "a number from 1"), ("colour=blue", "no setting"),
                       ("seccomp=maybe", "true or false"), ("log-level=loud", "error, warning")):
        done = check(relay, f"--config={path}", f"--set={line}")
        assert done.returncode == 1 and text in done.stderr
    assert check(relay, "--set=x").returncode == 1
    assert "configuration file" in check(relay, "--config=/nonexistent").stderr


@pytest.mark.parametrize("text,error", [
    ("[acme/x]\n", "nor a certificate, nor a socket"),
    ("[acme]\nsecret=" + "11" * 32 + "\n", "TENANT/NAME"),
    ("[acme/x]\nsecret=11\n", "a secret is"),
    ("[acme/x]\nsocket=rel\n", "not absolute"),
    ("[acme/x]\nsocket=/x\nmac=ff:ff:ff:ff:ff:ff\n", "station"),
    ("[acme/x]\nsocket=/x\nmac=52:55:0a:00:02:02\n", "station"),
    ("[acme/x]\nsocket=/x\nnetwork=10.0.2.1/24\n", "not a network"),
    ("[acme/x]\nsocket=/x\naddress=10.0.3.1\n", "not a guest's address"),
    ("[acme/x]\nsocket=/x\naddress=10.0.2.2\n", "not a guest's address"),
    ("[acme/x]\nsocket=/x\nmtu=9\n", "an MTU is"),
    ("[acme/x]\nsocket=/x\nnat=passt\n", "the NAT is"),
    ("[acme/x]\nsocket=/x\nforward=tcp:1:2:3\n", "forward"),
    ("[acme/x]\nsocket=/x\nforward=tcp:1.2.3.4:5:6;tcp:1.2.3.4:5:7\n", "both have the forwarded"),
    ("[acme/x]\nsocket=/x\nforward=tcp:[::1:5:6\n", "brackets"),
    ("[acme/x]\nsocket=/x\nforward=tcp:[::1]:5:6;tcp:[0::1]:5:7\n", "tcp port [::1]:5"),
    ("[acme/x]\nsocket=/x\n[acme/y]\nsocket=/x\naddress=10.0.2.16\n", "both have the socket"),
    ("nonsense\n", "identities file"),
])
def test_bad_identities(relay: Relay, text: str, error: str) -> None:
    path = f"{relay.dir}/bad"
    with open(path, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(text)
    done = check(relay, f"--set=identities={path}", f"--set=run-dir={relay.dir}")
    assert done.returncode == 1 and error in done.stderr, done.stderr


def test_metrics_in_a_file(relay: Relay) -> None:
    path = f"{relay.dir}/metrics/relay.prom"
    relay.stop()
    relay.settings |= {"metrics-file": path, "metrics-seconds": "1"}
    # A place that is not there is told at the start.
    with pytest.raises(AssertionError, match="metrics/relay.prom"):
        relay.start()
    os.mkdir(f"{relay.dir}/metrics")
    old = os.umask(0o077)
    try:
        relay.start()
    finally:
        os.umask(old)
    attached = 'quasar_relay_port_attached{tenant="acme",identity="web"}'

    def text() -> str:
        with open(path, encoding="ascii") as file:
            return file.read()

    assert f"{attached} 0\n" in text() and text().endswith("\n")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    link = relay.attach("acme/web")
    wait_for(lambda: f"{attached} 1\n" in text(), 60)
    assert os.listdir(f"{relay.dir}/metrics") == ["relay.prom"]
    # What fails later is logged once and does not end the relay.
    os.rename(f"{relay.dir}/metrics", f"{relay.dir}/away")
    wait_for(lambda: "event=metrics-file-failed" in relay.log(), 60)
    os.rename(f"{relay.dir}/away", f"{relay.dir}/metrics")
    before = os.stat(path).st_ino
    wait_for(lambda: os.stat(path).st_ino != before, 60)
    assert relay.log().count("event=metrics-file-failed") == 1
    assert link.sync() == []
    relay.stop()
    assert os.listdir(f"{relay.dir}/metrics") == []


def test_metrics_file_as_a_flag(relay: Relay) -> None:
    path = f"{relay.dir}/flag.prom"
    done = subprocess.run([DAEMON, "--metrics-file", path, "--set=metrics-seconds=0", "--check"],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and "metrics-seconds" in done.stderr
    relay.stop()
    words = [*relay.arguments(), f"--metrics-file={path}"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as daemon:
        wait_for(lambda: os.path.exists(path), 20)
        daemon.terminate()
    assert daemon.returncode == 0 and not os.path.exists(path)


def test_signal_reloads(relay: Relay) -> None:
    assert relay.process is not None
    relay.identities["acme/new"] = {"secret": "22" * 32, "address": "10.0.2.30"}
    try:
        relay.write_identities()
        relay.process.send_signal(1)
        wait_for(lambda: len(relay.result("ports")) == 2)  # type: ignore[arg-type]
    finally:
        del relay.identities["acme/new"]


def test_long_socket_paths_are_told(relay: Relay) -> None:
    long = f"{relay.dir}/{'x' * 100}"
    second = Relay(IDENTITIES, **{"run-dir": long, "control": f"{relay.dir}/c"})
    with pytest.raises(AssertionError, match="choose a shorter directory"):
        second.start()
    second.end()
