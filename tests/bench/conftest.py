# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the benchmarks: frozen guests, and a list of results that becomes the page."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import page  # noqa: E402
import testbed  # noqa: E402
from cases import FULL, QUICK, Plan, Size  # noqa: E402

RESULTS = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quasar")
    with suppress(ValueError):      # another folder of the same run may have it already
        group.addoption("--quick", action="store_true", help="few cases: some minutes")
    with suppress(ValueError):
        group.addoption("--results", metavar="FILE", help="write all measurements, as JSON")
        group.addoption("--pages", metavar="FOLDER",
                        help="write benchmarks.rst and its plots there")


def chosen(config: pytest.Config) -> Plan:
    return QUICK if config.getoption("--quick") else FULL


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = chosen(metafunc.config).cases
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="session")
def plan(pytestconfig: pytest.Config) -> Plan:
    return chosen(pytestconfig)


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config, plan: Plan) -> list[dict[str, Any]]:
    """All measurements of this run, in the order in which they were made."""
    found: list[dict[str, Any]] = []
    pytestconfig.stash[RESULTS] = {
        "meta": testbed.describe("quick" if pytestconfig.getoption("--quick") else "full",
                                 plan.limit), "results": found}
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
