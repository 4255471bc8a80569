# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on a host: one QEMU process, its sockets, and its end.

Theory of operation.  The harness listens on unix sockets in the machine's own run folder before
QEMU starts; QEMU connects to them, and the harness waits for either the connection or QEMU's
end, whichever comes first.  Nothing is polled, and a QEMU that cannot start is noticed at once,
with what it wrote to stderr.  A machine that is made *incoming* has the same arguments and waits
for its state.  stop() ends the process this object started and no other; should the harness itself
die, the kernel ends QEMU (setpriv --pdeathsig), so nothing stays behind.  Machines are therefore
started by the main thread, whose end it is that the kernel watches.
"""

import os
import re
import select
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from channel import Channel
from deadlines import Deadline, TooLate
from qmp import Lost, Qmp, QmpError

ECHO, COUNTER, COMMANDS, HTTP = 7, 8, 9, 80
SERVICES = (ECHO, COUNTER, COMMANDS, HTTP)
START_TIMEOUT = 120         # an emulated host that is busy takes its time
STDERR_SHOWN = 25           # lines


class MachineError(Exception):
    """QEMU did not start, or ended when it should not have."""


class HostLike(Protocol):
    def command(self, argv: list[str]) -> tuple[list[str], dict[str, str]]:
        """Return the argv and environment that run a program of this host."""


class GuestLike(Protocol):
    name: str
    qemu: str
    has_agent: bool

    def arguments(self, memory_mb: int | None = None, disk: Path | str | None = None,
                  net: bool | str = True) -> list[str]:
        """Return QEMU's arguments without back ends (serial0, agent0, net0)."""


@dataclass(frozen=True)
class Setup:
    """What both ends of a migration have in common."""

    guest: GuestLike
    memory_mb: int | None = None        # the guest's own when None
    disk: Path | None = None
    net: bool | str = True              # or the name of another card: "e1000"
    netdev: str | None = None           # in place of a network of its own with SERVICES
    extra: tuple[str, ...] = field(default=())


class _Listener:
    """A unix socket QEMU will connect to."""

    def __init__(self, path: Path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)

    def accept(self, process: subprocess.Popen, deadline: Deadline) -> socket.socket:
        """Return QEMU's connection; raise when QEMU ends or the time is over."""
        pidfd = os.pidfd_open(process.pid)
        try:
            ready, _, _ = select.select([self.socket, pidfd], [], [], deadline.left())
        finally:
            os.close(pidfd)
        if self.socket not in ready:
            if ready:
                raise MachineError(f"QEMU ended with status {process.wait()}")
            raise TooLate(f"{deadline.what}: nothing within {deadline.seconds:g} seconds")
        connection, _ = self.socket.accept()
        return connection

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)


