# SPDX-License-Identifier: GPL-2.0-or-later
"""What the scripts say: narration on stderr, results on stdout, one clear line for a failure."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRESS_SECONDS = 60
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")
NOT_FOUND = 127         # what setpriv answers for a program that is not there

_began = time.monotonic()


class Failure(Exception):
    """Something the person at the keyboard should read: what failed, and what to do next."""

    def __init__(self, what: str, hint: str = "", status: int = 1):
        super().__init__(what)
        self.hint = hint
        self.status = status


def _colour(code: str, text: str) -> str:
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        return text
    return f"\033[{code}m{text}\033[0m"


def step(text: str) -> None:
    """Announce a piece of work that takes a while."""
    elapsed = int(time.monotonic() - _began)
    stamp = f"[{elapsed // 60:3d}:{elapsed % 60:02d}]"
    print(f"{_colour('2', stamp)} {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    print(f"        {text}", file=sys.stderr, flush=True)


def _last_count(log: Path) -> str:
    """Find how far ninja is, from the end of its output."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        found = re.findall(rb"\[(\d+)/(\d+)\]", file.read())
    return f"{found[-1][0].decode()} of {found[-1][1].decode()}" if found else ""


def _watch(process: subprocess.Popen, log: Path) -> int:
    """Wait for a tool, telling once a minute how far it is; end it when we are ended."""
    try:
        while True:
            try:
                return process.wait(PROGRESS_SECONDS)
            except subprocess.TimeoutExpired:
                if count := _last_count(log):
                    step(f"  {count} steps")
    except BaseException:
        process.terminate()
        process.wait()
        raise


def run(argv: list, *, log: Path, what: str, cwd: Path | None = None,
        env: dict[str, str] | None = None) -> None:
    """Run a tool with its output in LOG; on failure say WHAT failed and show the log's end.

    The kernel ends the tool with this process (setpriv), so a killed build leaves nothing running.
    """
    words = [str(a) for a in argv]
    with open(log, "ab") as out:
        out.write(f"\n$ {' '.join(words)}\n".encode())
        out.flush()
        try:
            with subprocess.Popen([*ENDS_WITH_US, *words], cwd=cwd, env=env, stdout=out,
                                  stderr=out, stdin=subprocess.DEVNULL) as process:
                status = _watch(process, log)
        except FileNotFoundError as missing:
            raise Failure(f"{what}: {missing.filename} is not installed",
                          "run scripts/bootstrap") from missing
    if status == NOT_FOUND:
        raise Failure(f"{what}: {words[0]} is not installed", "run scripts/bootstrap")
    if status != 0:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        kept = keep_log(log)
        raise Failure(f"{what}: {Path(words[0]).name} ended with status {status}",
                      "the end of its output:\n    " + "\n    ".join(tail)
                      + f"\n    (all of it: {kept})")


def keep_log(log: Path) -> Path:
    """Copy a log out of a work folder that is about to vanish."""
    from cache import root
    kept = root() / "logs" / f"{log.parent.name}-{log.name}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(log.read_bytes())
    return kept


def main(function) -> None:
    """Run a script's main function: a Failure becomes one clear line, never a traceback."""
    name = Path(sys.argv[0]).name
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = function()
    except Failure as failure:
        print(f"{name}: {_colour('31', 'error')}: {failure}", file=sys.stderr)
        if failure.hint:
            print(f"{name}: hint: {failure.hint}", file=sys.stderr)
        sys.exit(failure.status)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(status or 0)
