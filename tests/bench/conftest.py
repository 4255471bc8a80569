# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the benchmarks: frozen guests, and a list of results that becomes the page."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import page  # noqa: E402
import upstream  # noqa: E402
from cases import FULL, QUICK, Plan, Size  # noqa: E402

RESULTS = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quasar")
    with suppress(ValueError):      # another folder of the same run may have it already
        group.addoption("--quick", action="store_true", help="few cases: some minutes")
    group.addoption("--results", metavar="FILE", help="write all measurements, as JSON")
    group.addoption("--pages", metavar="FOLDER", help="write benchmarks.rst and its plots there")


def chosen(config: pytest.Config) -> Plan:
    return QUICK if config.getoption("--quick") else FULL


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = chosen(metafunc.config).cases
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def _first(path: str, word: str) -> str:
    """Return what a file of the kernel's says behind WORD."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == word:
            return value.strip()
    return "unknown"


def _commit(top: Path) -> str:
    """Name the commit, and say so when the tree is not what was committed."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-c", "safe.directory=*", *words], cwd=top, check=False,
                              capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" (changed)" if changed else "")


def _system() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")


def describe(plan: Plan, quick: bool) -> dict[str, Any]:
    """Say where and when this is measured."""
    memory_kb = int(_first("/proc/meminfo", "MemTotal").split()[0])
    return {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "commit": _commit(upstream.TOP), "qemu": upstream.read().version,
            "processors": os.cpu_count(), "model": _first("/proc/cpuinfo", "model name"),
            "memory_gib": round(memory_kb / (1 << 20)), "system": _system(),
            "kernel": platform.release(), "load": round(os.getloadavg()[0], 2),
            "plan": "quick" if quick else "full", "limit": plan.limit}


@pytest.fixture(scope="session")
def plan(pytestconfig: pytest.Config) -> Plan:
    return chosen(pytestconfig)


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config, plan: Plan) -> list[dict[str, Any]]:
    """All measurements of this run, in the order in which they were made."""
    found: list[dict[str, Any]] = []
    pytestconfig.stash[RESULTS] = {
        "meta": describe(plan, pytestconfig.getoption("--quick")), "results": found}
    return found


@pytest.fixture(scope="session")
def run_folder() -> Iterator[Path]:
    """A folder with a short name: paths of unix sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="quasar-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def frozen(run_folder: Path) -> Callable[[bool, Size], Any]:
    """Give a frozen guest of a size, made by the stock QEMU or the fork; boots each one once."""
    import measure
    made: dict[tuple[bool, Size], Any] = {}

    def get(stock: bool, size: Size) -> Any:
        if (stock, size) not in made:
            made[stock, size] = measure.freeze(stock, size, run_folder / f"frozen{len(made)}")
        return made[stock, size]

    return get


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write what was found, even if a case failed: the others are no less true."""
    found = config.stash.get(RESULTS, None)
    if not found or not found["results"]:
        return
    here = config.invocation_params.dir
    if path := config.getoption("--results"):
        (here / path).write_text(page.pack(found), encoding="utf-8")
    if folder := config.getoption("--pages"):
        page.write(found, here / folder)
        terminalreporter.write_line(f"the page is {here / folder / 'benchmarks.rst'}")
