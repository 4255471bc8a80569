# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the fork's audit over everything that it can emulate: scripts/qemu-tree audit.

Theory of operation.  QEMU itself walks the descriptions of state and knows the review (see
qemu/overlay/migration/portability); here it is only given each machine and device to look at.
What a device type describes is seen without making one (`types`); what a board or a device adds
while it is made, only by making it.  A device that says which back end it lacks gets an empty one
and is tried again.  The fork's own device with planted faults must be found, or the audit is blind.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from typing import Any

from say import Failure

Command = Callable[[list[str]], tuple[list[str], dict[str, str]]]
Finding = dict[str, Any]
Key = tuple[str, str, str, str, int]

PROBE = "quasar-audit-probe"
TIMEOUT = 30                # seconds for one QEMU, which takes a tenth of one
TRIES = 4                   # a device may lack more than one thing
# What devices are tried on, each on the first that takes it
MACHINES = {"x86_64": ("q35", "pc"), "aarch64": ("virt",), "ppc64": ("pseries", "mac99"),
            "s390x": ("s390-ccw-virtio",)}
# What a device says that it lacks, and what it is given: arguments, then its own property
LACKS = (
    (r"[Nn]o drive specified|drive property not set|needs media|needs a drive|'drive'",
     ("-blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on"), "drive=disk"),
    (r"[Cc]hardev|char device", ("-chardev", "null,id=chr"), "chardev=chr"),
    (r"No 'SCSI' bus", ("-device", "virtio-scsi"), ""),
    (r"No 'usb-bus' bus", ("-device", "qemu-xhci"), ""),
    (r"No 'virtio-serial-bus' bus", ("-device", "virtio-serial"), ""),
    (r"No 'ccid-bus' bus", ("-device", "qemu-xhci", "-device", "usb-ccid"), ""),
    (r"No 'HDA' bus", ("-device", "ich9-intel-hda"), ""),
    (r"No 'sd-bus' bus", ("-device", "sdhci-pci"), ""),
    (r"No 'IndustryPack' bus", ("-device", "tpci200"), ""),
    (r"audio driver", ("-audiodev", "none,id=sound"), "audiodev=sound"),
    (r"no slots|for memory devices", ("-m", "256M,maxmem=1G,slots=2"), ""),
    (r"memdev", ("-object", "memory-backend-ram,id=memory,size=128M"), "memdev=memory"),
    (r"cryptodev", ("-object", "cryptodev-backend-builtin,id=crypto"), "cryptodev=crypto"),
    (r"can_sja_connect", ("-object", "can-bus,id=can"), "canbus=can"),
    (r"bmc attribute", ("-device", "ipmi-bmc-sim,id=bmc"), "bmc=bmc"),
    (r"[Cc]hassis", (), "chassis_nr=1"),
    (r"only.*PCI Express|must be.*root port|hotplug.*slot", ("-device", "pcie-root-port,id=port"),
     "bus=port"),
)


@dataclass
class Result:
    """What was seen of one guest architecture."""

    guest: str
    machines: int = 0
    devices: int = 0
    not_started: list[str] = field(default_factory=list)
    fields: set[Key] = field(default_factory=set)
    reviewed: dict[Key, Finding] = field(default_factory=dict)
    depend: dict[Key, Finding] = field(default_factory=dict)
    unknown: dict[Key, Finding] = field(default_factory=dict)
    probe: set[str] = field(default_factory=set)

    def take(self, where: str, findings: Iterable[Finding]) -> None:
        for one in findings:
            if one["state"].startswith(PROBE):
                if not one["neutral"]:
                    self.probe.add(one["field"])
                continue
            key = (one["state"], one["field"], one["kind"], one["type"], one["size"])
            self.fields.add(key)
            if one["kind"] == "typed" or key in self.depend:
                continue
            kinds = self.unknown if "reason" not in one else \
                self.reviewed if one["neutral"] else self.depend
            kinds.setdefault(key, {**one, "where": where})

    def faults(self) -> list[str]:
        """Say what must not be so."""
        found = [f"{self.guest}: {one['where']}: {_words(one)}: not reviewed"
                 for one in self.unknown.values()]
        if not {"planted", "hidden"} <= self.probe:
            found.append(f"{self.guest}: the audit does not see the faults planted in {PROBE}")
        if not self.fields:
            found.append(f"{self.guest}: the audit saw nothing")
        return found


def _words(one: Finding) -> str:
    return (f"{one['state']}: {one['field']} ({one['kind']}, type {one['type']}, "
            f"{one['size']} bytes)")


