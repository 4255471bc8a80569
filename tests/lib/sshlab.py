# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts with a network of their own each, and a real sshd.

    with Lab(folder) as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.link(a, b)                       # a cable: 10.77.1.1 and 10.77.1.2
        b.serve("exec sh -c \"$SSH_ORIGINAL_COMMAND\"")
        a.run("ssh", *lab.ssh_options(), b.address(a), "true")

A host is a network namespace, held by a process that does nothing; hosts share files and processes.
Each sshd has its own configuration, key, log and port 22 in its own network; nothing below /etc is
read but the user's entry. All of it ends with the lab, or with the process that made it: the
kernel sees to that. It needs root, for the namespaces and for sshd.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deadlines import Deadline

SSHD = "/usr/sbin/sshd"
SEPARATION = Path("/run/sshd")      # an empty folder that sshd insists on
NETWORK = "10.77"
# Both end with the process that started them.
BOUND = ["setpriv", "--pdeathsig", "KILL", "--"]


class Missing(Exception):
    """What is needed is not there, in words for a skipped test."""


def _quiet(argv: list[str], **more: Any) -> subprocess.CompletedProcess:
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, **more)


def _need() -> None:
    if os.geteuid() != 0:
        raise Missing("network namespaces and sshd need root")
    if not Path(SSHD).exists():
        raise Missing("openssh-server is not installed")
    for tool in ("ip", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen"):
        if not shutil.which(tool):
            raise Missing(f"{tool} is not there")
    tried = _quiet(["unshare", "--net", "--", "ip", "link", "add", "lab0", "type", "veth", "peer",
                    "name", "lab1"])
    if tried.returncode != 0:
        raise Missing(f"no network can be made here: {tried.stderr.strip()}")


class Host:
    """A network of its own; `serve` adds an sshd, `stop` ends it."""

    def __init__(self, name: str, lab: "Lab"):
        self.name = name
        self.lab = lab
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.addresses: dict[str, str] = {}
        self._sshd: subprocess.Popen | None = None
        self._holder = subprocess.Popen([*BOUND, "unshare", "--net", "--", "sleep", "infinity"],
                                        stdin=subprocess.DEVNULL)
        self._wait_apart()
        self.must("ip", "link", "set", "lo", "up")

    def _wait_apart(self) -> None:
        """Until the holder has left our network."""
        ours = os.readlink("/proc/self/ns/net")
        deadline = Deadline(30, f"the network of {self.name}")
        while os.readlink(f"/proc/{self.pid}/ns/net") == ours:
            deadline.left()
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        return self._holder.pid

    def inside(self, *argv: object) -> list[str]:
        """The command line that runs a program on this host, as the very process it starts."""
        return ["nsenter", "--target", str(self.pid), "--net", "--", *map(str, argv)]

    def run(self, *argv: object) -> subprocess.CompletedProcess:
        return _quiet(self.inside(*argv))

    def must(self, *argv: object) -> str:
        done = self.run(*argv)
        if done.returncode != 0:
            raise Missing(f"on {self.name}, {' '.join(map(str, argv))}: {done.stderr.strip()}")
        return done.stdout

    def address(self, seen_from: "Host") -> str:
        return self.addresses[seen_from.name]

    def serve(self, command: str) -> None:
        """Start an sshd that runs this, as a shell script, whatever it is asked to run."""
        shell = self.folder / "shell"
        shell.write_text(f"#!/bin/sh\n{command}\n")
        shell.chmod(0o755)
        key = self.folder / "host_key"
        if not key.exists():
            self.lab.make_key(key)
        (self.folder / "sshd_config").write_text(f"""
Port 22
ListenAddress 0.0.0.0
HostKey {key}
PidFile none
AuthorizedKeysFile {self.lab.folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserRC no
UseDNS no
MaxStartups 100
LogLevel VERBOSE
ForceCommand {shell}
""")
        self._sshd = subprocess.Popen(
            self.inside(*BOUND, SSHD, "-D", "-E", self.log, "-f", self.folder / "sshd_config"),
            stdin=subprocess.DEVNULL)
        deadline = Deadline(30, f"sshd on {self.name}")
        while "Server listening" not in self.told():
            if self._sshd.poll() is not None:
                raise Missing(f"sshd on {self.name} does not start: {self.told()}")
            deadline.left()
            time.sleep(0.02)

    @property
    def log(self) -> Path:
        return self.folder / "sshd.log"

    def told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def logins(self) -> int:
        """How often somebody logged in so far."""
        return self.told().count("Accepted publickey")

    def sessions(self) -> list[int]:
        """The processes of sshd that serve connections now."""
        assert self._sshd
        children = Path(f"/proc/{self._sshd.pid}/task/{self._sshd.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def stop(self) -> None:
        """End sshd and every connection to it."""
        if self._sshd:
            pids = self.sessions() if self._sshd.poll() is None else []
            self._sshd.kill()
            self._sshd.wait()
            for pid in pids:
                _kill_tree(pid)
            self._sshd = None
            self.log.unlink()

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.stop()
        self._holder.kill()
        self._holder.wait()


def _kill_tree(pid: int) -> None:
    """The processes of one connection: sshd has a second one where it separates privileges."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        name = Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return
    if name.startswith("sshd"):
        for child in children:
            _kill_tree(int(child))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


class Lab:
    """Hosts, cables between them, and one user's keys."""

    def __init__(self, folder: Path):
        _need()
        self.folder = folder
        self.hosts: list[Host] = []
        self._cables = 0
        self._made = not SEPARATION.exists()
        if self._made:
            SEPARATION.mkdir(mode=0o755)
        self.make_key(folder / "key")
        self.make_key(folder / "other_key")
        self.known = folder / "known_hosts"
        self.known.touch()
        for name, key in (("config", "key"), ("stranger", "other_key")):
            self._write_config(folder / name, folder / key, self.known)
        self._write_config(folder / "newcomer", folder / "key", folder / "nobody_known")

    def _write_config(self, path: Path, key: Path, known: Path) -> None:
        path.write_text(f"""
Host *
IdentityFile {key}
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {known}
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
ConnectTimeout 5
User root
""")

    def make_key(self, path: Path) -> None:
        done = _quiet(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f",
                       str(path)])
        if done.returncode != 0:
            raise Missing(f"no key could be made: {done.stderr.strip()}")

    def ssh(self, config: str = "config") -> str:
        """ssh as a command line: as its owner, as a `stranger`, or as a `newcomer` who knows
        nobody's key."""
        return f"ssh -F {self.folder / config}"

    def host(self, name: str) -> Host:
        made = Host(name, self)
        self.hosts.append(made)
        return made

    def link(self, one: Host, other: Host) -> None:
        self._cables += 1
        ends = f"to-{other.name}", f"to-{one.name}"
        one.must("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns",
                 other.pid)
        for number, (host, end, far) in enumerate(((one, ends[0], other), (other, ends[1], one)),
                                                  1):
            address = f"{NETWORK}.{self._cables}.{number}"
            host.must("ip", "address", "add", f"{address}/24", "dev", end)
            host.must("ip", "link", "set", end, "up")
            host.addresses[far.name] = address

    def know(self, host: Host) -> None:
        """Its key, under all its addresses."""
        key = " ".join((host.folder / "host_key.pub").read_text().split()[:2])
        with open(self.known, "a") as file:
            file.writelines(f"{address} {key}\n" for address in host.addresses.values())

    @contextlib.contextmanager
    def only_ssh(self, host: Host, peer: Host) -> Iterator[None]:
        """What HOST answers to PEER from another port than 22 is lost, as behind a firewall."""
        rules = (["pref", "10", "ipproto", "tcp", "sport", "22", "lookup", "main"],
                 ["pref", "20", "from", host.address(peer), "to", peer.address(host), "blackhole"])
        for rule in rules:
            host.must("ip", "rule", "add", *rule)
        try:
            yield
        finally:
            for rule in rules:
                host.must("ip", "rule", "del", *rule)

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        if self._made:
            with contextlib.suppress(OSError):
                SEPARATION.rmdir()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
