#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the project's test suites and count what they found."""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import arches
import cache
import hosts
import meson
import own
import say
import style
import upstream
import upstreamtests
from say import Failure, note, step
from tally import Tally

TOP = upstream.TOP
RESULTS = TOP / "build" / "check"
GUESTS_ON = {"x86_64": list(arches.GUESTS), "ppc64le": ["x86_64", "ppc64"]}
FAULTS = "tests/vm/test_faults.py"
SPEEDS = "tests/relay/test_far.py"      # compares throughputs: nothing else may run beside it
OVERHEAD = "tests/run/test_overhead.py"     # nor beside this, which measures times
FAST = "tests/vm/test_session.py::test_a_fast_link_needs_little_under_way"     # and this
BENCH_PAGE = "tests/bench/test_page.py"
RELAY_BENCH = "tests/relay-bench/test_netbench.py"
RELAY_BENCH_PAGE = "tests/relay-bench/test_netpage.py"
RELAY_PEERS = ("passt", "slirp4netns")      # beside which the relay is measured
WHOLE_TOOLS = "tests/whole/test_tools.py"
WHOLE_HOSTS = ("x86_64", "ppc64le", "s390x")       # where the Debian guest travels
STOCK_HOSTS = ("x86_64", "ppc64le", "aarch64", "s390x")      # what the scenarios compare with


@dataclass
class Run:
    """One invocation: what was asked for, and what was found so far."""
    hosts: list[str]
    quick: bool
    tally: Tally


def _processes(processes: int, share: str = "loadfile") -> list[str]:
    """Let processes share a suite whose tests wait much of their time, file by file or freely."""
    if not importlib.util.find_spec("xdist"):
        return []
    return ["-n", str(processes), "--dist", share]


def _pytest(run: Run, name: str, *arguments: str, **more: str) -> None:
    """Run pytest with its output shown as it comes; MORE goes into its environment."""
    junit = RESULTS / f"{name}.xml"
    junit.unlink(missing_ok=True)
    argv = [meson.PYTHON, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--durations=5",
            f"--junitxml={junit}", *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1",
                   "QUASAR_TEST_HOSTS": ",".join(run.hosts), **more}
    status = subprocess.run(argv, cwd=TOP, env=environment, check=False,
                            stdin=subprocess.DEVNULL).returncode
    if not junit.exists():
        run.tally.failed.append(f"{name}: pytest ended with status {status} and no results")
        return
    before = len(run.tally.failed)
    run.tally.read_junit(junit, name)
    if status and len(run.tally.failed) == before:
        run.tally.failed.append(f"{name}: pytest ended with status {status}")


def side_by_side(jobs: list[Callable[[], Tally]]) -> list[Tally]:
    """Do jobs two at a time, for each leaves a processor idle now and then.

    The threads are daemons: whoever interrupts us need not wait for them, and the kernel ends what
    they started.
    """
    left, done = list(jobs), []
    failures: list[Exception] = []

    def work() -> None:
        while not failures:
            try:
                job = left.pop(0)
            except IndexError:
                return
            try:
                done.append(job())
            except Exception as failure:
                failures.append(failure)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return done


def _meson_test(name: str, arch: arches.Arch, options: list[str]) -> Tally:
    """Build our own code for a host and run its unit tests there."""
    tally = Tally()
    build = TOP / "build" / name
    shutil.rmtree(build, ignore_errors=True)
    relay = "enabled" if arch.debian else "disabled"
    if not arch.debian:
        tally.skip(f"{name}: the relay and the launcher",
                   f"the libraries they need are not built for {arch.name}")
    own.setup(arch, build, ["-Dqemu=false", f"-Drelay={relay}", *options])
    environment = meson.build_environment(TOP) | {
        "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "UBSAN_OPTIONS":
        "halt_on_error=1:print_stacktrace=1", "G_SLICE": "always-malloc"}
    log = TOP / "build" / f"{name}.log"
    say.run(["ninja", "-C", build], env=environment, log=log, what=f"building {name}")
    slow = "2" if arch.native else "8"
    done = subprocess.run([*say.ENDS_WITH_US, meson.command(), "test", "-C", str(build),
                           "--no-rebuild", "-q", "--no-suite", "relay", "--timeout-multiplier",
                           slow, "--print-errorlogs"], env=environment, stdin=subprocess.DEVNULL,
                          check=False)
    tally.read_junit(build / "meson-logs" / "testlog.junit.xml", name)
    if done.returncode and not tally.failed:
        tally.failed.append(f"{name}: meson test ended with status {done.returncode}")
    return tally


def check_style(run: Run) -> None:
    style.check(run.tally)


