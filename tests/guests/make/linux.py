# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux guests: Debian's kernel, an initramfs of busybox, a few modules and our agent."""

import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path

import cache
import kernel
import newc
from debian import Apt, unpack_deb
from say import Failure, run

SOURCES = Path(__file__).resolve().parents[1]
MAKE = SOURCES / "make"

DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "ppc64": "ppc64el", "s390x": "s390x"}
IMAGES = {"x86_64": "linux-image-amd64", "aarch64": "linux-image-arm64",
          "ppc64": "linux-image-powerpc64le", "s390x": "linux-image-s390x"}
TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu",
            "ppc64": "powerpc64le-linux-gnu", "s390x": "s390x-linux-gnu"}

# Loaded at once, before the devices on the buses are looked at.
FIRST = {"x86_64": ["virtio_pci", "qemu_fw_cfg"],
         "aarch64": ["virtio_pci", "virtio_mmio", "qemu_fw_cfg", "rtc_pl031"],
         "ppc64": ["virtio_pci"],
         "s390x": []}

# In the initramfs, loaded when a device asks for them.
DRIVERS = ["virtio_net", "virtio_blk", "virtio_console", "virtio_balloon", "virtio_rng",
           "virtio_scsi", "sd_mod", "ahci", "e1000", "e1000e", "ext4", "crc32c_generic",
           "ibmveth", "ibmvscsi", "vmw_pvscsi"]

APPLETS = ["sh", "cat", "dd", "hexdump", "ip", "ls", "mkdir", "modprobe", "mount", "ps",
           "switch_root", "sync", "udhcpc", "umount", "wget"]

QUICK = "quiet loglevel=3 panic=-1 mitigations=off nokaslr random.trust_cpu=on audit=0"
EXTRA = {"x86_64": "tsc=reliable clocksource=tsc no_timer_check",
         "aarch64": "", "ppc64": "", "s390x": ""}

CFLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-static", "-pthread", "-s", "-Wall", "-Wextra",
          "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wwrite-strings", "-Werror"]


def append(arch: str, console: str) -> str:
    return f"console={console} {QUICK} {EXTRA[arch]}".strip()


def _image_package(apt: Apt, meta: str) -> str:
    """The real kernel package behind the meta package."""
    found = [p for p in apt.closure([meta]) if re.match(r"linux-image-\d", p)]
    if len(found) != 1:
        raise Failure(f"{meta} of Debian {apt.release} needs {len(found)} kernel images")
    return found[0]


def _x86_image(image: bytes, work: Path) -> bytes:
    elf = kernel.x86_elf(image)
    run([f"{TRIPLETS['x86_64']}-gcc", "-nostdlib", "-no-pie", f"-DENTRY={kernel.entry(elf):#x}",
         "-Wl,--build-id=none", "-Wl,-z,noexecstack", f"-Wl,-Ttext={kernel.LOAD_ADDRESS:#x}",
         "-Wl,--oformat=binary", "-o", work / "start", SOURCES / "x86" / "start.S"],
        log=work / "start.log", what="assembling the x86 kernel's start")
    return kernel.x86_placed(image, elf, (work / "start").read_bytes())


def _boot_image(arch: str, folder: Path, work: Path) -> bytes:
    image = kernel.only(folder, "boot/vmlinu[xz]-*").read_bytes()
    if arch == "x86_64":
        return _x86_image(image, work)
    if image.startswith(b"\x1f\x8b"):
        return gzip.decompress(image)
    return kernel.shrink(image) if image[:4] == b"\x7fELF" else image


def _choose_modules(arch: str, folder: Path) -> kernel.Modules:
    modules = kernel.Modules(folder)
    for name in FIRST[arch] + DRIVERS:
        modules.add(name)
    return modules


def kernel_folder(arch: str) -> Path:
    """The kernel, ready to boot, and its modules, ready to load."""
    apt = Apt(DEBIAN[arch])
    [deb] = apt.download([_image_package(apt, IMAGES[arch])])

    def build(work: Path, output: Path) -> None:
        unpack_deb(deb, work / "package")
        modules = _choose_modules(arch, work / "package")
        (output / "modules").mkdir()
        for name, module in modules.chosen.items():
            (output / "modules" / f"{name}.ko").write_bytes(module.data)
        (output / "modules" / "modules.dep").write_text(modules.dependencies())
        (output / "modules" / "modules.alias").write_text(modules.aliases())
        (output / "release").write_text(kernel.release(work / "package") + "\n")
        (output / "kernel").write_bytes(_boot_image(arch, work / "package", work))

    mark = cache.stamp(deb.name, MAKE / "kernel.py", SOURCES / "x86", *FIRST[arch], "", *DRIVERS)
    return cache.get("kernel", arch, mark, build, what=f"unpacking the kernel of {deb.name}")


