# SPDX-License-Identifier: GPL-2.0-or-later
"""verify=true: both ends compare memory and devices before the vote.

(test_session.py takes a Linux guest through all hosts so, test_file.py a file.)
"""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from session import Session

HOME = "x86_64"
UNUSED = 63 << 20           # an address that a bare guest does not write to
SECTIONS = 10               # a machine without a card or disk has more

pytestmark = [pytest.mark.quick, pytest.mark.route("bare-x86_64", HOME, HOME)]


def check_compared(session: Session) -> None:
    """Both ends looked at the same, and at much."""
    sections, memory = ([session.info(end)[key] for end in session.ends]
                        for key in ("verified-sections", "verified"))
    assert sections[0] == sections[1] > SECTIONS, sections
    assert memory[0] == memory[1] > 16 << 20, memory


def poke(path: Path, address: int) -> None:
    """Write a byte of physical memory through a debugger's port."""
    with socket.socket(socket.AF_UNIX) as debugger:
        debugger.connect(str(path))
        for packet in (b"Qqemu.PhyMemMode:1", f"M{address:x},1:5a".encode()):
            debugger.sendall(b"+$" + packet + b"#%02x" % (sum(packet) & 255))
            answer = b""
            while b"OK" not in answer:
                got = debugger.recv(100)
                assert got and b"E" not in got, got
                answer += got


@pytest.mark.parametrize("spoilt", [False, True])
def test_memory_is_compared(pair: Callable[..., Session], tmp_path: Path, spoilt: bool) -> None:
    """A byte that changes at the destination behind the session's back is found."""
    session = pair(settings={"verify": True}, parameters={"downtime-limit": 1}, rate=400e6)
    session.start()
    session.source.qmp.wait_event("MIGRATION_PASS", lambda d: d["pass"] == 4)
    if spoilt:
        path = tmp_path / "gdb"
        session.destination.qmp.human(f"gdbserver unix:{path},server=on,wait=off")
        poke(path, UNUSED)
    session.source.qmp.execute("migrate-set-parameters", {"downtime-limit": 5000})
    if spoilt:
        reason = session.check_stays()
        assert "verify: the memory 'pc.ram' differs" in reason and "0x3000000" in reason
    else:
        session.check_arrives()
        check_compared(session)


@pytest.mark.parametrize("verify", [False, True])
def test_devices_are_compared(pair: Callable[..., Session], verify: bool) -> None:
    """A keyboard that drops a part of its state, which QEMU itself takes for loaded."""
    session = pair(there=("-global", "i8042.extended-state=off"), settings={"verify": verify})
    session.start()
    if verify:
        assert session.check_stays().endswith("another state here than at the source: pckbd")
    else:
        session.check_arrives()


@pytest.mark.parametrize("around", [
    pytest.param((guest, *hosts), id=guest,
                 marks=pytest.mark.route(f"bare-{guest}", HOME, *hosts))
    for guest, *hosts in (("aarch64", HOME), ("ppc64", "ppc64le"), ("s390x", HOME),
                          ("x86_64", "ppc64"))])
def test_every_guest_says_the_same_again(pair: Callable[..., Session],
                                         around: tuple[str, ...]) -> None:
    """What a board is saved as is what it is saved as after it was loaded."""
    session = pair(settings={"verify": True})
    session.start()
    session.check_arrives()
    check_compared(session)
