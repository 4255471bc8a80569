# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay and its peers, each set up around one guest, with what it needs and no more.

A contestant is a function that brings a guest to life in a *scene* and leaves clean-up with the
scene's stack.  All are told the same: the guest is 10.0.2.15, its gateway 10.0.2.2 leads to the
loopback of the host.

``slirp4netns`` is libslirp behind a tap device: what ``-netdev user`` is behind an emulated card.
``pasta`` is passt for a namespace; both read the guest's tap themselves.  The relay and passt are
given frames over a stream, by tap-card.c, which stands for QEMU's side of it: what it uses is
counted apart from what they use, as ``card_cpu``.  The *wire* is such a stream with a card at each
end and nothing between, as two QEMUs with ``-netdev stream`` have it.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cell import CARD, GATEWAY, PATIENCE, Cell, CellError
from machine import ECHO, Machine, Setup
from netplan import BETWEEN, LINK, NAMESPACE, VM, Case
from network import free_port
from places import Place, guest
from shaper import Shaper

import guest as relayguest
import relaylib

TAP_CARD = os.environ.get("QUASAR_TAP_CARD", "tap-card")
ADDRESSES = ("10.0.2.15", "10.0.2.16")
NAMES = ("one", "two")
LOOPBACK = "127.0.0.1"
POLL = 0.02
END = 10.0


class Absent(Exception):
    """A peer is not installed here."""


class SetupError(Exception):
    """A contestant or its guest did not come up."""


@dataclass
class Scene:
    """A guest with its network, and which processes that takes."""

    case: Case
    folder: Path
    stack: ExitStack
    cells: list[Cell] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    cards: list[int] = field(default_factory=list)
    proxies: list[int] = field(default_factory=list)        # that delay
    dialled: tuple[str, int] | None = None      # where the VM's echo is reached
    logs: list[Path] = field(default_factory=list)

    def add_cell(self) -> Cell:
        cell = self.stack.enter_context(Cell(ADDRESSES[len(self.cells)], self.case.mtu))
        self.cells.append(cell)
        return cell

    def start(self, name: str, argv: list[str], *descriptors: int) -> subprocess.Popen[bytes]:
        """Start a program that ends with the scene; what it says is kept for when it fails."""
        log = self.folder / f"{name}-{len(self.logs)}.log"
        self.logs.append(log)
        with open(log, "wb") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       pass_fds=descriptors)
        self.stack.callback(_stop, process)
        return process

    def attach_card(self, cell: Cell, link: socket.socket) -> None:
        """Give the guest a card whose frames go over a stream."""
        tap = cell.make_card()
        try:
            cell.configure()
            card = self.start("card", [TAP_CARD, str(tap), str(link.fileno())], tap, link.fileno())
        finally:
            os.close(tap)
            link.close()
        self.cards.append(card.pid)

    def over_link(self, path: str) -> str:
        """Return where a unix socket is dialled: over the delayed link if the case has one."""
        if self.case.place != LINK:
            return path
        link = self.stack.enter_context(
            Shaper(path, listen=f"{self.folder}/link{len(self.cards)}", delay=self.case.delay))
        self.proxies.append(link.pid)
        return str(link.address)

    def story(self) -> str:
        """The end of what the programs said."""
        lines = []
        for log in self.logs:
            said = [line for line in log.read_text(errors="replace").splitlines()
                    if line and not line.startswith("Failed to send")]     # passt, to no syslog
            lines += said[-2:]
        return "; ".join(lines)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/bin")
    if not found:
        raise Absent(f"{program} is not installed")
    return found


