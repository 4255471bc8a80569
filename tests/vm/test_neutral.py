# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing in a state depends on the host that wrote it.

Boards without a guest are driven into each state that once differed (tests/lib/provoke.py), or
just started, and saved: the hosts must write the same bytes, a host must write again what it has
read, and a little-endian host must write what the unpatched QEMU of the same machine does.  Each
case has its twin that shows the unpatched QEMU fail, so that no case is blind.
"""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import migration
import provoke
import pytest
import vmstream
from bench import Bench, Board
from machine import MachineError
from places import Place
from provoke import Case
from qmp import Lost

# What two runs on one host do not have in common either: real time, and the guest's random seed
CHANCE = ("timer/0: cpu_ticks_offset", "timer/0: cpu_clock_offset", "spapr/0: tb.",
          "spapr/0: spapr_dtb.fdt_blob")

State = Path
Save = Callable[..., State]
LITTLE, BIG = "x86_64", "s390x"


def board(case: Case) -> Board:
    return Board(f"board-{case.name}", "x86_64", case.machine, case.devices)


@pytest.fixture(scope="module")
def save(run_folder: Path) -> Save:
    """Bring a board into its state on a host and save it; each only once."""
    made: dict[tuple, State] = {}

    def get(place: Place, what: Board, provoking: Callable[[Bench], None] | None = None,
            after: State | None = None) -> State:
        key = (place, what, provoking, after)
        if key not in made:
            folder = run_folder / f"state{len(made)}"
            with Bench(place, what, folder, incoming="defer" if after else None) as machine:
                if after:
                    migration.load(machine, after)
                if provoking:
                    provoking(machine)
                migration.save(machine, folder / "state")
            made[key] = folder / "state"
        return made[key]

    return get


@pytest.fixture
def folder(run_folder: Path) -> Path:
    """A folder of a test's own, with a short name."""
    path = run_folder / f"neutral{len(list(run_folder.iterdir()))}"
    path.mkdir()
    return path


def unlike(one: State, other: State) -> list[str]:
    return vmstream.differences(vmstream.read(one), vmstream.read(other), CHANCE)


def places(*names: str, stock: bool = False) -> list[Place]:
    return [Place.parse(name, stock) for name in names]


# Devices of a PC

CASES = pytest.mark.parametrize("case", provoke.CASES, ids=lambda case: case.name)


@CASES
@pytest.mark.route("board-x86_64", LITTLE, BIG)
def test_same_state(case: Case, save: Save) -> None:
    """Both byte orders write the same, and make the same of what they read."""
    states = [save(place, board(case), case.provoke) for place in places(LITTLE, BIG)]
    assert unlike(*states) == []
    for state in states:
        assert unlike(*(save(place, board(case), after=state)
                        for place in places(LITTLE, BIG))) == []


@CASES
@pytest.mark.route("board-x86_64", LITTLE, BIG, stock=True)
def test_stock_writes_host_order(case: Case, save: Save) -> None:
    states = [save(place, board(case), case.provoke) for place in places(LITTLE, BIG, stock=True)]
    assert any(case.field in fault for fault in unlike(*states))


@CASES
@pytest.mark.quick
@pytest.mark.route("board-x86_64", LITTLE, f"{LITTLE}/stock")
def test_same_as_stock(case: Case, save: Save) -> None:
    """A little-endian host's stream is the unpatched QEMU's, and each reads the other's."""
    if case.name == "am53c974":
        pytest.skip("the unpatched QEMU sends memory it never set in this device")
    fork, stock = Place(LITTLE), Place(LITTLE, stock=True)
    states = [save(place, board(case), case.provoke) for place in (fork, stock)]
    assert unlike(*states) == []
    for state in states:
        assert unlike(*(save(place, board(case), after=state) for place in (fork, stock))) == []


# Requests in flight

BLOCK = next(case for case in provoke.CASES if case.name == "virtio-blk")


def finish(case: Case, place: Place, state: State, folder: Path) -> tuple[int, int]:
    """Load a request in flight on a host whose disk works; return its status and buffer's sum."""
    good = replace(board(case), devices=provoke.good_disk(case.devices))
    with Bench(place, good, folder, incoming="defer") as machine:
        migration.load(machine, state)
        machine.qtest.write(provoke.DATA, b"\xee" * 512)
        machine.qmp.execute("cont")
        provoke.wait(lambda: machine.qtest.read(provoke.STATUS, 1) != b"\xff", "the request")
        return (machine.qtest.read(provoke.STATUS, 1)[0],
                sum(machine.qtest.read(provoke.DATA, 512)))