class Machine:
    """A running QEMU; use it as a context, or call stop()."""

    def __init__(self, host: HostLike, setup: Setup, folder: Path, *,
                 incoming: str | None = None):
        self.host = host
        self.setup = setup
        self.folder = folder
        self.name = f"{setup.guest.name} on {host}"
        self._ports: dict[int, int] = {}
        folder.mkdir(parents=True)
        self._stderr = folder / "stderr"
        listeners = {name: _Listener(folder / name) for name in self._chardevs().values()}
        try:
            self.process = self._start(incoming)
            self._connect(listeners)
        except (MachineError, TooLate, Lost) as error:
            self._kill()
            raise MachineError(f"{self.name} did not start: {error}\n{self.story()}") from error
        except BaseException:
            self._kill()
            raise
        finally:
            for listener in listeners.values():
                listener.close()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Starting

    def _chardevs(self) -> dict[str, str]:
        """Which of QEMU's character devices speaks to which of our sockets."""
        agent = {"agent0": "agent"} if self.setup.guest.has_agent else {}
        return {"serial0": "console", **agent, "qmp0": "qmp"}

    def arguments(self, incoming: str | None) -> list[str]:
        setup = self.setup
        argv = [setup.guest.qemu,
                *setup.guest.arguments(memory_mb=setup.memory_mb, disk=setup.disk, net=setup.net)]
        for name, socket_name in self._chardevs().items():
            argv += ["-chardev", f"socket,id={name},path={self.folder / socket_name}"]
        argv += ["-mon", "chardev=qmp0,mode=control"]
        if setup.netdev:
            argv += ["-netdev", f"{setup.netdev},id=net0"]
        elif setup.net and setup.guest.has_agent:
            forwards = ",".join(f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in SERVICES)
            argv += ["-netdev", f"user,id=net0,{forwards}"]
        argv += setup.extra
        if incoming:
            argv += ["-incoming", incoming]
        return argv

    def _start(self, incoming: str | None) -> subprocess.Popen:
        argv, environment = self.host.command(self.arguments(incoming))
        if setpriv := shutil.which("setpriv"):
            argv = [setpriv, "--pdeathsig", "KILL", "--", *argv]
        (self.folder / "command").write_text(" ".join(argv) + "\n")
        with open(self._stderr, "wb") as stderr:
            return subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL,
                                    stdout=stderr, stderr=stderr)

    def _connect(self, listeners: dict[str, _Listener]) -> None:
        deadline = Deadline(START_TIMEOUT, "QEMU's start")
        self.console = Channel(listeners["console"].accept(self.process, deadline),
                               f"{self.name}: console", self.folder / "console.log")
        if self.setup.guest.has_agent:
            self.agent = Channel(listeners["agent"].accept(self.process, deadline),
                                 f"{self.name}: agent", self.folder / "agent.log")
        self.qmp = Qmp(listeners["qmp"].accept(self.process, deadline), self.name,
                       deadline.left())

    # While it runs

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def address(self, service: int) -> tuple[str, int]:
        """Return where on this machine a TCP service of the guest is reached."""
        if not self._ports:
            self._ports = parse_forwards(self.qmp.human("info usernet"))
        return "127.0.0.1", self._ports[service]

    def wait_ready(self, timeout: float = 120) -> str:
        """Wait until the guest has booted; return its boot id."""
        found = self.console.wait_line(r"QUASAR-READY boot_id=([0-9a-f-]{36})", timeout=timeout)
        return found.group(1)

    def report(self, timeout: float = 60) -> dict[str, Any]:
        return self.agent.request("report", timeout).value

    def verify(self, timeout: float = 120) -> dict[str, Any]:
        """Have the guest check every word of its memory pattern and its disk."""
        return self.agent.request("verify", timeout).value

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    def story(self) -> str:
        """Tell what is known when something went wrong."""
        lines = [f"--- {self.name}", (self.folder / "command").read_text().strip()
                 if (self.folder / "command").exists() else "(not started)"]
        if process := getattr(self, "process", None):
            status = process.poll()
            lines.append("it runs" if status is None else f"it ended with status {status}")
        if text := self.stderr().splitlines():
            lines += ["its stderr:", *(f"  {line}" for line in text[-STDERR_SHOWN:])]
        if console := getattr(self, "console", None):
            lines += ["the console's end:", *(f"  {line}" for line in console.tail())]
        return "\n".join(lines)

    # The end

    def _kill(self) -> None:
        process = getattr(self, "process", None)
        if process and process.poll() is None:
            process.kill()
            process.wait()

    def stop(self, timeout: float = 10) -> int:
        """End QEMU and return its exit status."""
        if self.running:
            try:
                self.qmp.execute("quit", timeout=timeout)
            except (QmpError, Lost, TooLate):
                pass
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._kill()
        for channel in ("qmp", "console", "agent"):
            if hasattr(self, channel):
                getattr(self, channel).close()
        return self.process.wait()


def parse_forwards(text: str) -> dict[int, int]:
    """Read the guest port to host port table out of `info usernet`."""
    rows = re.findall(r"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)", text)
    return {int(guest): int(host) for host, guest in rows}

