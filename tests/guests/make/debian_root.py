# SPDX-License-Identifier: GPL-2.0-or-later
"""A full Debian root file system on ext4 in a qcow2 image.

Two entries of the cache: what mmdebstrap made of the distribution's packages, which takes
minutes and the network; and the image made of that, our agent, its service and a fresh ssh key.
The kernel and the initramfs are those of the guest linux-x86_64.
"""

import os
import shutil
import uuid
from pathlib import Path

import cache
import debian
import linux
import qcow2
from say import Failure, note, run

SOURCES = Path(__file__).resolve().parents[1]
OWN = Path(__file__)

PACKAGES = ["systemd-sysv", "udev", "dbus", "openssh-server", "iproute2", "iputils-ping",
            "procps", "kmod", "less", "ca-certificates", "curl", "e2fsprogs", "login"]

APPEND = ("console=ttyS0 quasar.root=/dev/vda net.ifnames=0 quiet loglevel=3 panic=-1 "
          "mitigations=off nokaslr random.trust_cpu=on audit=0 tsc=reliable clocksource=tsc "
          "no_timer_check")


def _mmdebstrap(work: Path, output: Path) -> None:
    lines = [f"deb {s.uri} {s.suite} main" for s in debian.machine_sources()]
    sources = work / "sources.list"
    sources.write_text("\n".join(lines) + "\n")
    run(["mmdebstrap", "--mode=auto", "--variant=minbase", "--architectures=amd64",
         f"--include={','.join(PACKAGES)}", "--aptopt=Apt::Install-Recommends \"false\"",
         "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
         "--dpkgopt=path-exclude=/usr/share/doc/*",
         debian.codename(), output / "root.tar", sources],
        log=work / "mmdebstrap.log", what="making a Debian root file system")


def _base() -> Path:
    mark = cache.stamp(debian.codename(), *PACKAGES)
    return cache.get("debian", "x86_64", mark, _mmdebstrap,
                     what="making a Debian root file system (some minutes)")


def _add_files(extra: Path, work: Path, prepared: Path, key: Path) -> None:
    """Lay out what is added to the packages, as a tree of its own."""
    shutil.copytree(SOURCES / "debian", extra, symlinks=True)
    wants = extra / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for unit in ("quasar-agent.service", "systemd-networkd.service"):
        folder = "/etc" if unit.startswith("quasar") else "/lib"
        (wants / unit).symlink_to(f"{folder}/systemd/system/{unit}")
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer",
                 "fstrim.timer", "systemd-networkd-wait-online.service",
                 "proc-sys-fs-binfmt_misc.automount"):
        (extra / "etc/systemd/system" / unit).symlink_to("/dev/null")
    agent = extra / "usr/local/bin/quasar-agent"
    agent.parent.mkdir(parents=True)
    linux.compile_agent("x86_64", work, agent)
    ssh = extra / "root/.ssh"
    ssh.mkdir(parents=True, mode=0o700)
    shutil.copy(key.with_suffix(".pub"), ssh / "authorized_keys")
    (extra / "root").chmod(0o700)
    (extra / "var/lib/quasar").mkdir(parents=True)
    (extra / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
    version = (prepared / "release").read_text().strip()
    shutil.copytree(prepared / "modules", extra / "usr/lib/modules" / version)


def _image(work: Path, gib: int, base: Path) -> Path:
    """Join both trees on a file system; root's ownership is kept, or pretended by fakeroot."""
    tree, raw = work / "tree", work / "disk.raw"
    tree.mkdir()
    with open(raw, "wb") as file:
        file.truncate(gib << 30)
    script = """set -eu
tar -xpf "$1" -C "$2" --exclude='./dev/*' --numeric-owner
tar -c --owner=0 --group=0 --mode=u=rwX,go=rX -C "$3" . | tar -xp --keep-directory-symlink -C "$2"
PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -F -L quasar -E lazy_itable_init=0,lazy_journal_init=0 \
    -d "$2" "$4"
"""
    command = ["sh", "-c", script, "sh", base / "root.tar", tree, work / "extra", raw]
    if os.geteuid() != 0:
        command = ["fakeroot", *command]
    run(command, log=work / "image.log", what="making the file system")
    return raw


def build(gib: int = 2) -> Path:
    """The folder of the Debian guest: kernel, initrd, disk.qcow2, ssh-key."""
    if gib not in (2, 4):
        raise Failure(f"the Debian guest has a disk of 2 or 4 GiB, not {gib}", status=2)
    boot = linux.build("x86_64")
    prepared = linux.kernel_folder("x86_64")
    base = _base()

    def make(work: Path, output: Path) -> None:
        key = output / "ssh-key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "quasar-test-guest", "-f", key],
            log=work / "key.log", what="making the guest's ssh key")
        _add_files(work / "extra", work, prepared, key)
        raw = _image(work, gib, base)
        note("packing the image")
        qcow2.from_raw(raw, output / "disk.qcow2")
        (output / "disk.qcow2").chmod(0o444)
        for name in ("kernel", "initrd"):
            linux.link_or_copy(boot / name, output / name)

    mark = cache.stamp(boot.name, prepared.name, base.name, str(gib), OWN,
                       OWN.with_name("qcow2.py"), SOURCES / "debian", SOURCES / "agent")
    return cache.get("guest", "debian-x86_64", mark, make, what="making the guest debian-x86_64")