@pytest.mark.parametrize("case", [BLOCK, provoke.PACKED], ids=lambda case: case.name)
@pytest.mark.route("board-x86_64", LITTLE, BIG)
def test_request_in_flight(case: Case, save: Save, folder: Path) -> None:
    """What was taken from the queue on one host is answered on the other."""
    for start, end in (places(LITTLE, BIG), places(BIG, LITTLE)):
        state = save(start, board(case), case.provoke)
        assert finish(case, end, state, folder / start.arch) == (0, 0)


@pytest.mark.route("board-x86_64", LITTLE, stock=True)
def test_stock_reads_a_packed_request_wrongly(save: Save, folder: Path) -> None:
    place = Place(LITTLE, stock=True)
    state = save(place, board(provoke.PACKED), provoke.PACKED.provoke)
    with pytest.raises((Lost, migration.MigrationFailed, AssertionError, MachineError)):
        assert finish(provoke.PACKED, place, state, folder / "there") == (0, 0)


@pytest.mark.route("board-x86_64", LITTLE, BIG, stock=True)
def test_stock_asserts_on_a_foreign_request(save: Save, folder: Path) -> None:
    start, end = places(LITTLE, BIG, stock=True)
    with pytest.raises(migration.MigrationFailed, match="data.in_num|Assertion"):
        finish(BLOCK, end, save(start, board(BLOCK), BLOCK.provoke), folder / "there")


def damage(state: State, folder: Path, position: int, value: int) -> State:
    """Change one 32-bit word of the element in flight."""
    data = state.read_bytes()
    element = data.find(struct.pack("<IIIIQQ", 0, 1, 2, 0, provoke.DATA, provoke.STATUS))
    assert element > 0
    at = element + 4 * position
    bad = folder / "bad"
    bad.write_bytes(data[:at] + struct.pack("<I", value) + data[at + 4:])
    return bad


@pytest.mark.quick
@pytest.mark.parametrize("position", [0, 1, 2], ids=["index", "out", "in"])
@pytest.mark.route("board-x86_64", LITTLE)
def test_malformed_request_is_refused(position: int, save: Save, folder: Path) -> None:
    state = save(Place(LITTLE), board(BLOCK), BLOCK.provoke)
    bad = damage(state, folder, position, 0x10000)
    with pytest.raises(migration.MigrationFailed, match="in flight is malformed"):
        finish(BLOCK, Place(LITTLE), bad, folder / "there")


@pytest.mark.route("board-x86_64", LITTLE, stock=True)
def test_stock_asserts_on_a_malformed_request(save: Save, folder: Path) -> None:
    place = Place(LITTLE, stock=True)
    bad = damage(save(place, board(BLOCK), BLOCK.provoke), folder, 2, 0x10000)
    with pytest.raises(migration.MigrationFailed, match="Assertion"):
        finish(BLOCK, place, bad, folder / "there")


# Whole machines as they are switched on

BOOT = ("-blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on",
        "-device", "virtio-blk-ccw,drive=disk,devno=fe.0.1234,bootindex=1")
PFLASH = ("-blockdev", "null-co,node-name=flash,size=131072,read-zeroes=on",
          "-device", "bochs-display,romfile=", "-device", "e1000e,romfile=")
MACHINES = (
    Board("pc", "x86_64", "pc-i440fx-10.0"),
    Board("q35", "x86_64", "pc-q35-10.0,pflash0=flash", PFLASH),
    Board("display", "x86_64", "pc-i440fx-10.0", ("-device", "vmware-svga,romfile=")),
    Board("microvm", "x86_64", "microvm,acpi=on"),
    Board("xics", "ppc64", "pseries-10.0,x-vof=on,ic-mode=xics", ("-cpu", "POWER9"), "256M"),
    Board("xive", "ppc64", "pseries-10.0,x-vof=on,ic-mode=xive", ("-cpu", "POWER9"), "256M"),
    Board("ccw", "s390x", "s390-ccw-virtio-10.0", BOOT, "256M"),
)


