# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the relay's benchmark: the plan, and the measurements that become the page."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
for folder in ("relay", "bench", "lib"):
    sys.path.insert(0, str(HERE.parent / folder))

import netpage  # noqa: E402
import netplan  # noqa: E402
import testbed  # noqa: E402

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
RESULTS = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quasar")
    with suppress(ValueError):      # another folder of the same run may have it already
        group.addoption("--quick", action="store_true", help="few cases: some minutes")
    with suppress(ValueError):
        group.addoption("--results", metavar="FILE", help="write all measurements, as JSON")
        group.addoption("--pages", metavar="FOLDER", help="write the page and its plots there")


def chosen(config: pytest.Config) -> netplan.Plan:
    return netplan.QUICK if config.getoption("--quick") else netplan.FULL


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = chosen(metafunc.config).cases()
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="session")
def plan(pytestconfig: pytest.Config) -> netplan.Plan:
    return chosen(pytestconfig)


@pytest.fixture(scope="session")
def deadline(plan: netplan.Plan) -> float:
    """When the run's time is over."""
    return time.monotonic() + plan.limit


@pytest.fixture(scope="session")
def record(pytestconfig: pytest.Config, plan: netplan.Plan) -> Callable[[Any], None]:
    """Keep a measurement, and show it: the table fills while it is made."""
    found: list[dict[str, Any]] = []
    meta = testbed.describe(plan.name, plan.limit) | {
        "congestion": CONGESTION.read_text(encoding="ascii").strip()}
    pytestconfig.stash[RESULTS] = {"meta": meta, "results": found}
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def show(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(text)

    def keep(row: dict[str, Any]) -> None:
        found.append(row)
        show(netpage.line(row))

    show(netpage.HEADINGS)
    return keep


@pytest.fixture
def scene_folder() -> Iterator[Path]:
    """A folder with a short name: paths of unix sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="qb", dir="/tmp"))
    yield folder / "s"
    shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write what was found, even if a case failed: the others are no less true."""
    found = config.stash.get(RESULTS, None)
    if not found or not found["results"]:
        return
    terminalreporter.write_line(netpage.goals_text(found["results"]))
    here = config.invocation_params.dir
    if path := config.getoption("--results"):
        (here / path).write_text(netpage.pack(found), encoding="utf-8")
    if folder := config.getoption("--pages"):
        netpage.write(found, here / folder)
        terminalreporter.write_line(f"the page is {here / folder / netpage.PAGE}")
