# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds of QEMU: the fork and the stock base for a host, and the user-mode emulators."""

import itertools
import shutil
import subprocess
from pathlib import Path

import arches
import cache
import debian
import firmware
import meson
import say
import sysroot
import tree
import upstream
from arches import Arch
from say import Failure

TOOLS = ("qemu-img", "qemu-io", "qemu-nbd", "storage-daemon/qemu-storage-daemon")

# Nothing is found by chance: what is not named here is off, so that a build does not depend on
# which libraries a machine happens to have.
FEATURES = {
    "common": """system tcg tools slirp zstd pixman fdt=system tpm vnc png keyring malloc-trim
        multiprocess vhost-kernel vhost-net vhost-user vhost-crypto vhost-vdpa
        vhost-user-blk-server libvduse vduse-blk-export hv-balloon l2tpv3 replication colo-proxy
        bochs cloop dmg qcow1 vdi vhdx vmdk vpc vvfat qed parallels""".split(),
    "packaged": "gnutls seccomp attr virtfs linux-aio".split(),  # not built for ppc64 from source
    "x86_64": "avx2 avx512bw".split(),
}


def _features(arch: Arch) -> list[str]:
    names = FEATURES["common"] + (FEATURES["packaged"] if arch.debian else [])
    return [f"--enable-{n}" for n in names + FEATURES.get(arch.name, [])]


def _configure(variant: str, work: Path, arguments: list[str], environment: dict[str, str],
               what: str) -> Path:
    source, build = work / "src", work / "build"
    tree.make(variant, source)
    build.mkdir()
    common = [f"--python={meson.PYTHON}", "--prefix=/usr", "--without-default-features",
              "--disable-install-blobs", "--disable-debug-info", "--disable-docs",
              "--disable-werror"]
    say.run([source / "configure", *common, *arguments], cwd=build, env=environment,
            log=work / "build.log", what=f"configuring {what}")
    return build


def _ninja(build: Path, targets: list[str], environment: dict[str, str], what: str) -> None:
    say.run(["ninja", *targets], cwd=build, env=environment, log=build.parent / "build.log",
            what=f"building {what}")


def _install(build: Path, targets: list[str], arch: Arch, output: Path) -> None:
    strip = "strip" if arch.native else f"{arch.triplet}-strip"
    (output / "bin").mkdir()
    for target in targets:
        program = output / "bin" / Path(target).name
        shutil.copy(build / target, program)
        subprocess.run([strip, program], check=True)


def _install_data(source: Path, output: Path) -> None:
    data = output / "share" / "qemu"
    shutil.copytree(firmware.get(), data)
    for file in (source / "pc-bios").glob("*.bin"):
        shutil.copy(file, data)
    shutil.copytree(source / "pc-bios" / "keymaps", data / "keymaps",
                    ignore=shutil.ignore_patterns("meson.build"))


def _build_system(arch: Arch, guests: list[str], stock: bool, work: Path, output: Path) -> None:
    variant = "stock" if stock else "quasar"
    what = f"{variant} QEMU for {arch.name}"
    environment = meson.build_environment(work)
    version = "stock" if stock else f"Quasar {upstream.read().version}+{tree.patch_level()}"
    arguments = [f"--target-list={','.join(f'{g}-softmmu' for g in guests)}",
                 f"--with-pkgversion={version}", *_features(arch)]
    if arch.native:
        arguments += ["--cc=ccache gcc"]
    else:
        root = sysroot.get(arch)
        environment |= sysroot.environment(arch, root)
        flags = " ".join(sysroot.flags(root))
        arguments += [f"--cc=ccache {arch.triplet}-gcc", f"--cross-prefix={arch.triplet}-",
                      f"--extra-cflags={flags}", f"--extra-ldflags={flags}"]
    build = _configure(variant, work, arguments, environment, what)
    targets = [f"qemu-system-{g}" for g in guests] + list(TOOLS)
    _ninja(build, targets, environment, what)
    _install(build, targets, arch, output)
    _install_data(work / "src", output)


def _mark(arch: Arch, guests: list[str], variant: str) -> str:
    return cache.stamp(tree.stamp(variant), " ".join(guests), " ".join(_features(arch)),
                       debian.codename(), firmware.mark(), Path(__file__))


def system(arch: Arch, guests: list[str], stock: bool = False) -> Path:
    """Return the folder (bin/, share/qemu/) of QEMU for a host, built once."""
    for guest in guests:
        if guest not in arches.GUESTS:
            raise Failure(f"there is no guest architecture '{guest}'",
                          f"known are {', '.join(arches.GUESTS)}", status=2)
    guests = [g for g in arches.GUESTS if g in guests]
    if entry := find_system(arch, guests, stock, contents=True):
        return entry
    variant = "stock" if stock else "quasar"
    return cache.get("qemu", f"{variant}-{arch.name}", _mark(arch, guests, variant),
                     lambda w, o: _build_system(arch, guests, stock, w, o),
                     what=f"building {variant} QEMU for {arch.name}, "
                          f"guests {' '.join(guests)} (some minutes)")


def find_system(arch: Arch, guests: list[str], stock: bool = False, *,
                contents: bool = False) -> Path | None:
    """Find a build that serves at least these guests, the smallest first; build nothing."""
    variant = "stock" if stock else "quasar"
    for count in range(len(guests), len(arches.GUESTS) + 1):
        for more in itertools.combinations(arches.GUESTS, count):
            if set(guests) <= set(more):
                mark = _mark(arch, list(more), variant)
                if entry := cache.find("qemu", f"{variant}-{arch.name}", mark, contents=contents):
                    return entry
    return None


def _build_emulators(names: list[str], work: Path, output: Path) -> None:
    environment = meson.build_environment(work)
    arguments = ["--cc=ccache gcc", "--enable-linux-user", "--disable-system", "--disable-tools",
                 f"--target-list={','.join(f'{n}-linux-user' for n in names)}"]
    build = _configure("emulator", work, arguments, environment, "the user-mode emulators")
    targets = [f"qemu-{n}" for n in names]
    _ninja(build, targets, environment, "the user-mode emulators")
    _install(build, targets, arches.find("x86_64"), output)


def emulators() -> Path:
    """Return the folder with a user-mode emulator (bin/qemu-ARCH) for each foreign host."""
    names = list(arches.EMULATED)
    mark = cache.stamp(tree.stamp("emulator"), " ".join(names), debian.codename(), Path(__file__))
    return cache.get("emulator", "linux-user", mark,
                     lambda w, o: _build_emulators(names, w, o),
                     what="building the user-mode emulators (about three minutes)")