def _on(*places_: str, stock: bool = False, only: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("what", [
        pytest.param(one, id=one.name,
                     marks=pytest.mark.route(f"board-{one.arch}", *places_, stock=stock))
        for one in MACHINES if not only or one.name in only])


def check_same(what: Board, save: Save, *names: str) -> None:
    states = [save(place, what) for place in places(*names)]
    assert unlike(*states) == []
    for state in states:
        assert unlike(*(save(place, what, after=state) for place in places(*names))) == []


@_on(LITTLE, BIG)
def test_same_machine(what: Board, save: Save) -> None:
    check_same(what, save, LITTLE, BIG)


@_on(LITTLE, "ppc64")
def test_same_machine_on_powerpc(what: Board, save: Save) -> None:
    check_same(what, save, LITTLE, "ppc64")


@_on(LITTLE, "ppc64:64k")
def test_same_machine_with_large_pages(what: Board, save: Save) -> None:
    """Memory blocks have the guest's length: a state from 64K pages loads on 4K and back."""
    check_same(what, save, LITTLE, "ppc64:64k")


@_on(LITTLE, f"{LITTLE}/stock")
def test_same_machine_as_stock(what: Board, save: Save) -> None:
    if what.name == "display":
        pytest.skip("the unpatched QEMU sends memory it never set in this device")
    check_same(what, save, LITTLE, f"{LITTLE}/stock")


@_on(LITTLE, BIG, stock=True, only=("xive", "ccw"))
def test_stock_machine_differs(what: Board, save: Save) -> None:
    expected = {"xive": "spapr-xive/0: e", "ccw": "ipl/0: iplb"}[what.name]
    faults = unlike(*(save(place, what) for place in places(LITTLE, BIG, stock=True)))
    assert any(expected in fault for fault in faults), faults


# Defaults that the guest can see


def asked(place: Place, what: Board, folder: Path, path: str, name: str) -> object:
    with Bench(place, what, folder) as machine:
        return machine.qmp.execute("qom-get", {"path": path, "property": name})


GRANULE = Board("iommu", "x86_64", "pc-q35-10.0", ("-device", "virtio-iommu-pci,id=one"))
BLOCK_SIZE = Board("memory", "x86_64", "pc-q35-10.0",
                   ("-object", "memory-backend-ram,id=ram1,size=256M",
                    "-device", "virtio-mem-pci,id=one,memdev=ram1"), "64M,maxmem=1G")
DIMM = Board("dimm", "x86_64", "pc-q35-10.0",
             ("-object", "memory-backend-ram,id=ram1,size=129M",
              "-device", "pc-dimm,memdev=ram1"), "64M,slots=2,maxmem=1G")


@pytest.mark.parametrize("place", [LITTLE, BIG, "ppc64:64k"])
@pytest.mark.route("board-x86_64", LITTLE, BIG, "ppc64:64k")
def test_defaults(place: str, folder: Path) -> None:
    where = Place.parse(place)
    device = "/machine/peripheral/one"
    assert asked(where, GRANULE, folder / "a", device, "granule") == "4k"
    assert asked(where, BLOCK_SIZE, folder / "b", device, "block-size") == 2 << 20
    with pytest.raises(MachineError, match="must be multiple of 0x200000"):
        Bench(where, DIMM, folder / "c").stop()


@pytest.mark.route("board-x86_64", BIG, stock=True)
def test_stock_defaults_follow_the_host(folder: Path) -> None:
    place = Place(BIG, stock=True)
    assert asked(place, GRANULE, folder / "a", "/machine/peripheral/one", "granule") == "host"
    with Bench(place, DIMM, folder / "b") as machine:
        assert machine.qmp.execute("query-memory-devices")


# What is refused, and what starts

CACHES = Board("caches", "x86_64", "pc-q35-10.0", ("-cpu", "max,host-cache-info=on", "-S"),
               accel="tcg")


@pytest.mark.quick
@pytest.mark.route("board-x86_64", LITTLE)
def test_host_cache_info_is_refused(folder: Path) -> None:
    with pytest.raises(MachineError, match="host-cache-info=on would show"):
        Bench(Place(LITTLE), CACHES, folder / "m").stop()


def elf_with_note(path: Path) -> Path:
    """Write a 64-bit ELF kernel of one instruction whose entry a PVH note tells."""
    code, note = b"\xf4".ljust(16, b"\0"), struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x100000)
    head = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0x1000, 0x100000, 0x100000, len(code), len(code), 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 0x1100, 0, 0, len(note), len(note), 4)
    path.write_bytes((head + load + notes).ljust(0x1000, b"\0") + code.ljust(0x100, b"\0") + note)
    return path


def pvh(folder: Path) -> Board:
    return Board("pvh", "x86_64", "pc-q35-10.0",
                 ("-kernel", str(elf_with_note(folder / "kernel"))))


@pytest.mark.route("board-x86_64", LITTLE, BIG)
def test_pvh_kernel_starts(folder: Path) -> None:
    for place in places(LITTLE, BIG):
        with Bench(place, pvh(folder), folder / place.arch) as machine:
            assert machine.qtest.read(0x100000, 1) == b"\xf4"      # the loader has put it there


@pytest.mark.route("board-x86_64", BIG, stock=True)
def test_stock_finds_no_note(folder: Path) -> None:
    with pytest.raises(MachineError, match="PVH ELF Note"):
        Bench(Place(BIG, stock=True), pvh(folder), folder / "m").stop()
