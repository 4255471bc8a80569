# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own code - quasar/, net-relay/ and its unit tests - built for a host architecture."""

import shutil
from pathlib import Path

import cache
import debian
import meson
import qemubuild
import say
import sysroot
import upstream
from arches import Arch

TOP = upstream.TOP
SOURCES = ("meson.build", "meson.options", "quasar", "net-relay", "tests/unit",
           "tests/meson.build", "docs/man")


def cross_file(arch: Arch) -> str:
    """A Meson cross file for a foreign architecture, whose programs the emulator runs."""
    root = sysroot.get(arch)
    wrapper = [qemubuild.emulators() / "bin" / f"qemu-{arch.name}", "-L", root]
    environment = sysroot.environment(arch, root)
    family = {"ppc64le": "ppc64"}.get(arch.name, arch.name)
    words = ", ".join(f"'{w}'" for w in wrapper)
    flags = ", ".join(f"'{f}'" for f in sysroot.flags(root))
    return f"""[binaries]
c = ['ccache', '{arch.triplet}-gcc']
ar = '{arch.triplet}-ar'
strip = '{arch.triplet}-strip'
pkg-config = 'pkg-config'
exe_wrapper = [{words}]
[built-in options]
c_args = [{flags}]
c_link_args = [{flags}]
[properties]
sys_root = '{root}'
pkg_config_libdir = '{environment["PKG_CONFIG_LIBDIR"]}'
[host_machine]
system = 'linux'
cpu_family = '{family}'
cpu = '{arch.name}'
endian = '{arch.byte_order}'
"""


def setup(arch: Arch, build: Path, options: list[str]) -> None:
    """Configure a Meson build of our own code for a host."""
    arguments: list = [meson.command(), "setup", build, TOP, "--prefix=/usr", *options]
    if not arch.native:
        file = build.parent / f"{arch.name}.ini"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(cross_file(arch))
        arguments.append(f"--cross-file={file}")
    say.run(arguments, env=meson.build_environment(TOP), log=build.parent / f"{build.name}.log",
            what=f"configuring our own code for {arch.name}")


def _build(arch: Arch, work: Path, output: Path) -> None:
    build = work / "own"
    setup(arch, build, ["--buildtype=release", "-Dtests=false", "-Dqemu=false"])
    log = work / "own.log"
    what = f"our own code for {arch.name}"
    environment = meson.build_environment(TOP)
    say.run(["ninja", "-C", build], env=environment, log=log, what=f"building {what}")
    say.run([meson.command(), "install", "-C", build, "--no-rebuild", "--destdir", work / "dest"],
            env=environment, log=log, what=f"installing {what}")
    (output / "bin").mkdir()
    for pattern in ("bin/*", "sbin/*", "libexec/quasar/*"):
        for program in sorted((work / "dest/usr").glob(pattern)):
            shutil.copy(program, output / "bin")


def _mark(arch: Arch) -> str:
    files = [TOP / name for name in SOURCES if (TOP / name).exists()]
    return cache.stamp(arch.name, debian.codename(), Path(__file__), *files)


def installed(arch: Arch) -> Path:
    """Return the folder whose bin/ holds our own programs for this host."""
    return cache.get("own", arch.name, _mark(arch), lambda w, o: _build(arch, w, o),
                     what=f"building our own code for {arch.name}")


def find_installed(arch: Arch) -> Path | None:
    return cache.find("own", arch.name, _mark(arch))
