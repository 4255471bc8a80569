# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own tests of migration, run against the fork and against the stock build.

Theory of operation.  The test programs come from the pinned base and are the same for both
builds; only the QEMU they are pointed at differs.  Each column of a comparison is one way to
point: at stock alone, at the fork alone, or - for migration-test, which can start its two ends
from two programs - from one to the other.  Every column is held against stock's, case by case.
A case of migration-test or of the iotests has a process group, a folder and a time limit of its
own, so one that hangs costs its limit and tells nothing about the next.

Such tests depend on the time they are given.  So a case whose outcomes differ is run once more in
both columns, and the second pair counts; the report names it as unsteady when that changed
anything.  What still differs must stand in tests/upstream/differences with its reason, and what
stands there must still differ.  The unit tests are the exception to the first rule: they are
linked with the code they test, and so are built from both trees.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import arches
import cache
import debian
import hosts
import meson
import qemubuild
import tree
import upstream
from say import Failure, step
from tally import Tally

REVIEWED = upstream.TOP / "tests" / "upstream" / "differences"
UNIT = ("test-vmstate", "test-xbzrle")
MOVES = "migration-test"
IOTESTS = "iotests"
FORMATS = ("qcow2", "raw")          # one iotest of migration is for raw images alone
# What the programs need to be built; the rest of the configuration is qemubuild's.
FEATURES = "system tcg tools fdt=system pixman gnutls zstd".split()
# The data of the tests: their scripts find each other by these paths.
DATA = ("tests/qemu-iotests", "python/qemu", "scripts/analyze-migration.py")
ENDS = {"stock": ("stock", "stock"), "fork": ("fork", "fork"),
        "stock-fork": ("stock", "fork"), "fork-stock": ("fork", "stock")}
CASE_SECONDS = 240
RESULT = re.compile(r"^(not ok|ok) (?:\d+ )?(.*?)(?: - (.*?))?(?:\s+# (SKIP)\b(.*))?$", re.M)


@dataclass(frozen=True)
class Outcome:
    word: str               # pass, fail, skip, or absent
    detail: str = ""


@dataclass
class Comparison:
    """One program for one guest: what each column made of each case."""
    program: str
    guest: str
    columns: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)
    seconds: float = 0

    def differing(self, column: str) -> list[str]:
        stock, ours = self.columns["stock"], self.columns[column]
        return [case for case in {**stock, **ours}
                if stock.get(case, ABSENT).word != ours.get(case, ABSENT).word]


ABSENT = Outcome("absent")


@dataclass(frozen=True)
class Review:
    """A line of the reviewed list."""
    program: str
    guest: str
    column: str
    case: str
    stock: str
    ours: str
    reason: str


def read_reviews(path: Path = REVIEWED) -> list[Review]:
    reviews = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=6)
        if len(words) < 7 or words[2] not in ENDS:
            raise Failure(f"{path.name}, line {number} is not understood: {line}",
                          "PROGRAM GUEST COLUMN CASE STOCK OURS REASON")
        reviews.append(Review(*words))
    return reviews


def read_tap(text: str) -> dict[str, Outcome]:
    """The cases of a TAP stream by name; what the program says beside them is left out."""
    found = {}
    for verdict, name, remark, mark, reason in RESULT.findall(text):
        word = "fail" if verdict == "not ok" else "skip" if mark else "pass"
        found[name.strip()] = Outcome(word, (reason if mark else remark).strip())
    return found


def _build(variant: str, work: Path, output: Path) -> None:
    environment = meson.build_environment(work)
    arguments = ["--cc=ccache gcc", "--target-list=x86_64-softmmu",
                 *(f"--enable-{name}" for name in FEATURES)]
    what = f"the tests of the {'base' if variant == 'stock' else 'fork'}"
    build = qemubuild._configure(variant, work, arguments, environment, what)
    targets = [f"tests/unit/{name}" for name in UNIT]
    if variant == "stock":
        targets.append(f"tests/qtest/{MOVES}")
        for name in DATA:
            source, target = work / "src" / name, output / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    qemubuild._ninja(build, targets, environment, what)
    qemubuild._install(build, targets, arches.find("x86_64"), output)


def programs(variant: str) -> Path:
    """The folder with the test programs of a tree: bin/, and of the base what they read."""
    mark = cache.stamp(tree.stamp(variant), debian.codename(), Path(__file__),
                       Path(qemubuild.__file__))
    return cache.get("upstream-tests", variant, mark, lambda w, o: _build(variant, w, o),
                     what=f"building QEMU's own tests, {variant} tree (about two minutes)")


def _run(argv: list, environment: dict[str, str], folder: Path) -> tuple[str, str]:
    """Run a test in a process group of its own; return its output and how it ended, if badly.

    setpriv ends it with us, and QEMU's test library ends its QEMUs with it.
    """
    def begin() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    words = ["setpriv", "--pdeathsig", "KILL", "--", *(str(a) for a in argv)]
    with subprocess.Popen(words, cwd=folder, env={**os.environ, **environment},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=begin,
                          text=True, errors="replace") as process:
        problem = ""
        try:
            output, _ = process.communicate(timeout=CASE_SECONDS)
        except subprocess.TimeoutExpired:
            problem = f"no end within {CASE_SECONDS} seconds"
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode and not problem:
        problem = f"status {process.returncode}"
    return output, problem


