# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host of another architecture needs of its distribution: headers and libraries.

Where Debian has the port, its own packages are unpacked into a private folder.  Big-endian
PowerPC has none: its C library comes from the cross compiler's packages and the few libraries
that QEMU needs are built here from Debian's source packages.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import cache
import debian
import say
import upstream
from arches import Arch
from say import Failure

LIBRARIES = ("libc6-dev", "libglib2.0-dev", "libpixman-1-dev", "libslirp-dev", "libgnutls28-dev",
             "libzstd-dev", "libfdt-dev", "libxxhash-dev", "libseccomp-dev", "libjson-glib-dev",
             "libattr1-dev", "libaio-dev", "libpng-dev", "libcap-ng-dev")
WANTED = re.compile(r"(lib|zlib1g|linux-libc-dev|uuid-dev|nettle-dev|gcc-\d+-base)")
UNWANTED = re.compile(r"lib(python|perl|sqlite|db5|krb5|tirpc|nsl|event|unbound|gnutls-dane|"
                      r"glib2.0-bin|glib2.0-dev-bin)|.*-doc$")
RECIPES = Path(__file__).with_name("sysroot-ppc64.sh")
# In the order of building, and the release whose version each recipe is made for.
PPC64_SOURCES = {"zlib": "bookworm", "libffi": "bookworm", "pcre2": "bookworm",
                 "glib2.0": "bookworm", "libzstd": "bookworm", "libslirp": "bookworm",
                 "device-tree-compiler": "trixie", "pixman": "bookworm",
                 "libpng1.6": "bookworm", "xxhash": "bookworm"}
# Tarballs accepted from a folder; apt's own are authenticated by apt.
KNOWN_TARBALLS = frozenset("""
92d8ca769805ae1f176204230438fe52808f4e1c7944053c9eec0e649b237539
069cf7e51cd261eb163aaf06c8d1754c6835f31252180aff5814e5afc7757fbc
d66c56ad259a82cf2a9dfc408b32bf5da52371500b84745f7fb8b645712df676
358ce8b6ea59ec9deac937cc754f0115b992839e7b0cddf30ffb8f77dc21da82
8cf4bbb65e77ec348d052c8d6230eba66d435bddf64c8b5be2fcb16880c19953
c33b418e3b936ee3153de2c61cc638e7e4fe3156022a5c77d0711bcbb9d64f1f
71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1
""".split())


def _relative_links(top: Path) -> None:
    """Point absolute links into the sysroot."""
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            link = Path(folder) / name
            if link.is_symlink() and (target := os.readlink(link)).startswith("/"):
                link.unlink()
                link.symlink_to(os.path.relpath(top / target.lstrip("/"), link.parent))


def _from_packages(arch: Arch, output: Path) -> None:
    apt = debian.Apt(arch.debian)
    names = [n for n in apt.closure(list(LIBRARIES))
             if WANTED.match(n) and not UNWANTED.match(n)]
    apt.unpack(names, output)
    for folder in ("doc", "man", "locale", "lintian", "gir-1.0", "bash-completion", "info"):
        shutil.rmtree(output / "usr" / "share" / folder, ignore_errors=True)
    for folder in ("etc", "var", "sbin"):
        shutil.rmtree(output / folder, ignore_errors=True) if not (output / folder).is_symlink() \
            else None
    _relative_links(output)


def _debian_source(package: str, work: Path) -> Path:
    """Find a source package's upstream tarball: a known one in a folder, else apt's."""
    prefix = f"{package}_"
    shared = upstream.TOP / ".." / "shared" / "cache"
    for folder in (cache.root() / "sources", shared):
        found = sorted(folder.glob(f"{prefix}*.orig.tar.*")) if folder.is_dir() else []
        for tarball in found:
            if tarball.suffix != ".asc" and cache.sha256(tarball) in KNOWN_TARBALLS:
                return tarball
    place = work / f"{package}-source"
    place.mkdir()
    debian.Apt("amd64", PPC64_SOURCES[package], "deb-src").source(package, place)
    found = [f for f in place.glob("*.orig.tar.*") if f.suffix != ".asc"]
    if not found:
        raise Failure(f"Debian's source package {package} holds no upstream tarball")
    return found[0]


def _copy_c_library(arch: Arch, output: Path) -> None:
    """Lay out the cross C library as a system of its own."""
    cross = Path("/usr") / arch.triplet
    if not (cross / "include" / "stdio.h").exists():
        raise Failure(f"the C library for {arch.name} is not installed", "run scripts/bootstrap")
    (output / "usr").mkdir(parents=True)
    shutil.copytree(cross / "include", output / "usr" / "include", symlinks=True)
    shutil.copytree(cross / "lib", output / "usr" / "lib", symlinks=True)
    for folder in ("lib", "lib64"):
        (output / folder).symlink_to("usr/lib")
    (output / "usr" / "lib64").symlink_to("lib")
    for script in output.glob("usr/lib/*.so"):
        if not script.is_symlink() and script.stat().st_size < 4096:
            text = script.read_text(errors="replace")
            script.write_text(re.sub(rf"/usr/{arch.triplet}/lib(64)?/", "/usr/lib/", text))
    loader = next(iter((output / "usr" / "lib").glob("ld64.so.*")), None)
    if loader is None:
        raise Failure(f"the C library for {arch.name} has no program loader")


def _from_source(arch: Arch, work: Path, output: Path) -> None:
    _copy_c_library(arch, output)
    environment = {**os.environ, "SYSROOT": str(output), "TRIPLET": arch.triplet,
                   "CC": f"{arch.triplet}-gcc"}
    for package in PPC64_SOURCES:
        tarball = _debian_source(package, work)
        folder = work / package
        folder.mkdir()
        done = subprocess.run(["tar", "-xf", tarball, "-C", folder, "--strip-components=1"],
                              check=False)
        if done.returncode != 0:
            raise Failure(f"{tarball.name} cannot be unpacked")
        say.note(f"building {package} for {arch.name}")
        say.run(["bash", RECIPES, package], cwd=folder, env=environment,
                log=work / "sysroot.log", what=f"building {package} for {arch.name}")
    for folder in ("bin", "share"):
        shutil.rmtree(output / "usr" / folder, ignore_errors=True)


def get(arch: Arch) -> Path:
    """Return the sysroot of an architecture, made once."""
    if arch.native:
        raise Failure(f"{arch.name} is this machine and needs no sysroot")
    if arch.debian:
        mark = cache.stamp(debian.codename(), " ".join(LIBRARIES), WANTED.pattern,
                           UNWANTED.pattern)
        return cache.get("sysroot", arch.name, mark, lambda _w, o: _from_packages(arch, o),
                         what=f"sysroot for {arch.name} from Debian's packages")
    mark = cache.stamp(debian.codename(), str(PPC64_SOURCES), RECIPES)
    return cache.get("sysroot", arch.name, mark, lambda w, o: _from_source(arch, w, o),
                     what=f"sysroot for {arch.name} from source packages (about three minutes)")


def environment(arch: Arch, sysroot: Path) -> dict[str, str]:
    """What pkg-config must be told to look into the sysroot alone."""
    folders = [f"usr/lib/{arch.triplet}/pkgconfig", "usr/lib/pkgconfig", "usr/share/pkgconfig"]
    return {"PKG_CONFIG_LIBDIR": ":".join(str(sysroot / f) for f in folders),
            "PKG_CONFIG_SYSROOT_DIR": str(sysroot), "PKG_CONFIG_PATH": "",
            "PKG_CONFIG": "pkg-config"}


def flags(sysroot: Path) -> list[str]:
    return [f"--sysroot={sysroot}"]