class Qemu:
    """One guest architecture's QEMU, started anew for each question."""

    def __init__(self, guest: str, command: Command):
        self.guest = guest
        self._argv, self._environment = command([f"qemu-system-{guest}"])

    def _start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen([*self._argv, "-nodefaults", "-display", "none", *arguments],
                                env=self._environment, text=True, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def names(self, option: str) -> list[str]:
        """List the machine types, or the devices of a machine."""
        words = ("help",) if option == "-machine" else (option, "-device", "help")
        text, _ = self._start("-machine", *words).communicate(timeout=TIMEOUT)
        if option == "-machine":
            return [line.split()[0] for line in text.splitlines()[1:]
                    if line and "(alias of" not in line]
        return re.findall(r'^name "([^"]+)"', text, re.M)

    def ask(self, *arguments: str, **which: bool) -> tuple[list[Finding] | None, str]:
        """Return what the audit finds in a machine, or None and why it did not start."""
        orders = ({"execute": "qmp_capabilities"},
                  {"execute": "query-quasar-portability", "arguments": {"all": True, **which}})
        process = self._start("-accel", "qtest", "-S", "-qmp", "stdio", *arguments)
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("".join(json.dumps(order) + "\n" for order in orders))
                process.stdin.flush()
            for line in process.stdout:
                answer = json.loads(line).get("return")
                if answer and "fields" in answer:
                    if answer["truncated"]:
                        raise Failure(f"the audit's list of {arguments} was cut short")
                    return answer["fields"], ""
            said = process.stderr.read().strip().splitlines()
            return None, said[-1] if said else "it ended without a word"
        finally:
            timer.cancel()
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.communicate()

    def try_device(self, name: str) -> tuple[str, list[Finding] | None]:
        """Make a device on the first machine that takes it, with empty back ends."""
        for machine in MACHINES[self.guest]:
            extra: tuple[str, ...] = ()
            device, given = name, set()
            for _ in range(TRIES):
                findings, why = self.ask("-machine", machine, *extra, "-device", device)
                if findings is not None:
                    return f"{name} on {machine}", findings
                for lack, arguments, its_own in LACKS:
                    if re.search(lack, why) and lack not in given:
                        given.add(lack)
                        extra += arguments
                        device += f",{its_own}" if its_own else ""
                        break
                else:
                    break
        return name, None


def newest(machines: list[str]) -> list[str]:
    """Of each versioned machine type keep the first, which is the newest."""
    families: dict[str, str] = {}
    for name in machines:
        families.setdefault(re.sub(r"-\d+\.\d+$", "", name), name)
    return [name for name in families.values() if name != "none"]


def devices_of(guest: str, command: Command) -> set[str]:
    """Name the devices that are tried for one guest architecture."""
    qemu = Qemu(guest, command)
    return {name for machine in MACHINES[guest] for name in qemu.names(machine)
            if not name.endswith("-cpu")}


def run(guest: str, command: Command, quick: bool = False,
        known: Set[str] = frozenset()) -> Result:
    """Audit one guest architecture.

    QUICK: all device types, but only the main machines are made, and no device.  KNOWN: devices
    not to be made, for they were with another guest.
    """
    qemu, result = Qemu(guest, command), Result(guest)
    types, why = qemu.ask("-machine", "none", types=True)
    if types is None:
        raise Failure(f"qemu-system-{guest} does not answer: {why}")
    result.take("device types", types)
    machines = list(MACHINES[guest]) if quick else newest(qemu.names("-machine"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, (findings, _) in zip(machines, pool.map(
                lambda name: qemu.ask("-machine", name), machines)):
            if findings is None:
                result.not_started.append(f"machine {name}")
            else:
                result.machines += 1
                result.take(f"machine {name}", findings)
        devices = [] if quick else sorted(devices_of(guest, command) - known)
        for where, findings in pool.map(qemu.try_device, devices):
            if findings is None:
                result.not_started.append(where)
            else:
                result.devices += 1
                result.take(where, findings)
    return result


def table(results: list[Result], verbose: bool = False) -> str:
    lines = [f"{'guest':8} {'machines':>8} {'devices':>8} {'not made':>8} {'fields':>8} "
             f"{'reviewed':>8} {'depend':>8} {'unknown':>8}"]
    for one in results:
        numbers = (one.machines, one.devices, len(one.not_started), len(one.fields),
                   len(one.reviewed), len(one.depend), len(one.unknown))
        lines.append(f"{one.guest:8} " + " ".join(f"{number:8}" for number in numbers))
    depend = {key: one for result in results for key, one in result.depend.items()}
    if depend:
        lines += ["", "refused between unlike hosts:"]
        lines += [f"    {_words(one)}: {one['reason']}" for one in depend.values()]
    if verbose:
        for result in results:
            lines += ["", f"{result.guest}, reviewed:"]
            lines += [f"    {_words(one)}: {one['reason']}" for one in result.reviewed.values()]
            lines += [f"{result.guest}, not made: {', '.join(result.not_started) or 'none'}"]
    return "\n".join(lines)