def _one(argv: list, environment: dict[str, str], folder: Path, name: str, log: Path) -> Outcome:
    """Run the program for one case; what does not report a result has failed."""
    with tempfile.TemporaryDirectory(prefix="qt-") as scratch:      # short: sockets live there
        output, problem = _run(argv, {**environment, "TMPDIR": scratch, "TEST_DIR": scratch,
                                      "SOCK_DIR": f"{scratch}/s", "PYTHONDONTWRITEBYTECODE": "1"},
                               folder)
    outcome = read_tap(output).get(name)
    if outcome is None or (problem and outcome.word != "fail"):
        outcome = Outcome("fail", problem or "no result was reported")
    if outcome.word == "fail":
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(output)
        return Outcome("fail", f"{outcome.detail or problem}; output: {log}")
    return outcome


def measure(comparison: Comparison, columns: dict[str, Iterable[str]],
            case: Callable[[str, str], Outcome]) -> None:
    """Fill a comparison, stock first; run a case that differs once more in both columns."""
    began = time.monotonic()
    stock = comparison.columns.setdefault("stock", {})
    for name in columns["stock"]:
        stock[name] = case("stock", name)
    for column, names in columns.items():
        if column == "stock":
            continue
        found = comparison.columns[column] = {}
        for name in names:
            found[name] = case(column, name)
            if name in stock and found[name].word != stock[name].word:
                first = stock[name].word, found[name].word
                stock[name], found[name] = case("stock", name), case(column, name)
                if (stock[name].word, found[name].word) != first:
                    comparison.unsteady.append(
                        f"{comparison.program} {comparison.guest} {name}: {first[0]} with stock "
                        f"and {first[1]} with {column}, then {stock[name].word} and "
                        f"{found[name].word}")
    comparison.seconds = time.monotonic() - began


def _listed(base: Path, qemu: Path, full: bool) -> list[str]:
    """The cases that migration-test has for this QEMU: what `make check` runs, or all."""
    output, problem = _run([base / "bin" / MOVES, *(["--full"] if full else []), "-l"],
                           {"QTEST_QEMU_BINARY": str(qemu)}, base)
    names = re.findall(r"^(/\S+)$", output, re.M)
    if problem or not names:
        raise Failure(f"{MOVES} lists no cases: {problem or output[-300:]}")
    return names


def moves(guest: str, places: dict[str, Path], full: bool, logs: Path) -> Comparison:
    """migration-test; between the two builds only what `make check` would run."""
    base = programs("stock")
    qemu = {who: place / f"qemu-system-{guest}" for who, place in places.items()}
    short, every = (_listed(base, qemu["stock"], all_of_them) for all_of_them in (False, True))
    chosen = every if full else short

    def case(column: str, name: str) -> Outcome:
        source, target = ENDS[column]
        # -p also takes the cases below a name, and this one may have some
        below = [word for other in every if other.startswith(f"{name}/") for word in ("-s", other)]
        environment = {"PYTHON": meson.PYTHON, "QTEST_QEMU_BINARY": str(qemu[target])}
        if source != target:
            environment["QTEST_QEMU_BINARY_SRC"] = str(qemu[source])
        return _one([base / "bin" / MOVES, "--full", "--tap", "-k", "-p", name, *below],
                    environment, base, name,
                    logs / f"{MOVES}-{column}{name.replace('/', '_')}.log")

    comparison = Comparison(MOVES, guest)
    measure(comparison, {"stock": chosen, "fork": chosen, "stock-fork": short,
                         "fork-stock": short}, case)
    return comparison


def iotests_of_migration(folder: Path) -> list[str]:
    """Every iotest whose text speaks of migration."""
    found = []
    for file in sorted([*folder.glob("[0-9][0-9][0-9]"), *(folder / "tests").glob("*")]):
        if file.is_file() and "." not in file.name:
            text = file.read_text(errors="replace")
            if text.startswith("#!") and "migrat" in text.lower():
                found.append(file.name)
    if not found:
        raise Failure(f"no iotest of migration is in {folder}")
    return found


def iotests(places: dict[str, Path], logs: Path) -> Comparison:
    base = programs("stock")
    folder = base / "tests" / "qemu-iotests"

    def case(column: str, name: str) -> Outcome:
        place, (form, test) = places[column], name.split("/")
        environment = {f"{tool}_PROG": str(place / program) for tool, program in (
            ("QEMU", "qemu-system-x86_64"), ("QEMU_IMG", "qemu-img"), ("QEMU_IO", "qemu-io"),
            ("QEMU_NBD", "qemu-nbd"), ("QSD", "qemu-storage-daemon"))}
        return _one([meson.PYTHON, folder / "check", "--source-dir", folder, "--build-dir", folder,
                     "-tap", f"-{form}", test], environment, logs, f"{form} {test}",
                    logs / f"{IOTESTS}-{column}-{form}-{test}.log")

    names = [f"{form}/{test}" for form in FORMATS for test in iotests_of_migration(folder)]
    comparison = Comparison(IOTESTS, "x86_64")
    measure(comparison, {"stock": names, "fork": names}, case)
    return comparison


