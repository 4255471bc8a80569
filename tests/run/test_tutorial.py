# SPDX-License-Identifier: GPL-2.0-or-later
"""The tutorial, as somebody types it: each command of docs/tutorial.rst, in two terminals.

What is on that page is what is run, in a home of its own; only its ports are others. A command
must succeed, unless the page shows its error, and print what the page shows: words may not differ,
while figures, ids, bars and the home may. The second terminal holds one ssh session to the guest,
in which it counts; it must count on, without a gap and in the same boot, whenever the page says
that the guest has arrived somewhere. Nothing stands in for anything: QEMUs, hosts, relay and sshd
are real.
"""

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import FOREIGN, TOP, Launcher

import cache
from deadlines import Deadline
from network import free_port
from places import Place
from say import Failure

PAGE = TOP / "docs" / "tutorial.rst"
PORTS = ("4710", "2222")
KINDS = ("x86_64", "ppc64le", "s390x")
# Of one command, and of the guest's next word on a host that is emulated and busy.
LONG = 400
PROMPT = re.compile(r"tutorial:(\d+):\Z")
GUEST_PROMPT = "root@quasar:~# "
GUEST_LINE = re.compile(re.escape(GUEST_PROMPT) + r"\Z")
COUNT = re.compile(r"^(\d+) ([0-9a-f]{8}-[0-9a-f-]{27})$", re.MULTILINE)
ARRIVES = re.compile(r"quasar-run (migrate (?!.*--dry-run)|restore )")


@dataclass
class Command:
    """What is typed at a prompt, and the lines that the page shows below it."""
    terminal: str
    text: str
    shown: list[str] = field(default_factory=list)


@dataclass
class Script:
    """A file that the page has written."""
    name: str
    text: str


def literal_blocks(page: str) -> Iterator[tuple[str, list[str]]]:
    """The paragraph before each literal block, and the block's lines."""
    pattern = re.compile(r"((?:^\S.*\n)+)\n((?:^    .*\n|^\n)+)", re.MULTILINE)
    for match in pattern.finditer(page):
        if match[1].rstrip().endswith("::"):
            yield match[1], [line[4:] for line in match[2].rstrip().splitlines()]


def steps(page: str) -> list[Command | Script]:
    found: list[Command | Script] = []
    for before, block in literal_blocks(page):
        if not re.match(r"2?\$ ", block[0]):
            name = re.findall(r"``(\S+)``", before)[-1]
            found.append(Script(name, "\n".join(block) + "\n"))
            continue
        for line in block:
            last = found[-1] if found else None
            if prompt := re.match(r"(2?\$ |root@quasar:~# )", line):
                found.append(Command(prompt[1], line[prompt.end():]))
            elif isinstance(last, Command) and last.text.endswith("\\") and not last.shown:
                last.text += "\n" + line
            else:
                assert isinstance(last, Command), line
                last.shown.append(line)
    return found


def words(text: str, home: str) -> list[str]:
    """What may not differ: a terminal's lines without figures, ids, bars, and what builds tell."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r\n", "\n")
    text = text.replace(home, "/home/YOU")
    lines = [line.rpartition("\r")[2].strip() for line in text.split("\n")
             if not re.match(r"\[ *\d+:\d\d\] | {8}waiting for another build", line)]
    for pattern, word in ((r"\[[#.]+\]", "BAR"), (r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b", "ID"),
                          (r"\d+(\.\d+)?\s([kMG]B|bytes)\b", "SIZE"), (r"\d+", "N"),
                          (r"\s+", " ")):
        lines = [re.sub(pattern, word, line) for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def as_shown(told: list[str], shown: list[str]) -> bool:
    """Whether the lines are those of the page, where "..." stands for any."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else
                      re.escape(line).replace(r"\.\.\.", ".*") + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(line + "\n" for line in told)) is not None


class Terminal:
    """A shell on a terminal, read all the time as a person's would be."""

    def __init__(self, environment: dict[str, str], folder: Path):
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        settings = termios.tcgetattr(theirs)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        self.shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--noprofile", "--norc", "--noediting", "-i"], cwd=folder,
            env={**environment, "TERM": "dumb", "PS1": "tutorial:$?:", "PS2": ""},
            stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._text = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.until(PROMPT, 60)

    def _read(self) -> None:
        with contextlib.suppress(OSError):      # the terminal's other end is gone
            while data := os.read(self._ours, 65536):
                with self._more:
                    self._text += data.decode(errors="replace")
                    self._more.notify_all()

    def until(self, pattern: re.Pattern[str], seconds: float = LONG) -> tuple[str, re.Match[str]]:
        """What was told until the pattern, and its match; both are taken away."""
        deadline = Deadline(seconds, f"{pattern.pattern} on the terminal")
        with self._more:
            while not (match := pattern.search(self._text.replace("\r\n", "\n"))):
                try:
                    self._more.wait(deadline.left())
                except Exception as error:
                    raise AssertionError(f"{error}; it has:\n{self._text[-4000:]}") from error
            text = self._text.replace("\r\n", "\n")
            self._text = text[match.end():]
            return text[:match.start()], match

    def pending(self, pattern: re.Pattern[str]) -> int:
        """How often the pattern is in what nobody asked for yet."""
        with self._more:
            return len(pattern.findall(self._text.replace("\r\n", "\n")))

    def type(self, text: str) -> None:
        os.write(self._ours, (text + "\n").encode())

    def close(self) -> None:
        self.shell.kill()
        self.shell.wait()
        os.close(self._ours)


