# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the Debian guest's moves: the frozen guest, folders, and the rows of the table."""

import os
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
sys.path.insert(0, str(HERE.parent / "lib"))

import crossing  # noqa: E402
import ledger  # noqa: E402

ROWS = pytest.StashKey[list]()
BEGAN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quasar")
    with suppress(ValueError):      # another folder of the same run may have it already
        group.addoption("--quick", action="store_true", help="one route, load and link")
    with suppress(ValueError):
        group.addoption("--hosts", metavar="LIST", default=os.environ.get("QUASAR_TEST_HOSTS"),
                        help="only routes whose hosts are all among these")
    with suppress(ValueError):
        group.addoption("--table", metavar="FILE", help="write the tables to a file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.stash[BEGAN] = time.monotonic()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip a route with a host that was not asked for."""
    chosen = config.getoption("--hosts")
    for item in items:
        if not chosen or HERE not in item.path.parents or not hasattr(item, "callspec"):
            continue
        for stop in item.callspec.params.get("route", ()):
            if stop not in chosen.split(","):
                item.add_marker(pytest.mark.skip(
                    reason=f"host {stop} is not among --hosts {chosen}"))
                break


@pytest.fixture(scope="session")
def run_folder() -> Iterator[Path]:
    """A folder with a short name: paths of unix sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="quasar-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_folder(run_folder: Path) -> Path:
    folder = run_folder / str(len(list(run_folder.iterdir())))
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def origin(run_folder: Path) -> crossing.Origin:
    """The guest, booted and frozen once, and what is installed in it."""
    frozen = crossing.freeze(run_folder / "frozen")
    return crossing.Origin(frozen, crossing.installed(frozen.disk, run_folder))


@pytest.fixture(scope="session")
def silences() -> dict[tuple[str, ...], list[float]]:
    """How long the guest at rest stood still on each leg of a route, once that was gone."""
    return {}


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Callable[[ledger.Row], None]:
    """Put a row into the table."""
    return pytestconfig.stash[ROWS].append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show what was found, even if something failed: the other rows are no less true."""
    if not (rows := config.stash[ROWS]):
        return
    seconds = time.monotonic() - config.stash[BEGAN]
    terminalreporter.section("moves")
    terminalreporter.write(ledger.text(rows, seconds))
    if path := config.getoption("--table"):
        ledger.write(rows, seconds, config.invocation_params.dir / path)
