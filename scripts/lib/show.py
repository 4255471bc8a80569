# SPDX-License-Identifier: GPL-2.0-or-later
"""How a demonstration looks: headings, ticks, a progress bar and a table.

On a terminal the line that is being worked on is rewritten; elsewhere each thing is one plain
line.  Colour only on a terminal, and not with NO_COLOR.  Narration to stderr, results to stdout.
"""

import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

WIDTH = 96
CELLS = 28
STEPS = 4                   # progress lines where there is no terminal
INDENT = "    "

_pending = False            # a line on the terminal waits to be rewritten
_headings = 0


def _styled(code: str, text: str, stream: TextIO = sys.stderr) -> str:
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\033[{code}m{text}\033[0m"


def _glyph(pretty: str, plain: str, stream: TextIO = sys.stderr) -> str:
    try:
        pretty.encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return plain
    return pretty


def _live() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def _line(text: str) -> None:
    """Print a line that stays."""
    global _pending
    start = "\r\033[K" if _pending else ""
    _pending = False
    print(start + text, file=sys.stderr, flush=True)


def _rewrite(text: str) -> None:
    """Print a line that the next one replaces; only on a terminal."""
    global _pending
    if _live():
        _pending = True
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def interrupt() -> None:
    """Leave the line that was being worked on."""
    if _pending:
        _line("")


def _wrapped(text: str) -> None:
    for line in textwrap.wrap(text, _width() - len(INDENT)):
        _line(INDENT + _styled("2", line))


def opening(text: str) -> None:
    _line("")
    _line(_styled("1", text))


def heading(text: str, explanation: str) -> None:
    global _headings
    _headings += 1
    _line("")
    _line(_styled("1;36", f"{_headings}  {text}"))
    _wrapped(explanation)


def _marked(mark: str, text: str, detail: str) -> None:
    gap = max(2, 62 - len(text))
    _line(f"{INDENT}{mark} {text}" + (" " * gap + _styled("2", detail) if detail else ""))


def done(text: str, detail: str = "") -> None:
    _marked(_styled("32", _glyph("✓", "ok")), text, detail)


def bad(text: str) -> None:
    _marked(_styled("31", _glyph("✗", "NO")), text, "")


def note(text: str) -> None:
    _line(f"{INDENT}  {_styled('2', text)}")


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show that something goes on; the next line replaces it."""
    if not _live():
        _line(f"{INDENT}  {text}")
        yield
        return
    ended = threading.Event()

    def turn() -> None:
        frames = _glyph("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\")
        seconds = 0.0
        while True:
            _rewrite(f"{INDENT}{_styled('36', frames[int(seconds * 10) % len(frames)])} {text}"
                     f"  {_styled('2', f'{seconds:.0f} s')}")
            if ended.wait(0.1):
                return
            seconds += 0.1

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Bar:
    """Progress of one thing, 0 to 1."""

    def __init__(self, text: str):
        self._text = text
        self._told = 0
        self._most = 0.0
        self._last = -1.0
        if not _live():
            _line(f"{INDENT}  {text}")

    def update(self, part: float, detail: str) -> None:
        # What is left grows again with each round; a bar that goes back would only confuse.
        self._most = max(self._most, min(1.0, part))
        if not _live():
            if int(self._most * STEPS) > self._told:
                self._told = int(self._most * STEPS)
                _line(f"{INDENT}  {self._text}: {self._told * 100 // STEPS} %, {detail}")
            return
        full = int(self._most * CELLS)
        bar = (_styled("36", _glyph("█", "#") * full)
               + _styled("2", _glyph("░", ".") * (CELLS - full)))
        _rewrite(f"{INDENT}  {self._text} {bar} {self._most:4.0%}  {_styled('2', detail)}")

    def finish(self, text: str, detail: str) -> None:
        done(text, detail)


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print the results to stdout."""
    _line("")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = _glyph("─", "-", sys.stdout)

    def lay(row: list[str]) -> str:
        first, *rest = [cell.ljust(width) for cell, width in zip(row, widths)]
        return "   ".join([INDENT + first, *rest]).rstrip()

    print(_styled("1", lay(head), sys.stdout))
    print(INDENT + "   ".join(rule * width for width in widths))
    for row in rows:
        print(lay(row))
    sys.stdout.flush()


def conclusion(good: bool, text: str) -> None:
    mark = _glyph("✓", "ok", sys.stdout) if good else _glyph("✗", "NO", sys.stdout)
    print(f"\n{INDENT}{_styled('1;32' if good else '1;31', f'{mark} {text}', sys.stdout)}",
          flush=True)
