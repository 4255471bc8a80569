# SPDX-License-Identifier: GPL-2.0-or-later
"""A Meson new enough for QEMU and for us: the system's own, or one unpacked into the cache."""

import os
import subprocess
from pathlib import Path

import cache
import debian
import say
import upstream

PYTHON = "/usr/bin/python3"
NEEDED = (1, 5, 0)
PACKAGES = "usr/lib/python3/dist-packages"
LAUNCHER = f"""#!{PYTHON}
import sys
from pathlib import Path
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "{PACKAGES}"))
from mesonbuild.mesonmain import main
sys.exit(main())
"""


def _system_version() -> tuple[int, ...]:
    done = subprocess.run([PYTHON, "-c", "import mesonbuild.coredata as c; print(c.version)"],
                          capture_output=True, text=True, check=False)
    return tuple(int(p) for p in done.stdout.strip().split(".") if p.isdigit()) or (0,)


def _unpack(_work: Path, output: Path) -> None:
    """Unpack the package from a folder of sources, or from a release that has it."""
    for folder in (cache.root() / "sources", upstream.TOP / ".." / "shared" / "cache"):
        for deb in sorted(folder.glob("meson_1.*_all.deb")) if folder.is_dir() else []:
            debian.unpack_deb(deb, output)
            break
        else:
            continue
        break
    else:
        debian.Apt("amd64", "trixie").unpack(["meson"], output)
    launcher = output / "bin" / "meson"
    if launcher.parent.is_symlink():
        launcher.parent.unlink()
    launcher.parent.mkdir(exist_ok=True)
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)


def _unpacked() -> Path | None:
    """The unpacked Meson, or None where the system's will do."""
    if _system_version() >= NEEDED:
        return None
    mark = cache.stamp(str(NEEDED), Path(__file__))
    return cache.get("tool", "meson", mark, _unpack, what="a Meson new enough for QEMU")


def command() -> str:
    entry = _unpacked()
    return str(entry / "bin" / "meson") if entry else "/usr/bin/meson"


def build_environment(base: Path | None = None) -> dict[str, str]:
    """A build's environment: the compiler cache (relative to BASE) and a good Meson."""
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith(("CC", "CFLAGS", "LDFLAGS", "PKG_CONFIG", "MESON"))}
    environment |= {"CCACHE_DIR": str(cache.root() / "ccache"), "CCACHE_MAXSIZE": "6G",
                    "CCACHE_NOHASHDIR": "1", "CCACHE_COMPILERCHECK": "content",
                    "CCACHE_DEPEND": "1",
                    "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    if base:
        environment["CCACHE_BASEDIR"] = str(base)
    if entry := _unpacked():
        environment["PYTHONPATH"] = str(entry / PACKAGES)
    return environment


if __name__ == "__main__":
    say.main(lambda: print(command()))