def _retry(what: Callable[[], None], process: subprocess.Popen[bytes]) -> None:
    """Until a program that tells nobody when it is ready has done its part."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return what()
        except (OSError, CellError) as error:
            if process.poll() is not None:
                raise SetupError(f"it ended with status {process.returncode}") from error
            if time.monotonic() > deadline:
                raise SetupError(f"not ready within {PATIENCE:g} seconds: {error}") from error
            time.sleep(POLL)


# Guests that are namespaces

def slirp4netns(scene: Scene) -> None:
    cell = scene.add_cell()
    process = scene.start("slirp4netns", [
        _find("slirp4netns"), f"--mtu={scene.case.mtu}",
        f"--userns-path=/proc/{cell.pid}/ns/user", str(cell.pid), CARD])
    _retry(cell.configure, process)
    scene.pids.append(process.pid)


def _passt_options(scene: Scene) -> list[str]:
    # Without a user to become it asks for one named nobody, who may not see our sockets.
    user = ["--runas", f"{os.getuid()}:{os.getgid()}"] if os.getuid() == 0 else []
    return ["--foreground", *user, "-4", "--address", ADDRESSES[0], "--netmask", "255.255.255.0",
            "--gateway", GATEWAY, "--mtu", str(scene.case.mtu)]


def pasta(scene: Scene) -> None:
    cell = scene.add_cell()
    process = scene.start("pasta", [
        _find("pasta"), *_passt_options(scene), "--ns-ifname", CARD, "-t", "none", "-u", "none",
        "-T", "none", "-U", "none", str(cell.pid)])
    _retry(cell.configure, process)
    scene.pids.append(process.pid)


def _start_passt(scene: Scene, *more: str) -> str:
    """Start passt; return its socket."""
    path = f"{scene.folder}/passt"
    process = scene.start("passt",
                          [_find("passt"), *_passt_options(scene), "--socket", path, *more])
    _retry(lambda: os.stat(path) and None, process)
    scene.pids.append(process.pid)
    return path


def passt(scene: Scene) -> None:
    path = scene.over_link(_start_passt(scene))
    scene.attach_card(scene.add_cell(), relayguest.connect(path))


def _relay(scene: Scene, nat: str, names: tuple[str, ...] = NAMES[:1],
           **more: str) -> relaylib.Relay:
    """Start a relay with an identity for each name."""
    relay = scene.stack.enter_context(relaylib.Relay(
        {f"bench/{name}": {"secret": secrets.token_bytes(32).hex(), "host-loopback": "true",
                           "nat": nat, "mtu": str(scene.case.mtu), "address": address, **more}
         for name, address in zip(names, ADDRESSES)}, **{"log-level": "warning"}))
    assert relay.process is not None
    scene.pids.append(relay.process.pid)
    scene.logs.append(Path(relay.log_path))
    return relay


def _add_workers(scene: Scene, relay: relaylib.Relay) -> None:
    count = len(relay.identities)
    workers = relaylib.wait_for(lambda: len(found := relay.workers()) == count and found)
    scene.pids += workers.values()                  # type: ignore[attr-defined]


def _relayed(scene: Scene, nat: str, count: int = 1) -> None:
    relay = _relay(scene, nat, NAMES[:count])
    for key in relay.identities:
        link = relayguest.attach(scene.over_link(relay.unix), key, relay.secret(key))
        link.sock.settimeout(None)
        scene.attach_card(scene.add_cell(), link.sock)
    _add_workers(scene, relay)


def relay_slirp(scene: Scene) -> None:
    _relayed(scene, "slirp")


def relay_scaled(scene: Scene) -> None:
    _relayed(scene, "scaled")


def relay_switch(scene: Scene) -> None:
    _relayed(scene, "scaled", count=2)


def wire(scene: Scene) -> None:
    for link in socket.socketpair():
        scene.attach_card(scene.add_cell(), link)


# Guests that are VMs

def _boot(scene: Scene, netdev: str | None, *extra: str) -> Machine:
    machine = scene.stack.enter_context(Machine(
        Place("x86_64"), Setup(guest("linux-x86_64"), netdev=netdev, extra=extra),
        scene.folder / "vm"))
    scene.cards.append(machine.process.pid)
    machine.wait_ready()
    return machine


def vm_user(scene: Scene) -> None:
    scene.dialled = _boot(scene, None).address(ECHO)


def _vm_relay(scene: Scene, nat: str) -> None:
    port = free_port()
    scene.dialled = LOOPBACK, port
    relay = _relay(scene, nat, forward=f"tcp:{LOOPBACK}:{port}:{ECHO}")
    _boot(scene, f"relay,path={relay.unix},tenant=bench,identity={NAMES[0]},secret=key0",
          "-object", f"secret,id=key0,format=base64,file={_key_file(scene, relay)}")
    _add_workers(scene, relay)


def _key_file(scene: Scene, relay: relaylib.Relay) -> Path:
    path = scene.folder / "key"
    with open(path, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(base64.b64encode(relay.secret(f"bench/{NAMES[0]}")))
    return path


def vm_relay_slirp(scene: Scene) -> None:
    _vm_relay(scene, "slirp")


def vm_relay_scaled(scene: Scene) -> None:
    _vm_relay(scene, "scaled")


def vm_passt(scene: Scene) -> None:
    port = free_port()
    scene.dialled = LOOPBACK, port
    path = _start_passt(scene, "-t", f"{LOOPBACK}/{port}:{ECHO}")
    _boot(scene, f"stream,server=off,addr.type=unix,addr.path={path}")


@dataclass(frozen=True)
class Contestant:
    name: str
    title: str
    run: Callable[[Scene], None]
    guest: str = NAMESPACE
    link: bool = False          # its NAT can be elsewhere than the guest
    pair: bool = False          # two guests
    ours: bool = False

    def takes_part(self, case: Case) -> bool:
        return (self.guest == case.guest and self.pair == (case.ways == (BETWEEN,))
                and (self.link or case.place != LINK))


# libslirp alone comes first: the others are held against it
CONTESTANTS = (
    Contestant("slirp4netns", "libslirp (slirp4netns)", slirp4netns),
    Contestant("pasta", "passt, on the tap (pasta)", pasta),
    Contestant("passt", "passt, over a stream", passt, link=True),
    Contestant("relay-slirp", "relay, nat=slirp", relay_slirp, link=True, ours=True),
    Contestant("relay-scaled", "relay, nat=scaled", relay_scaled, link=True, ours=True),
    Contestant("wire", "a stream and nothing else", wire, pair=True),
    Contestant("relay-switch", "relay", relay_switch, pair=True, ours=True),
    Contestant("user", "-netdev user", vm_user, guest=VM),
    Contestant("vm-passt", "-netdev stream, passt", vm_passt, guest=VM),
    Contestant("vm-relay-slirp", "-netdev relay, nat=slirp", vm_relay_slirp, guest=VM, ours=True),
    Contestant("vm-relay-scaled", "-netdev relay, nat=scaled", vm_relay_scaled, guest=VM,
               ours=True),
)


def taking_part(case: Case) -> list[Contestant]:
    return [one for one in CONTESTANTS if one.takes_part(case)]


@contextmanager
def staged(who: Contestant, case: Case, folder: Path) -> Iterator[Scene]:
    """Bring a contestant's guest to life; all of it ends with the context."""
    folder.mkdir()
    try:
        with ExitStack() as stack:
            scene = Scene(case, folder, stack)
            try:
                who.run(scene)
            except (SetupError, CellError, OSError, AssertionError, TimeoutError) as error:
                raise SetupError(f"{error}: {scene.story()}".strip(": ")) from error
            yield scene
    finally:
        shutil.rmtree(folder, ignore_errors=True)
