# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the scenario tests: `trip`, a guest ready to leave on a route of hosts.

A test names its route with a marker, the guest first and then the hosts, home included:

    @pytest.mark.route("linux-x86_64", "x86_64", "ppc64le:64k", "x86_64")

With stock=True all of them run the unpatched QEMU, with /stock behind a host that one alone.  A
guest whose name begins with board- is none: the test makes its own board (tests/lib/bench.py).
A test whose hosts are not built is skipped; with --build they are built before the first starts.
A guest is booted once per session and home, and thawed for each test; docs/testing.rst tells more.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import places  # noqa: E402
import scoreboard  # noqa: E402
import travel  # noqa: E402
from machine import Setup  # noqa: E402
from places import Place  # noqa: E402
from say import Failure  # noqa: E402
from session import PASSES, Session  # noqa: E402

ROWS = pytest.StashKey[list]()
MISSING = pytest.StashKey[dict]()


class Route:
    """What a test's marker says."""

    def __init__(self, guest: str, *stops: str, stock: bool = False):
        self.guest = guest
        self.stops = [Place.parse(stop, stock) for stop in stops]

    @classmethod
    def of(cls, item: pytest.Item) -> "Route | None":
        marker = item.get_closest_marker("route")
        return cls(*marker.args, **marker.kwargs) if marker else None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quasar")
    with suppress(ValueError):      # a conftest above this one may have it already
        group.addoption("--quick", action="store_true", help="only the scenarios marked quick")
    group.addoption("--hosts", metavar="LIST", default=os.environ.get("QUASAR_TEST_HOSTS"),
                    help="only scenarios whose hosts are all among these, such as x86_64,ppc64le"
                    " (default: $QUASAR_TEST_HOSTS, or all)")
    group.addoption("--build", action="store_true",
                    help="build what is not there, in place of skipping what needs it")
    group.addoption("--table", metavar="FILE", help="write the table of moves (.json or text)")
    group.addoption("--keep", action="store_true", help="keep the run folders")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: part of the two-minute subset")
    config.addinivalue_line("markers", "route(guest, *hosts, stock=False): where a guest travels")
    config.stash[ROWS] = []
    config.stash[MISSING] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        slow = [item for item in items
                if item.get_closest_marker("route") and not item.get_closest_marker("quick")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    if chosen := config.getoption("--hosts"):
        for item in items:
            route = Route.of(item)
            for stop in route.stops if route else []:
                if stop.arch not in chosen.split(","):
                    item.add_marker(pytest.mark.skip(
                        reason=f"host {stop.arch} is not among --hosts {chosen}"))
                    break


# Builds


def _needs(items: list[pytest.Item]) -> tuple[dict[Place, set[str]], set[str]]:
    """Collect which hosts the tests need with which QEMU targets, and which guests."""
    wanted: dict[Place, set[str]] = {}
    guests = set()
    for item in items:
        route = Route.of(item)
        if route and not item.get_closest_marker("skip"):
            if not route.guest.startswith("board-"):    # a board has no guest to build
                guests.add(route.guest)
            for stop in route.stops:
                base = Place(stop.arch, stock=stop.stock)
                wanted.setdefault(base, set()).add(places.target(route.guest))
    return wanted, guests


def _try(missing: dict[Any, str], keys: list[Any], build: Callable[[], Any]) -> None:
    try:
        build()
    except Failure as failure:
        text = f"{failure}; {failure.hint}" if failure.hint else str(failure)
        missing.update(dict.fromkeys(keys, text))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is needed, in the open."""
    config = session.config
    if config.getoption("--collect-only"):
        return
    wanted, guests = _needs(session.items)
    missing = config.stash[MISSING]
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for place, targets in wanted.items():
            if not config.getoption("--build"):
                missing |= {(place, t): f"{place} is not built for {t} guests; --build does it"
                            for t in targets if not place.is_built([t])}
            else:
                keys = [(place, t) for t in targets]
                _try(missing, keys, lambda p=place, n=sorted(targets): p.build(n))
        for name in sorted(guests):
            _try(missing, [name], lambda n=name: places.guest(n))


@pytest.fixture(autouse=True)
def everything_is_built(request: pytest.FixtureRequest) -> None:
    """Skip a test whose host or guest is missing; fail when --build could not make it."""
    config, route = request.config, Route.of(request.node)
    missing = config.stash[MISSING]
    if not route:
        return
    target = places.target(route.guest)
    keys = [(Place(stop.arch, stock=stop.stock), target) for stop in route.stops]
    for key in (route.guest, *keys):
        if key in missing:
            if not config.getoption("--build"):
                pytest.skip(missing[key])
            pytest.fail(missing[key], pytrace=False)


# Fixtures


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Iterator[Path]:
    """A folder with a short name: paths of unix sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="quasar-"))
    yield folder
    if pytestconfig.getoption("--keep"):
        print(f"\nrun folders are kept in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def frozen(run_folder: Path) -> Callable[[str, Place], travel.Frozen]:
    """Give a booted guest that waits in a file; boots each one once."""
    made: dict[tuple[str, Place], travel.Frozen] = {}

    def get(guest: str, home: Place) -> travel.Frozen:
        if (guest, home) not in made:
            folder = run_folder / f"frozen{len(made)}"
            made[guest, home] = travel.freeze(home, places.guest(guest), folder)
        return made[guest, home]

    return get


class Trip(travel.Journey):
    """A journey along a test's route, which notes each leg in the table."""

    def __init__(self, route: Route, frozen: travel.Frozen, folder: Path,
                 rows: list[dict[str, Any]]):
        folder.mkdir()
        super().__init__(frozen.setup(folder), folder)
        self.route = route
        self.rows = rows
        self.thaw(route.stops[0], frozen)

    def go(self, transport: str = "tcp", clock_seconds: float = travel.CLOCK_SECONDS,
           **settings: Any) -> None:
        """Move to each stop in turn and check everything there; SETTINGS are quasar-set's."""
        for stop in self.route.stops[1:]:
            if settings:
                self.machine.qmp.execute("quasar-set", settings)
            self.move(stop, transport)
            try:
                self.check(clock_seconds)
            finally:
                self.note()

    def note(self, result: str = "") -> None:
        """Put the last leg into the table."""
        self.rows.append(scoreboard.row(self.route.guest, self.legs[-1], result))


@pytest.fixture
def trip(request: pytest.FixtureRequest, frozen: Callable[[str, Place], travel.Frozen],
         run_folder: Path) -> Iterator[Trip]:
    """A guest that runs at the first host of the test's route."""
    route = Route.of(request.node)
    assert route, "the test has no @pytest.mark.route"
    ready = frozen(route.guest, route.stops[0])
    folder = run_folder / str(len(list(run_folder.iterdir())))
    with Trip(route, ready, folder, request.config.stash[ROWS]) as one:
        yield one


@pytest.fixture
def pair(request: pytest.FixtureRequest, run_folder: Path) -> Iterator[Callable[..., Session]]:
    """Make sessions of the route's bare guest from its first host to its last.

    HERE and THERE are further arguments of the two QEMUs, HERE for both when THERE is not given;
    what else Session takes can be named.
    """
    made: list[Session] = []
    route = Route.of(request.node)
    assert route, "the test has no @pytest.mark.route"

    def make(here: tuple[str, ...] = (), there: tuple[str, ...] | None = None,
             **options: Any) -> Session:
        folder = run_folder / f"pair{len(list(run_folder.iterdir()))}"
        source, target = (Setup(places.guest(route.guest), net=False, extra=extra)
                          for extra in (here, here if there is None else there))
        made.append(Session(route.stops[0], route.stops[-1], source, folder, arrives_in=target,
                            **options))
        made[-1].source.console.wait_line(PASSES, timeout=60)
        return made[-1]

    yield make
    for session in made:
        session.__exit__()


# Reports


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Show the machines of a scenario that failed."""
    outcome = yield
    report = outcome.get_result()
    one = getattr(item, "funcargs", {}).get("trip")
    if report.failed and isinstance(one, Trip):
        report.sections.append(("machines", one.story()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the moves to the process that writes the table, when the tests run side by side."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["moves"] = session.config.stash[ROWS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[ROWS] += getattr(node, "workeroutput", {}).get("moves", [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows or hasattr(config, "workeroutput"):
        return
    terminalreporter.section("moves")
    terminalreporter.write(scoreboard.text(rows))
    if path := config.getoption("--table"):
        scoreboard.write(rows, config.invocation_params.dir / path)