def units(name: str) -> Comparison:
    """A unit test of both trees, whose cases may differ: the fork may add some."""
    comparison = Comparison(name, "none")
    began = time.monotonic()
    for column, variant in (("stock", "stock"), ("fork", "quasar")):
        with tempfile.TemporaryDirectory(prefix="qt-") as scratch:
            output, problem = _run([programs(variant) / "bin" / name, "--tap", "-k"],
                                   {"TMPDIR": scratch}, Path(scratch))
        found = comparison.columns[column] = read_tap(output)
        if problem or not found:
            found["(the program)"] = Outcome("fail", problem or "no result was reported")
    comparison.seconds = time.monotonic() - began
    return comparison


def judge(comparison: Comparison, reviews: list[Review], tally: Tally) -> list[Review]:
    """Count the cases; a difference needs its line in the list.  Return the lines it has met."""
    met = []
    for column, found in comparison.columns.items():
        if column == "stock":
            continue
        wanted = {r.case: r for r in reviews if (r.program, r.guest, r.column)
                  == (comparison.program, comparison.guest, column)}
        stock = comparison.columns["stock"]
        cases = {**{c: o for c, o in stock.items() if column == "fork" or c in found}, **found}
        for case in cases:
            before, now = stock.get(case, ABSENT), found.get(case, ABSENT)
            name = f"upstream: {comparison.program} {comparison.guest} {column} {case}"
            review = wanted.get(case)
            if review:
                met.append(review)
            if review and (review.stock, review.ours) != (before.word, now.word):
                tally.record(name, f"the reviewed list says {review.stock} with stock and "
                             f"{review.ours} here; it is {before.word} and {now.word}: "
                             f"mend or take out its line in {REVIEWED.name}")
            elif review:
                tally.skip(name, f"differs, reviewed: {review.reason}")
            elif before.word != now.word:
                tally.record(name, f"{before.word} with stock ({before.detail}), "
                             f"{now.word} with {column} ({now.detail})")
            elif now.word == "pass":
                tally.record(name, None)
            else:
                tally.skip(name, f"{now.word} with stock as well: "
                           f"{now.detail or before.detail or 'no reason is given'}")
    return met


def table(comparisons: list[Comparison], reviews: list[Review]) -> str:
    known = {(r.program, r.guest, r.column, r.case) for r in reviews}
    head = ("program", "guest", "column", "cases", "same pass", "same fail", "same skip",
            "reviewed", "differs", "seconds")
    rows = [head]
    for one in comparisons:
        stock = one.columns["stock"]
        for column, found in one.columns.items():
            if column == "stock":
                continue
            same = [o.word for c, o in found.items() if stock.get(c, ABSENT).word == o.word]
            apart = [c for c in one.differing(column) if column == "fork" or c in found]
            reviewed = sum((one.program, one.guest, column, c) in known for c in apart)
            rows.append((one.program, one.guest, column, str(len(same) + len(apart)),
                         *(str(same.count(word)) for word in ("pass", "fail", "skip")),
                         str(reviewed), str(len(apart) - reviewed), f"{one.seconds:.0f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
             for row in rows]
    unsteady = [f"unsteady: {text}" for one in comparisons for text in one.unsteady]
    return "\n".join([*lines, *unsteady])


def check(tally: Tally, quick: bool, results: Path) -> None:
    """Build what is missing, run everything, print the table and keep it in RESULTS."""
    guests = ["x86_64"] if quick else list(arches.GUESTS)
    places = {}
    for who, stock in (("stock", True), ("fork", False)):
        host = hosts.Host("x86_64", stock=stock)
        host.build(guests)
        places[who] = host.bin()
    reviews = read_reviews()
    logs = results / "upstream"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    comparisons: list[Comparison] = []
    met: list[Review] = []

    def done(comparison: Comparison) -> None:
        met.extend(judge(comparison, reviews, tally))
        comparisons.append(comparison)
        (results / "upstream.txt").write_text(table(comparisons, reviews) + "\n")

    for name in UNIT:
        done(units(name))
    step("iotests that speak of migration")
    done(iotests(places, logs))
    for guest in guests:
        step(f"migration-test, {guest} guests")
        done(moves(guest, places, not quick and guest == "x86_64", logs))
    print(table(comparisons, reviews), flush=True)
    for review in reviews if not quick else []:         # a quick run leaves cases out
        if review not in met:
            tally.record(f"upstream: {review.program} {review.guest} {review.column} {review.case}",
                         f"it stands in {REVIEWED.name} and was not met")