def sysroot(arch: str) -> Path:
    """Headers and libraries of libc, enough to link static programs."""
    apt = Apt(DEBIAN[arch])
    debs = apt.download(["libc6-dev", "linux-libc-dev", "libc6"])

    def build(_work: Path, output: Path) -> None:
        apt.unpack(["libc6-dev", "linux-libc-dev", "libc6"], output)
        for unused in ("usr/share", "etc", "var"):
            shutil.rmtree(output / unused, ignore_errors=True)

    return cache.get("libc", arch, cache.stamp(*(deb.name for deb in debs)), build,
                     what=f"unpacking libc for {arch}")


def _own_headers(compiler: str) -> str:
    """Where the compiler's own headers are (stddef.h and the like)."""
    try:
        done = subprocess.run([compiler, "-print-file-name=include"], capture_output=True,
                              text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"{compiler} cannot be run: {error}", "run scripts/bootstrap") from error
    return done.stdout.strip()


def compile_agent(arch: str, work: Path, output: Path) -> None:
    """Compile the agent against our libc alone, whatever libc the machine's compiler has."""
    triplet = TRIPLETS[arch]
    compiler = f"{triplet}-gcc"
    include, libraries = sysroot(arch) / "usr/include", sysroot(arch) / "usr/lib" / triplet
    run([compiler, f"--sysroot={sysroot(arch)}", *CFLAGS, "-nostdinc",
         "-isystem", _own_headers(compiler), "-isystem", include / triplet, "-isystem", include,
         "-B", libraries, "-L", libraries, f"-ffile-prefix-map={SOURCES}=.", "-o", output,
         *sorted((SOURCES / "agent").glob("*.c"))],
        log=work / "agent.log", what=f"compiling the agent for {arch}")


def initramfs(arch: str, prepared: Path, busybox: bytes, agent: bytes) -> bytes:
    """Put the initramfs together; the same bytes for the same parts."""
    archive = newc.Archive()
    for folder in ("dev", "proc", "sys", "disk", "etc", "tmp"):
        archive.folder(folder)
    archive.character("dev/console", 5, 1)
    script = (SOURCES / "linux" / "init").read_text()
    archive.file("init", script.replace("MODULES", " ".join(FIRST[arch])).encode(), 0o755)
    archive.file("etc/udhcpc.sh", (SOURCES / "linux" / "udhcpc.sh").read_bytes(), 0o755)
    archive.file("bin/busybox", busybox, 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.link("sbin/modprobe", "../bin/busybox")  # the kernel calls it by this path
    archive.file("bin/quasar-agent", agent, 0o755)
    version = (prepared / "release").read_text().strip()
    for file in (prepared / "modules").iterdir():
        archive.file(f"lib/modules/{version}/{file.name}", file.read_bytes())
    return archive.data()


def link_or_copy(source: Path, target: Path) -> None:
    """Entries of the cache never change, so they may share files."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def build(arch: str) -> Path:
    """The folder of a Linux guest: kernel, initrd."""
    apt = Apt(DEBIAN[arch])
    prepared = kernel_folder(arch)
    [busybox] = apt.download(["busybox-static"])

    def make(work: Path, output: Path) -> None:
        unpack_deb(busybox, work / "busybox")
        compile_agent(arch, work, work / "agent")
        program = kernel.only(work / "busybox", "**/bin/busybox")
        (output / "initrd").write_bytes(initramfs(arch, prepared, program.read_bytes(),
                                                  (work / "agent").read_bytes()))
        link_or_copy(prepared / "kernel", output / "kernel")

    mark = cache.stamp(prepared.name, busybox.name, MAKE / "linux.py", MAKE / "newc.py",
                       SOURCES / "linux", SOURCES / "agent")
    return cache.get("guest", f"linux-{arch}", mark, make, what=f"making the guest linux-{arch}")