def check_unit(run: Run) -> None:
    """Unit tests natively, under the sanitizers, and on every other host."""
    native = arches.find("x86_64")
    sanitized = ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dfuzz=true"]
    jobs = [partial(_meson_test, "unit-x86_64", native, []),
            partial(_meson_test, "unit-sanitized", native, sanitized)]
    for arch in [] if run.quick else map(arches.find, run.hosts):
        if not arch.native:
            own.cross_file(arch)        # what all of them need is made before they need it
            jobs.append(partial(_meson_test, f"unit-{arch.name}", arch, []))
    for tally in side_by_side(jobs):
        run.tally.add(tally)


def check_scripts(run: Run) -> None:
    _pytest(run, "scripts", "tests/scripts", "tests/lib", BENCH_PAGE, RELAY_BENCH_PAGE,
            WHOLE_TOOLS)


def build_hosts(run: Run) -> None:
    """Build all that the scenarios need, the fork before the stock base."""
    if "x86_64" not in run.hosts:
        raise Failure("guests start on x86_64 hosts", "add x86_64 to --hosts", status=2)
    for name in run.hosts:
        hosts.Host(name).build(GUESTS_ON.get(name, ["x86_64"]))
    for name in STOCK_HOSTS:
        if name in run.hosts and not run.quick:
            hosts.Host(name, stock=True).build(["x86_64"])


def check_hosts(run: Run) -> None:
    build_hosts(run)
    _pytest(run, "hosts", "tests/hosts", "tests/guests",
            PATH=f"{hosts.Host('x86_64').bin()}:{os.environ['PATH']}")


def check_relay(run: Run) -> None:
    """Real traffic through the daemon, from a stock QEMU among others."""
    host = hosts.Host("x86_64", stock=not run.quick)
    host.build(["x86_64"])
    build = TOP / "build" / "relay"
    shutil.rmtree(build, ignore_errors=True)
    own.setup(host.kind, build, ["-Dqemu=false", "-Drelay=enabled"])
    say.run(["ninja", "-C", build], env=meson.build_environment(TOP), what="building the relay",
            log=TOP / "build" / "relay.log")
    programs = {"QUASAR_RELAYD": build / "net-relay/quasar-relayd",
                "QUASAR_RELAYCTL": build / "net-relay/quasar-relayctl",
                "QUASAR_RELAY_TLS_PIPE": build / "tests/relay/tls-pipe",
                "QUASAR_TEST_QEMU": host.bin() / "qemu-system-x86_64"}
    environment = {name: str(path) for name, path in programs.items()}
    _pytest(run, "relay", "tests/relay", f"--ignore={SPEEDS}", *_processes(3), **environment)
    _pytest(run, "relay-far", SPEEDS, **environment)


def check_run(run: Run) -> None:
    """The launcher with the fork's QEMU and small guests."""
    host = hosts.Host("x86_64")
    host.build(list(arches.GUESTS))
    build = TOP / "build" / "run"
    shutil.rmtree(build, ignore_errors=True)
    own.setup(host.kind, build, ["-Dqemu=false", "-Dtests=false", "-Dlauncher=enabled"])
    say.run(["ninja", "-C", build], env=meson.build_environment(TOP), what="building the launcher",
            log=TOP / "build" / "run.log")
    program = str(build / "quasar/cli/quasar-run")
    _pytest(run, "run", "tests/run", f"--ignore={OVERHEAD}", *_processes(5), QUASAR_RUN=program)
    _pytest(run, "run-overhead", OVERHEAD, QUASAR_RUN=program)


def check_vm(run: Run) -> None:
    build_hosts(run)
    _pytest(run, "vm", "tests/vm", f"--ignore={FAULTS}", f"--deselect={FAST}",
            *_processes(2, "load"),
            f"--hosts={','.join(run.hosts)}", f"--table={RESULTS / 'vm-table.txt'}",
            *(["--quick"] if run.quick else []))
    _pytest(run, "vm-fast", FAST, f"--hosts={','.join(run.hosts)}")


def check_fault(run: Run) -> None:
    """Every fault in every stage of a session; a host of one kind is enough for that."""
    hosts.Host("x86_64").build(GUESTS_ON["x86_64"])
    _pytest(run, "fault", FAULTS, *_processes(3, "load"), "--hosts=x86_64",
            *(["--quick"] if run.quick else []))


def check_bench(run: Run) -> None:
    """The transports side by side; a quick run leaves the page in docs/ alone."""
    for stock in (False, True):
        hosts.Host("x86_64", stock=stock).build(["x86_64"])
    pages = RESULTS / "bench" if run.quick else TOP / "docs"
    _pytest(run, "bench", "tests/bench", f"--results={RESULTS / 'bench.json'}",
            f"--pages={pages}", *(["--quick"] if run.quick else []),
            f"--deselect={BENCH_PAGE}::test_the_page_is_what_its_results_make")


