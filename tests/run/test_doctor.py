# SPDX-License-Identifier: GPL-2.0-or-later
"""What a doctor finds here and on another host, and what a strange host may say to one."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import Elsewhere, Launcher
from test_migrate import HELLO, script, way_to
from test_words import define

from gateway import free_port

HOST = {"say": "host", "arch": "vax", "page-size": 512, "processors": 1, "memory": 8,
        "memory-free": 4, "space": 1 << 20, "clock": 1800000000000, "big-endian": False,
        "clock-synced": True, "sandbox": False,
        "guests": {name: {"version": "", "firmware": False}
                   for name in ("x86_64", "aarch64", "ppc64", "s390x")}}


def look(launcher: Launcher, *words: object, status: int = 0) -> dict[str, list[tuple[str, str]]]:
    """What was found, by what it is about: levels and words."""
    done = launcher.run("doctor", "--json", *words)
    assert done.returncode == status, (done.stdout, done.stderr)
    found: dict[str, list[tuple[str, str]]] = {}
    for row in json.loads(done.stdout)["checks"]:
        found.setdefault(row["about"], []).append((row["level"], row["words"]))
    return found


# This host


def test_without_qemu(dry: Launcher) -> None:
    """Nothing can be started: a failure, which the status tells too."""
    found = look(dry, status=3)
    assert [level for level, _ in found["guest x86_64"]] == ["warn"]
    assert found["guests"] == [("fail", "no guest can be started here")]
    assert found["host"][0][1].startswith(f"{os.uname().machine}, little-endian, pages of ")
    assert "1 of the checks failed" in dry.bad(3, "doctor")
    assert not dry.root.exists()


def test_with_qemu(quasar: Launcher) -> None:
    found = look(quasar)
    assert found["guest x86_64"][0][0] == "ok" and "Quasar" in found["guest x86_64"][0][1]
    assert {level for rows in found.values() for level, _ in rows} <= {"ok", "warn"}
    text = quasar.good("doctor")
    assert text.startswith("ok ") and "\033" not in text
    assert not quasar.root.exists()


def test_another_qemu(dry: Launcher, tmp_path: Path) -> None:
    """One that is not ours loses what its guests have when they move."""
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "qemu-system-s390x", "echo 'QEMU emulator version 8.2.0 (Debian)'")
    assert found_level(look(dry, status=3), "guest s390x") == "fail"
    script(tmp_path / "bin" / "qemu-system-s390x", "exit 1")
    assert found_level(look(dry, status=3), "guest s390x") == "warn"


def found_level(found: dict[str, list[tuple[str, str]]], about: str) -> str:
    [(level, _)] = found[about]
    return level


def test_folders(quasar: Launcher) -> None:
    run = quasar.root / "run"
    run.mkdir(parents=True)
    run.chmod(0o777)
    assert look(quasar, status=3)["run folders"] == [("fail", f"others may write to {run}")]
    run.chmod(0o700)
    assert found_level(look(quasar), "run folders") == "ok"


def test_vms(quasar: Launcher) -> None:
    """Each definition, its files, its relay and the secret for that."""
    define(quasar, "good")
    define(quasar, "odd", "surprise=1\n")
    define(quasar, "bare", "kernel=/nonexistent\n")
    port = free_port()
    path = define(quasar, "web")
    path.write_text(path.read_text().replace("net=user", f"net=relay:127.0.0.1:{port}/web"))
    found = look(quasar, status=3)
    assert found["VM good"] == [("ok", "its files are there")]
    assert "surprise" in found["VM odd"][0][1] and found["VM odd"][0][0] == "fail"
    assert "/nonexistent" in found["VM bare"][0][1]
    secret, relay = found["VM web"]
    assert secret == ("fail", "there is no secret for default/web on the relay")
    assert relay[0] == "fail" and f"the relay 127.0.0.1:{port} cannot be reached" in relay[1]


# Another one


def test_two_hosts(quasar: Launcher, tmp_path: Path) -> None:
    rsh = way_to(tmp_path / "there", tmp_path / "rsh")
    done = quasar.run("doctor", "localhost", "--rsh", rsh, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    about = [row["about"] for row in told["checks"]]
    assert "difference" not in about and "move" not in about
    assert all(row["level"] == "ok" for row in told["checks"]), told["checks"]
    assert told["figures"]["bytes-per-second"] > 0
    assert told["figures"]["clock-difference-ms"] < 2000
    assert not (tmp_path / "there").exists()


def test_a_vm_and_how_long_it_takes(bare: Launcher, tmp_path: Path) -> None:
    """It runs or not; a refusal is what a move would meet."""
    there = Launcher(tmp_path / "there", bare.environment)
    words = ["localhost", "box", "--rsh", way_to(there.root, tmp_path / "rsh")]
    told = json.loads(bare.good("doctor", "--json", *words))
    figures = told["figures"]
    assert figures["memory-bytes"] <= 64 << 20 and figures["disk-bytes"] > 0
    assert figures["seconds"] == (figures["memory-bytes"] + figures["disk-bytes"]) \
        // figures["bytes-per-second"]
    text = bare.good("doctor", *words)
    assert "box can move to localhost" in text and "about " in text
    define(there, "box")
    found = look(bare, *words, status=3)
    assert found["move"] == [("fail", 'the other host says: there is a VM "box" already')]
    (there.root / "vms" / "box.conf").unlink()
    bare.good("stop", "--force", "box")
    found = look(bare, *words)
    assert found["move"][0][0] == "ok" and "is stopped" in found["state"][0][1]
    assert not [p for p in there.root.rglob("*") if p.is_file()]


@pytest.mark.parametrize("elsewhere", ["ppc64le:64k", "s390x"], indirect=True)
def test_another_architecture(quasar: Launcher, elsewhere: Elsewhere, tmp_path: Path) -> None:
    found = look(quasar, "localhost", "--rsh",
                 way_to(tmp_path / "there", tmp_path / "rsh", elsewhere.program()))
    big = elsewhere.place.arch == "s390x"
    assert found["other host"][0][1].startswith(
        f"{elsewhere.place.arch}, {'big' if big else 'little'}-endian, pages of "
        f"{4 if big else 64} KiB, ")
    assert ("another byte order" in found["difference"][0][1]) == big
    assert ("another page size" in found["difference"][0][1]) != big


# A strange one


def answers(*lines: Any) -> str:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return f"printf '%s\\n' {shlex.quote(text)}; cat >/dev/null"


PINGS = [{"say": "ping"}] * 5
STRANGERS: dict[str, tuple[list[Any], str]] = {
    "garbage": (["SSH-2.0-OpenSSH_9.2p1"], "makes no sense"),
    "nothing of itself": ([HELLO, {"say": "host"}], "what it says of itself is malformed"),
    "a refusal": ([HELLO, {"say": "refuse", "words": "\x1b[31mno"}], "says:  [31mno"),
    "pages of exabytes": ([HELLO, {**HOST, "page-size": 1 << 60}], "malformed"),
    "memory below nothing": ([HELLO, {**HOST, "memory": -1}], "malformed"),
    "a long name": ([HELLO, {**HOST, "arch": "x" * 100}], "malformed"),
    "no guests": ([HELLO, {**HOST, "guests": []}], "malformed"),
    "a guest of lies": ([HELLO, {**HOST, "guests": {**HOST["guests"], "s390x": 1}}], "malformed"),
    "another word": ([HELLO, HOST, {"say": "accept"}], '"ping" was expected'),
    "more than was sent": ([HELLO, HOST, *PINGS, {"say": "measured", "bytes": 1 << 40}],
                           "it did not get what was sent"),
    "no more": ([HELLO, HOST, *PINGS[:2]], "ended the connection"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_strangers(dry: Launcher, tmp_path: Path, case: str) -> None:
    lines, words = STRANGERS[case]
    text = answers(*lines)
    if case == "no more":
        text = text.partition("; cat")[0]
    stranger = script(tmp_path / "stranger", f"PATH=/usr/bin:/bin; {text}")
    line = dry.bad(3 if case == "a refusal" else 1, "doctor", "a", "--rsh", stranger)
    assert words in line and "\033" not in line
    assert not dry.root.exists()


def test_a_host_that_speaks_to_the_terminal(dry: Launcher, tmp_path: Path) -> None:
    guests = {**HOST["guests"], "s390x": {"version": "\x1b]0;x\x07", "firmware": True}}
    total = 0
    loads = []
    for pieces in (1, 2, 4, 8, 16, 32, 64, 128):
        total = pieces * 87384
        loads.append({"say": "measured", "bytes": total})
    text = answers(HELLO, {**HOST, "arch": "v\x1b[31max", "guests": guests}, *PINGS, *loads)
    stranger = script(tmp_path / "stranger", f"PATH=/usr/bin:/bin; {text}")
    done = dry.run("doctor", "a", "--rsh", stranger)
    assert "v [31max" in done.stdout and "\033" not in done.stdout
    assert "\a" not in done.stdout


SOURCES: dict[str, tuple[list[Any], int, str]] = {
    "enough": ([{"say": "examine"}, {"say": "enough"}], 0, ""),
    "nothing after it": ([{"say": "examine"}], 1, "ended the connection"),
    "no offer": ([{"say": "examine"}, {"say": "prepare"}], 1, '"offer" was expected'),
    "a load of nothing": ([{"say": "load"}], 1, '"offer" was expected'),
    "for ever": ([{"say": "ping"}] * 1100, 1, "it asks too much"),
    "too much": ([{"say": "load", "data": "x" * 200000}] * 340, 1, "it asks too much"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_strange_sources(dry: Launcher, case: str) -> None:
    messages, status, words = SOURCES[case]
    text = "\n".join([HELLO, *(json.dumps(message) for message in messages)]) + "\n"
    done = dry.run("receive", input=text)
    assert done.returncode == status, done.stderr
    assert words in done.stderr + done.stdout.replace('\\"', '"')
    assert not dry.root.exists()


@pytest.mark.parametrize("words, text", [
    (["--rsh", "x"], "--rsh goes with a host"), (["-oProxy"], "nknown option"),
    (["a b"], "this is no host"),
])
def test_wrong_words(dry: Launcher, words: list[str], text: str) -> None:
    assert text in dry.bad(2, "doctor", *words)


def test_no_such_vm(dry: Launcher) -> None:
    assert 'there is no VM "web"' in dry.bad(1, "doctor", "localhost", "web", "--rsh", "false")
