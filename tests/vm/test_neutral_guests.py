# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that would notice their host: memory files, vector registers, time.

What a running processor holds cannot be set from outside, so here guests do it themselves.  As in
test_neutral.py each case has a twin in which the unpatched QEMU fails.
"""

import ctypes
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import clocks
import migration
import places
import pytest
import vmstream
from channel import ChannelError
from deadlines import TooLate
from machine import Machine, Setup
from places import Place
from qmp import Lost

Start = Callable[..., Machine]


@pytest.fixture
def start(run_folder: Path) -> Iterator[Start]:
    """Start machines of this test, which are stopped at its end."""
    with ExitStack() as stack:
        def one(place: Place, guest: Any, incoming: bool = False) -> Machine:
            folder = run_folder / f"guest{len(list(run_folder.iterdir()))}"
            machine = Machine(place, Setup(guest, net=False), folder,
                              incoming="defer" if incoming else None)
            return stack.enter_context(machine)

        yield one


def wrong_per_pass(machine: Machine) -> float:
    """What a bare guest finds wrong in each pass of those that it makes now."""
    counts = []
    for _ in range(3):
        mark = machine.console.mark()
        found = machine.console.wait_line(r"pass (\d+) bad (\d+)", since=mark, timeout=120)
        counts.append((int(found.group(1)), int(found.group(2))))
    (first, bad), (last, worse) = counts[0], counts[-1]
    return (worse - bad) / (last - first)


# Memory in a file


def through_a_file(start: Start, names: tuple[str, ...], *, stock: bool) -> Machine:
    """Save a guest that dirties memory to a mapped-ram file, and load it on the next host."""
    guest, here, there = places.guest("bare-x86_64"), *(Place.parse(n, stock) for n in names)
    source = start(here, guest)
    assert wrong_per_pass(source) == 0
    path = source.folder / "state"
    migration.save(source, path, mapped_ram=True)
    source.stop()
    target = start(there, guest, incoming=True)
    migration.load(target, path, mapped_ram=True)
    return target


@pytest.mark.parametrize("names", [("x86_64", "s390x"), ("s390x", "x86_64"),
                                   ("ppc64:64k", "s390x")], ids="-".join)
@pytest.mark.route("bare-x86_64", "x86_64", "s390x", "ppc64:64k")
def test_mapped_ram(names: tuple[str, ...], start: Start) -> None:
    assert wrong_per_pass(through_a_file(start, names, stock=False)) == 0


@pytest.mark.route("bare-x86_64", "x86_64", "s390x", stock=True)
def test_stock_loses_mapped_ram(start: Start) -> None:
    with pytest.raises((AssertionError, TooLate, Lost, ChannelError, migration.MigrationFailed)):
        assert wrong_per_pass(through_a_file(start, ("x86_64", "s390x"), stock=True)) == 0


# Registers


def moved(start: Start, guest: str, *names: str, stock: bool = False) -> list[float]:
    """Move a bare guest from host to host; return what it finds wrong in a pass on each."""
    there = start(Place.parse(names[0], stock), places.guest(guest))
    found = [wrong_per_pass(there)]
    for name in names[1:]:
        here, there = there, start(Place.parse(name, stock), places.guest(guest), incoming=True)
        migration.migrate(here, there, "unix")
        here.stop()
        found.append(wrong_per_pass(there))
    return found


@pytest.mark.route("bare-ppc64", "x86_64", "ppc64", "s390x")
def test_powerpc_vectors(start: Start) -> None:
    assert moved(start, "bare-ppc64", "x86_64", "ppc64", "s390x", "x86_64") == [0, 0, 0, 0]


@pytest.mark.route("bare-ppc64", "x86_64", "ppc64", stock=True)
def test_stock_exchanges_powerpc_vectors(start: Start) -> None:
    """All 32 of them; the one wrong thing on either side is the time of an interrupt."""
    assert moved(start, "bare-ppc64", "x86_64", "ppc64", stock=True) == [1, 33]


@pytest.mark.quick
@pytest.mark.route("bare-ppc64", "x86_64")
def test_xirr_time(start: Start) -> None:
    assert moved(start, "bare-ppc64", "x86_64") == [0]


def waiting_signal(start: Start, place: Place) -> list[vmstream.Device]:
    """Send a stopped processor a signal, save, load and save again; return both its states."""
    guest = places.guest("bare-s390x")
    source = start(place, guest)
    wrong_per_pass(source)
    source.qmp.execute("stop")
    source.qmp.execute("inject-nmi")
    migration.save(source, source.folder / "state")
    target = start(place, guest, incoming=True)
    migration.load(target, source.folder / "state")
    migration.save(target, target.folder / "state")
    return [vmstream.read(m.folder / "state")["cpu/0"] for m in (source, target)]


@pytest.mark.quick
@pytest.mark.route("bare-s390x", "x86_64")
def test_z_interrupts(start: Start) -> None:
    sent, again = waiting_signal(start, Place("x86_64"))
    assert int.from_bytes(sent.value("env.pending_int"), "big") == 1 << 7
    assert again.value("env.pending_int") == sent.value("env.pending_int")


@pytest.mark.route("bare-s390x", "x86_64", stock=True)
def test_stock_forgets_z_interrupts(start: Start) -> None:
    with pytest.raises(KeyError):
        waiting_signal(start, Place("x86_64", stock=True))[0].value("env.pending_int")


# Time


def linux(cpu: str, *, talkative: bool = False) -> Any:
    guest = places.guest("linux-x86_64")
    append = guest.append
    if talkative:
        append = append.replace("quiet loglevel=3", "loglevel=7").replace("tsc=reliable ", "")
    return replace(guest, cpu=cpu, append=append)


@pytest.mark.route("linux-x86_64", "x86_64", "s390x")
def test_tsc_frequency(start: Start) -> None:
    """A guest that asks is told the rate, does not measure it, and keeps it on another host."""
    guest = linux("Nehalem,level=0x16,tsc-frequency=2000000000", talkative=True)
    here = start(Place("x86_64"), guest)
    here.wait_ready()
    told = [line for line in here.console.tail(2000) if "tsc: " in line]
    assert any("Detected 2000.000 MHz processor" in line for line in told), told
    assert not any("Refined" in line or "PIT" in line for line in told), told
    there = start(Place("s390x"), guest, incoming=True)
    migration.migrate(here, there, "unix")
    rate = clocks.clock_rate(there.agent.request)
    assert rate.surely_within(clocks.LIMIT), str(rate)


def host_tsc_hz() -> float:
    """Measure the rate of this machine's own counter, which a stock QEMU passes on."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f3148c1e2204809d0c3"))         # rdtsc; rax |= rdx << 32; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    began, first = time.monotonic(), rdtsc()
    time.sleep(2)                                             # time itself is what is measured
    return (rdtsc() - first) / (time.monotonic() - began)


