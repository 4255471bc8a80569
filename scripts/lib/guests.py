# SPDX-License-Identifier: GPL-2.0-or-later
"""The test guests: what they are made of, and the QEMU arguments that start them.

Theory of operation.  A guest is a folder in the cache: a kernel, an initramfs or a program of
our own, sometimes a disk.  What it is made of (tests/guests) and the exact versions of the
distribution's packages make its stamp, so a changed agent or a kernel update makes a new one.
Guest.arguments() names everything that a migration's two sides must agree on: a versioned
machine, an explicit processor, fixed device ids.  It leaves open what differs between the sides:
the host's ends of the console, the agent's port and the network, which the caller defines under
the ids given in Guest.arguments().
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from say import Failure

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = CHECKOUT / "tests" / "guests"
sys.path.insert(0, str(SOURCES / "make"))

MAC = "52:54:00:51:53:01"


@dataclass(frozen=True)
class Machine:
    """What QEMU emulates for the guests of one architecture."""
    machine: str
    cpu: str
    console: str
    bus: str = "pci"                    # what the names of virtio devices end with
    extra: tuple[str, ...] = ()

    def device(self, kind: str, **options: str) -> str:
        return ",".join([f"virtio-{kind}-{self.bus}", *(f"{k}={v}" for k, v in options.items())])


MACHINES = {
    "x86_64": Machine("pc-q35-10.0", "Nehalem", "ttyS0", extra=("-device", "vmcoreinfo")),
    "aarch64": Machine("virt-10.0,gic-version=2", "cortex-a57", "ttyAMA0",
                       extra=("-device", "vmcoreinfo")),
    # x-vof: a kernel started in the time that the full firmware takes for its greeting
    "ppc64": Machine("pseries-10.0,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,"
                     "cap-ccf-assist=off", "POWER9", "hvc0"),
    "s390x": Machine("s390-ccw-virtio-10.0", "qemu", "ttysclp0", bus="ccw"),
}


@dataclass(frozen=True)
class Guest:
    """A guest that is built and can be started."""
    name: str
    arch: str
    kernel: Path
    initrd: Path | None
    append: str
    disk: Path | None
    machine: str
    cpu: str
    qemu: str
    folder: Path
    memory_mb: int = 256
    has_agent: bool = True

    def arguments(self, memory_mb: int | None = None, disk: Path | str | None = None,
                  net: bool | str = True, *, cpus: int = 1, append: str = "",
                  agent: bool = True) -> list[str]:
        """The QEMU arguments of this guest, without the program's name.

        The caller adds the backends: -chardev with id=serial0 (console), -chardev with id=agent0
        (the agent's port; not when AGENT is false or the guest has none), -netdev with id=net0
        (not when NET is false).  DISK is an image, or the node name of a -blockdev that the
        caller adds; a guest with an image of its own needs one: see overlay().  NET may name
        another card, "e1000".  Device ids: nic0, disk0, rng0, serialbus0, agentport0.
        """
        spec = MACHINES[self.arch]
        argv = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-accel", "tcg", "-machine", self.machine, "-cpu", self.cpu,
                "-smp", str(cpus), "-m", str(memory_mb or self.memory_mb),
                "-serial", "chardev:serial0", "-kernel", str(self.kernel)]
        if self.initrd:
            argv += ["-initrd", str(self.initrd)]
        if line := f"{self.append} {append}".strip():
            argv += ["-append", line]
        argv += self._disk_arguments(spec, disk)
        if not self.has_agent:
            return argv
        argv += [*spec.extra, "-device", spec.device("rng", id="rng0")]
        if agent:
            argv += ["-device", spec.device("serial", id="serialbus0", max_ports="2"), "-device",
                     "virtserialport,id=agentport0,chardev=agent0,name=org.quasar.agent"]
        if net:
            argv += ["-device", _card(spec, net)]
        return argv

    def overlay(self, image: Path) -> Path:
        """Write IMAGE, an empty qcow2 on top of this guest's own disk, for one use of it."""
        if self.disk is None:
            raise Failure(f"the guest {self.name} has no disk of its own")
        import qcow2
        qcow2.overlay(self.disk, image)
        return image

    def _disk_arguments(self, spec: Machine, disk: Path | str | None) -> list[str]:
        if disk is None:
            if self.disk is not None:
                raise Failure(f"the guest {self.name} starts from a disk",
                              "the one in the cache must not change: use Guest.overlay()")
            return []
        argv, node = [], str(disk)
        if isinstance(disk, Path):
            node = "disk0"
            kind = "qcow2" if disk.suffix == ".qcow2" else "raw"
            argv = ["-blockdev", f"driver={kind},node-name={node},file.driver=file,"
                    f"file.filename={str(disk).replace(',', ',,')}"]
        return [*argv, "-device", spec.device("blk", id="disk0", drive=node)]


def _card(spec: Machine, net: bool | str) -> str:
    options = {"id": "nic0", "netdev": "net0", "mac": MAC}
    if spec.bus == "pci":
        options["romfile"] = ""          # an installed boot ROM would be part of the state
    if net is True:
        return spec.device("net", **options)
    return ",".join([str(net), *(f"{k}={v}" for k, v in options.items())])


@dataclass(frozen=True)
class Kind:
    """How guests of a kind are made."""
    about: str
    arches: tuple[str, ...]


KINDS = {
    "linux": Kind("Debian's kernel with busybox and the agent", tuple(MACHINES)),
    "debian": Kind("a Debian root file system with systemd and ssh", ("x86_64",)),
    "bare": Kind("a program of our own that dirties memory at once", tuple(MACHINES)),
}


def names() -> list[str]:
    return [f"{kind}-{arch}" for kind, spec in KINDS.items() for arch in spec.arches]


def split(name: str) -> tuple[str, str]:
    """Kind and architecture of a guest's name."""
    kind, _, arch = name.partition("-")
    if name not in names():
        raise Failure(f"there is no guest {name}", "guests: " + " ".join(names()), 2)
    return kind, arch


def _guest(name: str, folder: Path, append: str, *, memory_mb: int = 256,
           has_agent: bool = True, disk: Path | None = None) -> Guest:
    arch = split(name)[1]
    spec = MACHINES[arch]
    initrd = folder / "initrd"
    return Guest(name=name, arch=arch, kernel=folder / "kernel",
                 initrd=initrd if initrd.exists() else None, append=append, disk=disk,
                 machine=spec.machine, cpu=spec.cpu, qemu=f"qemu-system-{arch}", folder=folder,
                 memory_mb=memory_mb, has_agent=has_agent)


def build(name: str, disk_gib: int = 2) -> Guest:
    """Return a guest, made when it is not in the cache; DISK_GIB is the Debian guest's."""
    kind, arch = split(name)
    if kind == "linux":
        import linux
        memory_mb = 512 if arch == "ppc64" else 256       # drivers take 140 MiB in 64K pages
        return _guest(name, linux.build(arch), linux.append(arch, MACHINES[arch].console),
                      memory_mb=memory_mb)
    if kind == "bare":
        import bare
        memory_mb = 256 if arch == "ppc64" else 64        # pseries takes nothing smaller
        return _guest(name, bare.build(arch), "", memory_mb=memory_mb, has_agent=False)
    import debian_root
    folder = debian_root.build(disk_gib)
    return _guest(name, folder, debian_root.APPEND, memory_mb=512, disk=folder / "disk.qcow2")


def table() -> list[dict]:
    """What there is: one row a guest."""
    import cache
    rows = []
    for name in names():
        kind, arch = split(name)
        found = [m for m in (cache.root() / "guest").glob(f"{name}-*.manifest")]
        rows.append({"name": name, "arch": arch, "about": KINDS[kind].about,
                     "built": bool(found), "machine": MACHINES[arch].machine,
                     "cpu": MACHINES[arch].cpu})
    return rows
