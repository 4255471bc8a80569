# SPDX-License-Identifier: GPL-2.0-or-later
"""A state tells which host wrote it, and what depends on a host does not leave it.

`quasar-audit-probe` is a device of the fork's own with planted faults: bytes of memory, the same
inside a structure of a subsection that is not sent, a timer of the host's clock.  `gus` is a real
one whose state is known to depend on the host.
"""

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import migration
import pytest
from bench import Bench, Board
from migration import MigrationFailed
from places import Place
from qmp import QmpError

import audit

HERE, STOCK = Place("x86_64"), Place("x86_64", stock=True)
STRICT = ("-global", "migration.quasar-portability=strict")
PROBE = ("-device", "quasar-audit-probe")
GUS = ("-audiodev", "none,id=sound", "-device", "gus,audiodev=sound")
CARD = ("-device", "e1000,romfile=")
PLANTED = {("quasar-audit-probe", "planted", "blob"), ("quasar-audit-probe", "timer", "host-clock"),
           ("quasar-audit-probe/inner", "hidden", "blob")}
FIRST = "x86_64"            # whose devices are all made
HEAD = 9                    # magic, version, the mark of the configuration; then a length
FOREIGN = {"arch": "ppc64le", "order": "little", "page-size": "65536",
           "program": "Quasar 10.0.13+35"}

pytestmark = [pytest.mark.quick, pytest.mark.route("board-x86_64", "x86_64")]


def board(*devices: str, machine: str = "pc-i440fx-10.0", arch: str = "x86_64") -> Board:
    return Board(f"board-{arch}", arch, machine, devices, "256M" if arch != "x86_64" else "64M")


Start = Callable[..., Bench]


@pytest.fixture
def folder(run_folder: Path) -> Path:
    path = run_folder / f"audit{len(list(run_folder.iterdir()))}"
    path.mkdir()
    return path


@pytest.fixture
def start(folder: Path):
    """Start boards that end with the test."""
    made: list[Bench] = []

    def get(place: Place, what: Board, incoming: str | None = None) -> Bench:
        made.append(Bench(place, what, folder / f"vm{len(made)}", incoming=incoming))
        return made[-1]

    yield get
    for machine in made:
        machine.stop()


@pytest.fixture
def state(start: Start, folder: Path) -> Callable[..., Path]:
    """Save a board that was just started."""

    def get(*devices: str, place: Place = HERE) -> Path:
        path = folder / f"state{len(list(folder.iterdir()))}"
        migration.save(start(place, board(*devices)), path)
        return path

    return get


def name_of(data: bytes) -> bytes:
    (length,) = struct.unpack_from(">I", data, HEAD)
    return data[HEAD + 4:HEAD + 4 + length]


def facts(path: Path) -> dict[str, str]:
    machine, _, note = name_of(path.read_bytes()).partition(b"\0")
    assert machine == b"pc-i440fx-10.0"
    lines = note.decode().splitlines()
    assert lines[0] == "quasar-host 1"
    return dict(line.split("=", 1) for line in lines[1:])


def renamed(path: Path, name: bytes) -> Path:
    """Give a state another machine's name, or what stands in its place."""
    data = path.read_bytes()
    other = path.with_suffix(".renamed")
    other.write_bytes(data[:HEAD] + struct.pack(">I", len(name)) + name
                      + data[HEAD + 4 + len(name_of(data)):])
    return other


def noted(path: Path, said: dict[str, str]) -> Path:
    lines = "".join(f"{key}={value}\n" for key, value in said.items())
    return renamed(path, b"pc-i440fx-10.0\0quasar-host 1\n" + lines.encode())


def load(start: Start, path: Path, *devices: str, place: Place = HERE) -> Bench:
    machine = start(place, board(*devices), "defer")
    migration.load(machine, path)
    return machine


def refused(start: Start, path: Path, *devices: str) -> str:
    """Load a state that must not arrive; return all that QEMU said about it."""
    machine = start(HERE, board(*devices), "defer")
    with pytest.raises(MigrationFailed):
        migration.load(machine, path)
    machine.process.wait(10)
    return machine.stderr()


# The host's facts


def test_state_tells_its_host(start: Start, state: Callable[..., Path]) -> None:
    said = facts(state())
    version = start(HERE, board()).qmp.execute("query-version")
    assert said["arch"] == "x86_64" and said["order"] == "little"
    assert int(said["page-size"]) == os.sysconf("SC_PAGESIZE")
    assert said["program"] == version["package"] and "Quasar" in said["program"]
    assert said["base"] == ".".join(str(version["qemu"][k]) for k in ("major", "minor", "micro"))