def from_stock(start: Start, cpu: str) -> tuple[int, int, clocks.Rate]:
    """Move a guest from a stock QEMU; return its clock before and after, and the rate after."""
    here = start(Place("x86_64", stock=True), linux("Nehalem"))
    here.wait_ready()
    here.agent.request("clock")
    there = start(Place("x86_64"), linux(cpu), incoming=True)
    before = here.agent.request("clock").value["monotonic_ns"]
    migration.migrate(here, there, "unix")
    after = there.agent.request("clock").value["monotonic_ns"]
    return before, after, clocks.clock_rate(there.agent.request)


@pytest.mark.route("linux-x86_64", "x86_64", "x86_64/stock")
def test_from_stock(start: Start) -> None:
    """A guest goes on without a jump, and at its rate where the destination is told that."""
    hz = round(host_tsc_hz() / 1e6) * 1000000
    before, after, rate = from_stock(start, f"Nehalem,tsc-frequency={hz}")
    assert 0 < after - before < 20e9
    assert rate.surely_within(clocks.LIMIT), str(rate)


@pytest.mark.route("linux-x86_64", "x86_64", "x86_64/stock")
def test_from_stock_without_its_rate(start: Start) -> None:
    """What the stream does not tell must be told: the clock goes on, but at another rate."""
    before, after, rate = from_stock(start, "Nehalem")
    assert 0 < after - before < 20e9
    assert rate.surely_beyond(0.05), str(rate)
