# SPDX-License-Identifier: GPL-2.0-or-later
"""Where and when something was measured: the machine, its system, the commit."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from places import TOP

import upstream


def _first(path: str, word: str) -> str:
    """Return what a file of the kernel's says behind WORD."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == word:
            return value.strip()
    return "unknown"


def _commit() -> str:
    """Name the commit, and say so when the tree is not what was committed."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-c", "safe.directory=*", *words], cwd=TOP, check=False,
                              capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" (changed)" if changed else "")


def _system() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")


def describe(plan: str, limit: float) -> dict[str, Any]:
    """Return it, with the name of what is measured here and now and the seconds it may take."""
    memory_kb = int(_first("/proc/meminfo", "MemTotal").split()[0])
    return {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "commit": _commit(),
            "qemu": upstream.read().version, "processors": os.cpu_count(),
            "model": _first("/proc/cpuinfo", "model name"),
            "memory_gib": round(memory_kb / (1 << 20)), "system": _system(),
            "kernel": platform.release(), "load": round(os.getloadavg()[0], 2),
            "plan": plan, "limit": limit}