class Counter:
    """The session in which the guest counts."""

    def __init__(self, terminal: Terminal):
        self.terminal = terminal
        self.count = 0
        self.boot = ""
        self.go_on()

    def go_on(self, times: int = 3) -> None:
        """So many more lines, the next numbers, of the same boot, and nothing else."""
        for _ in range(times):
            told, match = self.terminal.until(COUNT)
            assert told.strip() == "", told
            assert int(match[1]) == self.count + 1
            assert self.boot in ("", match[2])
            self.count, self.boot = int(match[1]), match[2]

    def go_on_from_now(self) -> None:
        self.go_on(self.terminal.pending(COUNT) + 3)


class Reader:
    """Somebody who does what the page says."""

    def __init__(self, home: Path):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.home = home
        self.environment = {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8", "NO_COLOR": "1",
                            "QUASAR_CACHE": str(cache.root())}
        self.terminals = {"$ ": Terminal(self.environment, TOP),
                          "2$ ": Terminal(self.environment, home)}
        self.terminals[GUEST_PROMPT] = self.terminals["2$ "]
        self.counter: Counter | None = None

    def write(self, script: Script) -> None:
        (self.home / "tutorial" / script.name).write_text(script.text)

    def do(self, command: Command) -> None:
        terminal = self.terminals[command.terminal]
        terminal.type(command.text)
        if command.terminal == GUEST_PROMPT:
            self.counter = Counter(terminal)
            return
        prompt = GUEST_LINE if command.text.startswith("ssh ") else PROMPT
        told, match = terminal.until(prompt)
        lines = words(told, str(self.home))
        shown = words("\n".join(command.shown), str(self.home))
        assert as_shown(lines, shown), (command.text, lines, shown)
        if prompt is PROMPT:
            fails = any(line.startswith("error: ") for line in command.shown)
            assert (match[1] != "0") == fails, (command.text, told)
        if self.counter and ARRIVES.search(command.text):
            self.counter.go_on_from_now()

    def end(self) -> None:
        """Whatever is left, wherever it stopped."""
        for terminal in {id(one): one for one in self.terminals.values()}.values():
            terminal.close()
        folder = self.home / "tutorial"
        if not folder.exists():
            return
        programs = Place("x86_64").host.bin()
        for kind in KINDS:
            Launcher(folder / kind, self.environment, str(programs / "quasar-run")).finish()
        for word in (["identity", "del", "default/debian"], ["stop"]):
            subprocess.run([programs / "quasar-relayctl", "--config", "relay.conf", *word],
                           cwd=folder, env=self.environment, check=False, capture_output=True,
                           timeout=60)


@pytest.fixture
def home(pytestconfig: pytest.Config, guest: Any) -> Iterator[Path]:
    """An empty home, where everything that takes long to build is built."""
    wanted = os.environ.get("QUASAR_TEST_HOSTS")
    for kind in KINDS:
        if wanted and kind not in wanted.split(","):
            pytest.skip(f"host {kind} is not among {wanted}")
        place = Place(kind)
        if not pytestconfig.getoption("--no-build"):
            place.build(["x86_64"])
        try:
            place.command(["quasar-run"])
            place.command(["qemu-system-x86_64"])
        except Failure as failure:
            pytest.skip(str(failure))
    guest("debian-x86_64")
    folder = Path(tempfile.mkdtemp(prefix="qt", dir="/tmp"))    # short, for the relay's sockets
    yield folder
    shutil.rmtree(folder)


def test_the_tutorial(home: Path) -> None:
    page = PAGE.read_text()
    for port in PORTS:
        assert port in page
        page = page.replace(port, str(free_port()))
    reader = Reader(home)
    began = time.monotonic()
    try:
        for step in steps(page):
            if isinstance(step, Script):
                reader.write(step)
            else:
                reader.do(step)
                print(f"{time.monotonic() - began:6.1f} s  {step.terminal}{step.text}")
        assert reader.counter and reader.counter.count > 9
    finally:
        reader.end()


def test_what_differs_is_seen() -> None:
    """The comparison knows words from figures."""
    shown = words("debian [##..] done  100%  350.6 MB sent\n...\nweb is at power9", "/nowhere")
    for told, same in (("x\rdebian [####] done 7% 3 bytes sent\r\na\r\nweb is at power1\r\n", True),
                       ("debian [####] done 7% 3 kB sent\nweb is at power9\n", True),
                       ("debian [####] done 7% 3 kB left\nweb is at power9\n", False),
                       ("debian [####] done 7% 3 kB sent\nweb was at power9\n", False),
                       ("debian [####] done 7% 3 kB sent\nweb is at power9\nand more\n", False)):
        assert as_shown(words(told, "/nowhere"), shown) == same, told