def check_relay_bench(run: Run) -> None:
    """The relay and its peers side by side; a quick run leaves the page in docs/ alone."""
    host = hosts.Host("x86_64")
    host.build(["x86_64"])
    for package in RELAY_PEERS:
        if not shutil.which(package):
            note(f"{package} is not installed and its rows will say so: "
                 "run scripts/bootstrap peers")
    card = TOP / "build" / "tap-card"
    source = TOP / "tests" / "relay-bench" / "tap-card.c"
    say.run(["gcc", "-O2", "-Wall", "-o", card, source], what="building the namespaces' card",
            log=TOP / "build" / "tap-card.log")
    own_bin = own.installed(host.kind) / "bin"
    pages = RESULTS / "relay-bench" if run.quick else TOP / "docs"
    _pytest(run, "relay-bench", RELAY_BENCH, f"--results={RESULTS / 'relay-bench.json'}",
            f"--pages={pages}", *(["--quick"] if run.quick else []), QUASAR_TAP_CARD=str(card),
            QUASAR_RELAYD=str(own_bin / "quasar-relayd"))


def check_debian(run: Run) -> None:
    """The Debian guest, disk and all; routes with a host that was not asked for are skipped."""
    for name in WHOLE_HOSTS:
        if name in ("x86_64", *run.hosts):      # home is always needed
            hosts.Host(name).build(["x86_64"])
    _pytest(run, "debian", "tests/whole", f"--hosts={','.join(run.hosts)}",
            f"--table={RESULTS / 'debian.txt'}", *(["--quick"] if run.quick else []))


def check_upstream(run: Run) -> None:
    """QEMU's own tests; they run on this machine's architecture alone."""
    upstreamtests.check(run.tally, run.quick, RESULTS)


SUITES: dict[str, tuple[Callable[[Run], None], str]] = {
    "style": (check_style, "formatting, lint, patch headers, licences"),
    "unit": (check_unit, "unit tests: native, sanitized, on each foreign host"),
    "scripts": (check_scripts, "the scripts, the cache, the test harness itself"),
    "hosts": (check_hosts, "builds, guests, and what runs on each host"),
    "relay": (check_relay, "the network relay with real sockets"),
    "run": (check_run, "the launcher: words, and VMs from start to end"),
    "vm": (check_vm, "real guests that move between hosts"),
    "fault": (check_fault, "kills, cuts, silence and damage in every stage of a move"),
    "bench": (check_bench, "beside stock QEMU, on a quiet machine: only when it is named"),
    "relay-bench": (check_relay_bench,
                    "the relay beside its peers, on a quiet machine: only when it is named"),
    "debian": (check_debian, "a whole system under load, and cut links: only when it is named"),
    "upstream": (check_upstream, "QEMU's own tests, beside stock QEMU: only when it is named"),
}
ASKED_FOR = ("bench", "relay-bench", "debian", "upstream")    # not part of a whole check


def _options() -> argparse.Namespace:
    rows = "\n".join(f"  {name:12} {text}" for name, (_, text) in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="check", description=__doc__, epilog="suites:\n" + rows,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=list(SUITES), metavar="NAME",
                        help="only this suite (may be given again)")
    parser.add_argument("--hosts", metavar="LIST", help="only these host architectures "
                        "(default: all five; with --quick x86_64,ppc64le)")
    parser.add_argument("--quick", action="store_true",
                        help="a subset that takes minutes once its two hosts are built")
    parser.add_argument("--list", action="store_true", help="list the suites and stop")
    return parser.parse_args()


def main() -> int:
    options = _options()
    if options.list:
        print("\n".join(SUITES))
        return 0
    wanted = options.hosts.split(",") if options.hosts else \
        ["x86_64", "ppc64le"] if options.quick else list(arches.ARCHES)
    for name in wanted:
        arches.find(name)
    run = Run([name for name in arches.ARCHES if name in wanted], options.quick, Tally())
    with cache.lock(f"check-{cache.stamp(str(TOP))}"):      # one at a time in a checkout
        return _run(run, options)


def _run(run: Run, options: argparse.Namespace) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.suite or [one for one in SUITES if one not in ASKED_FOR]:
        step(f"suite {name}")
        try:
            SUITES[name][0](run)
        except Failure as failure:
            run.tally.failed.append(f"{name}: {failure}")
            note(f"{failure}\n{failure.hint}")
        except Exception as error:  # noqa: BLE001  (the other suites are still to run)
            run.tally.failed.append(f"{name}: {error!r}")
            traceback.print_exc()
    step("done")
    sys.stderr.flush()
    return run.tally.report()


if __name__ == "__main__":
    say.main(main)