def test_refusal_tells_where_it_was_saved(start: Start, state: Callable[..., Path]) -> None:
    path = noted(state(*CARD), FOREIGN)
    said = refused(start, path)
    assert "0000:00:02.0/e1000" in said
    assert "Invalid argument; saved on ppc64le with 64K pages by Quasar 10.0.13+35\n" in said


@pytest.mark.parametrize("name", [
    b"arch=x86_64\norder=little\n",
    b"arch=x86_64\norder=little\npage-size=4095\n",
    b"arch=x86_64\norder=little\npage-size=99999999999999999999\n",
    b"arch=" + b"x" * 100 + b"\norder=little\npage-size=4096\n",
    b"arch=\x1b[2J\norder=little\npage-size=4096\n",
    b"arch=x86_64\norder=little\npage-size=4096\n" + b"more=less\n" * 1000,
], ids=["incomplete", "odd-page", "huge-page", "long-value", "unprintable", "long-note"])
def test_damaged_note_is_refused(name: bytes, start: Start, state: Callable[..., Path]) -> None:
    path = renamed(state(), b"pc-i440fx-10.0\0quasar-host 1\n" + name)
    assert "the state's note of its host is damaged" in refused(start, path)


@pytest.mark.parametrize("note", [b"", b"\0", b"\0something else",
                                  b"\0quasar-host 1\narch=x86_64\norder=little\npage-size=4096\n"
                                  b"news=from a later Quasar\n"],
                         ids=["none", "empty", "unknown", "with-more"])
def test_other_notes_are_skipped(note: bytes, start: Start, state: Callable[..., Path]) -> None:
    load(start, renamed(state(), b"pc-i440fx-10.0" + note))


@pytest.mark.route("board-x86_64", "x86_64", "x86_64/stock")
def test_stock_reads_it_and_is_read(start: Start, state: Callable[..., Path]) -> None:
    ours, theirs = state(*CARD), state(*CARD, place=STOCK)
    assert b"quasar-host" in name_of(ours.read_bytes())
    assert name_of(theirs.read_bytes()) == b"pc-i440fx-10.0"
    load(start, ours, *CARD, place=STOCK)
    load(start, theirs, *CARD)
    with pytest.raises(MigrationFailed, match="Machine type received is 'pc-i440fx-9.2'"):
        load(start, renamed(ours, name_of(ours.read_bytes()).replace(b"-10.0", b"-9.2", 1)),
             *CARD, place=STOCK)


# The audit


def found(machine: Bench) -> set[tuple[str, str, str]]:
    answer = machine.qmp.execute("query-quasar-portability")
    assert answer["neutral"] == (not answer["fields"])
    return {(f["state"], f["field"], f["kind"]) for f in answer["fields"]}


def test_planted_faults_are_found(start: Start) -> None:
    machine = start(HERE, board(*PROBE))
    assert found(machine) == PLANTED
    everything = machine.qmp.execute("query-quasar-portability", {"all": True})
    assert everything["count"] == len(everything["fields"]) > 300
    typed = [f for f in everything["fields"] if f["device"] == "quasar-audit-probe"]
    assert {f["field"]: f["neutral"] for f in typed} == {
        "typed": True, "planted": False, "timer": False, "hidden": False}
    assert all(f.get("reason") for f in everything["fields"]
               if f["neutral"] and f["kind"] != "typed")


def test_virtio_is_looked_into(start: Start) -> None:
    """A virtio device's state has two descriptions, of which QEMU knows one."""
    machine = start(HERE, board("-device", "virtio-net-pci,romfile="))
    fields = machine.qmp.execute("query-quasar-portability", {"all": True})["fields"]
    assert {"mac_table.macs", "curr_guest_offloads", "virtio"} <= {f["field"] for f in fields}
    assert found(machine) == set()


def test_strict_refuses_to_send(start: Start, folder: Path) -> None:
    machine = start(HERE, board(*PROBE, *STRICT))
    with pytest.raises(QmpError, match="-probe', field 'planted'.*stays where.*unplug"):
        machine.qmp.execute("migrate", {"uri": f"file:{folder}/state"})
    assert not (folder / "state").exists()
    machine.qmp.execute("quasar-set-portability", {"policy": "off"})
    migration.save(machine, folder / "state")
    assert "depend" not in machine.stderr()


