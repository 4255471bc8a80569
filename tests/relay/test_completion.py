#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The completion script of quasar-relayctl, in bash, against a running relay."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import guest as g
import pytest
from network import free_port
from relaylib import CTL, Relay
from test_control import ctl

IDENTITIES = {
    "acme/web": {"secret": "11" * 32},
    "acme/db": {"secret": "22" * 32, "address": "10.0.2.16"},
    "other/db": {"secret": "33" * 32, "nat": "none"},
}
ALL = ["acme/db", "acme/web", "other/db"]
PRINT = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_quasar_relayctl
printf '%s\\n' "${COMPREPLY[@]}"
"""
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with Relay(IDENTITIES) as relay:
        with open(f"{relay.dir}/script", "w", encoding="ascii") as file:
            file.write(ctl(relay, "completion", "bash"))
        os.mkdir(f"{relay.dir}/bin")
        os.symlink(shutil.which(CTL) or CTL, f"{relay.dir}/bin/quasar-relayctl")
        yield relay


def complete(relay: Relay, words: str) -> list[str]:
    """What is offered at the end of a line."""
    line = f"quasar-relayctl --control={relay.dir}/control --identities {relay.dir}/ids {words}"
    done = subprocess.run(["bash", "-c", PRINT, "bash", f"{relay.dir}/script", line],
                          env=os.environ | {"PATH": f"{relay.dir}/bin:{os.environ['PATH']}"},
                          capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("words,offered", [
    ("un", ["undrain"]), ("re", ["reload", "restart"]), ("identity ", ["list", "add", "del"]),
    ("pcap st", ["start", "stop"]), ("completion ", ["bash", "zsh"]), ("status ", []),
    ("flows ", ALL), ("pcap start acme/", ALL[:2]), ("detach o", ["other/db"]),
    ("detach acme/web ", []), ("identity del acme/w", ["acme/web"]),
    ("identity add ", ["acme/", "other/"]), ("identity add acme/x r", ["rate="]),
    ("identity add acme/x ce", ["certificate="]),
    ("identity add --rate 5M acme/x m", ["mac=", "mtu="]), ("identity add --rate ", []),
    ("identity add acme/x mtu=9000 ne", ["network="]), ("drain --w", ["--wait"]),
    ("nonsense ", []), ("forward add ", ALL),
])
def test_words(relay: Relay, words: str, offered: list[str]) -> None:
    assert complete(relay, words) == offered


def test_commands(relay: Relay) -> None:
    told = {line.split()[0] for line in ctl(relay, "complete").splitlines()}
    assert set(complete(relay, "")) == told


def test_forwards_of_an_identity(relay: Relay) -> None:
    guest = g.Guest(relay.attach("acme/web"), bytes.fromhex("525400000001"))
    guest.resolve(guest.gateway)
    port = free_port()
    ctl(relay, "forward", "add", "acme/web", f"tcp:127.0.0.1:{port}:80")
    assert complete(relay, "forward del acme/web ") == [f"tcp:127.0.0.1:{port}:80"]
    # bash keeps what stands before the last colon, and wants the rest.
    assert complete(relay, "forward del acme/web tcp:127.0.0.1:") == [f"{port}:80"]
    ctl(relay, "forward", "add", "acme/web", f"udp:[::1]:{port}:53")
    assert complete(relay, "forward del acme/web udp:[") == [f"[::1]:{port}:53"]
    assert complete(relay, "forward del acme/web udp:[::1]:") == [f"{port}:53"]
    assert complete(relay, "forward del acme/db ") == []


def test_without_a_relay_the_file_is_asked() -> None:
    with Relay(IDENTITIES) as relay:
        relay.stop()
        assert ctl(relay, "complete", "identities").split() == ALL
        assert ctl(relay, "complete", "tenants").split() == ["acme/", "other/"]


def test_shells(relay: Relay) -> None:
    zsh = ctl(relay, "completion", "zsh")
    assert zsh.startswith("#compdef quasar-relayctl\n")
    assert zsh.endswith(ctl(relay, "completion", "bash"))
    assert "bash or zsh" in ctl(relay, "completion", "fish", code=2)
    assert "usage" in ctl(relay, "completion", code=2)