def test_strict_refuses_snapshots(start: Start, folder: Path) -> None:
    argv, environment = HERE.command(["qemu-img", "create", "-q", "-f", "qcow2",
                                      str(folder / "disk"), "1M"])
    subprocess.run(argv, env=environment, check=True)
    machine = start(HERE, board(*PROBE, *STRICT, "-drive", f"if=ide,file={folder}/disk"))
    said = machine.qmp.execute("human-monitor-command", {"command-line": "savevm one"})
    assert "field 'planted'" in said
    machine.qmp.execute("quasar-set-portability", {"policy": "off"})
    for command in ("savevm one", "loadvm one"):
        assert not machine.qmp.execute("human-monitor-command", {"command-line": command})


def test_warning(start: Start, state: Callable[..., Path]) -> None:
    """Between like hosts a device that depends on them may go, with a warning at both ends."""
    path = state(*PROBE)
    machine = load(start, path, *PROBE)
    assert "may depend on its host: device 'quasar-audit-probe'" in machine.stderr()
    quiet = load(start, state(*CARD), *CARD)
    assert "depend" not in quiet.stderr()


@pytest.mark.parametrize("said", [FOREIGN, {**FOREIGN, "arch": "s390x", "order": "big"}],
                         ids=["pages", "order"])
def test_unlike_host_is_refused_on_arrival(said: dict[str, str], start: Start,
                                           state: Callable[..., Path]) -> None:
    path = noted(state(*PROBE), said)
    assert "state depends on its host: device 'quasar-audit-probe'" in refused(start, path, *PROBE)
    load(start, noted(state(*CARD), said), *CARD)
    machine = start(HERE, board(*PROBE), "defer")
    machine.qmp.execute("quasar-set-portability", {"policy": "warn"})
    migration.load(machine, path)


@pytest.mark.route("board-x86_64", "x86_64", "s390x")
def test_session_refuses_before_it_sends(start: Start) -> None:
    """A session's source knows the other host: it refuses before a byte of the machine goes."""
    here = start(HERE, board(*GUS))
    there = start(Place("s390x"), board(*GUS), "defer")
    with pytest.raises(MigrationFailed, match="device 'gus', field 'himem'.*the other side s390x"):
        migration.migrate(here, there, "quasar-unix")
    assert here.qmp.execute("query-quasar")["plain-sent"] == 0
    assert here.qmp.execute("query-status")["status"] == "running"


COMMON = (
    board("-device", "e1000,romfile=", "-device", "virtio-net-pci,romfile=", "-device", "ahci",
          "-device", "virtio-scsi-pci", "-device", "virtio-rng-pci", "-device",
          "virtio-balloon-pci", "-device", "virtio-serial", "-device", "virtio-gpu-pci",
          "-device", "qemu-xhci", "-device", "usb-tablet", "-device", "vmcoreinfo",
          "-device", "lsi53c895a", "-device", "am53c974", "-device", "pvscsi", "-vga", "std",
          "-netdev", "user,id=net", "-device", "rtl8139,netdev=net,romfile="),
    board("-vga", "vmware", machine="pc-q35-10.0"),
    board(machine="microvm,acpi=on"),
)


@pytest.mark.parametrize("what", COMMON, ids=lambda what: what.machine)
def test_common_machines_are_neutral(what: Board, start: Start) -> None:
    assert found(start(HERE, what)) == set()


@pytest.mark.parametrize("guest", audit.MACHINES)
def test_every_device_is_reviewed(guest: str, pytestconfig: pytest.Config) -> None:
    """Each device type; and in the whole suite what each machine and device adds when made.

    A device that x86_64 guests have as well is made for them alone; `scripts/qemu-tree audit` makes
    it for each.
    """
    if not HERE.is_built([guest]):
        pytest.skip(f"the host x86_64 is not built for {guest} guests")
    quick = pytestconfig.getoption("--quick")
    known = set() if quick or guest == FIRST else audit.devices_of(FIRST, HERE.command)
    result = audit.run(guest, HERE.command, quick, known)
    print(audit.table([result], verbose=True))
    assert result.faults() == []
    assert result.machines >= 1 and len(result.fields) > 400
    assert quick or result.devices > (40 if guest == FIRST else 0)
