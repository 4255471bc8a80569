# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs on a relay: who is attached, who is told why not, and connections that stay open in moves.

The relay is a real one, with a forward to the guest's echo service; the guest is a Linux that asks
it for its address.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Elsewhere, Launcher
from test_migrate import ANY_PAUSE, HELLO, left_files, offer, way_to
from test_strangers import DEFINITION, make
from test_words import define

from gateway import KEY, Gateway, Talker, free_port
from places import Place
from relaylib import wait_for

SECRET = "0123456789abcdef" * 4
PHASES = ["prepare", "bulk", "rounds", "stop", "commit"]


@pytest.fixture
def gateway(host: Path) -> Iterator[Gateway]:
    one = Gateway(Place("x86_64"))
    with one.relay:
        yield one


@pytest.fixture
def secret(gateway: Gateway, tmp_path: Path) -> Path:
    return gateway.write_secret(tmp_path / "web.key")


def net_of(gateway: Gateway, identity: str = "web") -> str:
    host, port = gateway.relay.where("tls")
    return f"relay:{host}:{port}/{identity}"


def unix_of(gateway: Gateway, identity: str = "web") -> str:
    return f"relay:unix={gateway.relay.unix}:{identity}"


@pytest.fixture
def linux(quasar: Launcher, guest: Callable[[str], Any]) -> Callable[..., Any]:
    """Starts a VM `web` with a Linux in it."""
    made = guest("linux-x86_64")

    def start(net: str, *more: object, launcher: Launcher = quasar) -> subprocess.CompletedProcess:
        return launcher.run("start", "web", "--kernel", made.kernel, "--initrd", made.initrd,
                            "--append", made.append, "--memory", "256M", "--net", net, *more)

    return start


@pytest.fixture
def web(linux: Callable[..., Any], quasar: Launcher, gateway: Gateway, secret: Path) -> Launcher:
    """With `web` attached, over TLS."""
    done = linux(net_of(gateway), "--relay-secret", secret)
    assert (done.returncode, done.stderr) == (0, "web runs\n")
    gateway.wait_guest()
    return quasar


@pytest.fixture
def there(quasar: Launcher, tmp_path: Path) -> Iterator[Launcher]:
    other = Launcher(tmp_path / "there", quasar.environment)
    yield other
    other.finish()


@pytest.fixture
def rsh(there: Launcher, tmp_path: Path) -> Path:
    return way_to(there.root, tmp_path / "rsh")


def command_line(launcher: Launcher, name: str) -> str:
    pid = launcher.state(name)["pid"]
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def tells_nothing(launcher: Launcher, secret: str) -> None:
    """The secret stands in one file, which nobody else reads, and QEMU was told of it otherwise."""
    assert secret not in command_line(launcher, "web")
    assert secret not in launcher.good("show", "web") + launcher.good("show", "web", "--json")
    holders = [path for path in launcher.root.rglob("*")
               if path.is_file() and secret.encode() in path.read_bytes()]
    assert [path.name for path in holders] == ["web.secret"]
    assert holders[0].stat().st_mode & 0o777 == 0o600


def test_attached(web: Launcher, gateway: Gateway) -> None:
    shown = web.state("web")
    assert shown["relay"] == {"state": "attached", "epoch": 1}
    assert "attached, epoch 1" in web.good("show", "web")
    [row] = json.loads(web.good("list", "--json"))
    assert row["relay"] == "attached" and row["net"] == net_of(gateway)
    assert f"{net_of(gateway)}  " in web.good("list")
    tells_nothing(web, gateway.secret.hex())
    web.good("stop", "--force", "web")
    wait_for(lambda: "reason=released" in gateway.relay.log())
    web.good("delete", "web")
    assert left_files(web) == []


def test_by_its_socket_with_the_users_secret(linux: Callable[..., Any], quasar: Launcher,
                                             gateway: Gateway) -> None:
    """Without --relay-secret it comes from the user's own list."""
    line = linux(unix_of(gateway)).stderr
    secrets = quasar.root / "relay-secrets"
    assert f"there is no secret for {KEY} on the relay" in line and str(secrets) in line
    assert quasar.good("list", "--format", "names") == ""
    secrets.write_text(f"other/web:{'0' * 64}\n{KEY}:{gateway.secret.hex()}\n")
    assert f"chmod 600 {secrets}" in linux(unix_of(gateway)).stderr
    secrets.chmod(0o600)
    done = linux(unix_of(gateway, "default/web"))
    assert (done.returncode, done.stderr) == (0, "web runs\n")
    gateway.wait_guest()
    assert gateway.secret.hex() not in command_line(quasar, "web")
    assert not (quasar.run_folder("web") / "relay-secret").exists()
    assert not (quasar.root / "vms" / "web.secret").exists()


# The relay does not take it: the VM runs, and the line says so


def warned(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 0, done.stderr
    [line] = [one for one in done.stderr.splitlines() if one.startswith("warning: ")]
    for word in (*words, "; state: it runs here, without its network; hint: "):
        assert word in line


@pytest.mark.parametrize("how", [net_of, unix_of])
@pytest.mark.parametrize("case", ["wrong secret", "no such identity"])
def test_denied(linux: Callable[..., Any], quasar: Launcher, gateway: Gateway, tmp_path: Path,
                secret: Path, how: Callable[..., str], case: str) -> None:
    if case == "wrong secret":
        secret.write_text(SECRET)
    net = how(gateway, "web" if case == "wrong secret" else "mail")
    warned(linux(net, "--relay-secret", secret), "does not take default/",
           "it has no such identity, or another secret for it", "relay-secret=FILE")
    shown = quasar.state("web")
    assert shown["state"] == "running" and shown["relay"]["state"] == "waiting"
    assert "no such identity" in quasar.good("show", "web")
    assert f"{net} (waiting)" in quasar.good("list")


def test_another_secret_for_a_stopped_vm(linux: Callable[..., Any], quasar: Launcher,
                                         gateway: Gateway, secret: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(SECRET)
    wrong.chmod(0o600)
    assert linux(net_of(gateway), "--relay-secret", wrong).returncode == 0
    quasar.good("stop", "--force", "web")
    quasar.good("set", "web", f"net={unix_of(gateway)}", f"relay-secret={secret}")
    done = quasar.run("start", "web")
    assert (done.returncode, done.stderr) == (0, "web runs\n")
    gateway.wait_guest()
    quasar.good("stop", "--force", "web")
    quasar.good("set", "web", "relay-secret=")
    assert "there is no secret" in quasar.bad(3, "start", "web")


def test_nobody_listens(linux: Callable[..., Any], quasar: Launcher, secret: Path) -> None:
    warned(linux(f"relay:127.0.0.1:{free_port()}/web", "--relay-secret", secret),
           "is not reached: ", "refused", "tried again all the time")
    assert quasar.state("web")["relay"]["state"] == "waiting"


def test_it_comes_later(linux: Callable[..., Any], quasar: Launcher, gateway: Gateway,
                        secret: Path) -> None:
    gateway.relay.kill()
    warned(linux(unix_of(gateway), "--relay-secret", secret), "is not reached: ")
    gateway.relay.start()
    gateway.wait_guest()
    assert quasar.state("web")["relay"]["state"] == "attached"


def test_two_of_one_identity(web: Launcher, there: Launcher, linux: Callable[..., Any],
                             gateway: Gateway, secret: Path) -> None:
    warned(linux(unix_of(gateway), "--relay-secret", secret, launcher=there),
           "another VM is attached under that identity")
    assert web.state("web")["relay"]["state"] == "attached"


def test_forwards_are_the_identitys(dry: Launcher) -> None:
    line = dry.bad(2, "start", "web", "--net", "relay:gw/acme/web", "--forward", "2222:22")
    assert "net=user only" in line and "quasar-relayctl forward add acme/web" in line


NETS = {
    "relay:gw": 2, "relay:gw/": 2, "relay:/web": 2, "relay:gw:0/web": 2, "relay:gw:x/web": 2,
    "relay:gw/Web": 2, "relay:gw/a/b/c": 2, "relay:unix=web": 2, "relay:unix=/run/x/web": 2,
    "relay:unix=/:web": 2, "relay:[::1/web": 2, "relay:-x/web": 2, "relay:a b/web": 2,
    f"relay:unix=/{'x' * 107}:web": 2, f"relay:gw/{'a' * 33}": 2,
    "relay:gw/web": 3, "relay:[fe80::1%eth0]:99/acme/web": 3, "relay:unix=/run/a:b:acme/web": 3,
}


@pytest.mark.parametrize("net", NETS)
def test_addresses(dry: Launcher, net: str) -> None:
    """Those that are right fail for want of a secret."""
    line = dry.bad(NETS[net], "start", "web", "--net", net)
    assert ("IDENTITY is [TENANT/]NAME" if NETS[net] == 2 else "there is no secret") in line


SECRETS = {
    "empty": ("", "there is none for default/web in it"),
    "words": ("passphrase\n", "not 32 to 128 hexadecimal digits"),
    "too short": ("ab" * 15, "not 32 to 128 hexadecimal digits"),
    "odd": (SECRET + "a", "not 32 to 128 hexadecimal digits"),
    "too long": ("ab" * 65, "not 32 to 128 hexadecimal digits"),
    "another's": (f"default/mail:{SECRET}\n", "there is none for default/web in it"),
    "not digits": (f"default/web:{'x' * 64}\n", "not 32 to 128 hexadecimal digits"),
    "a huge file": ("# \n" * 50000, "it cannot be read"),
}


@pytest.mark.parametrize("case", SECRETS)
def test_secrets(dry: Launcher, tmp_path: Path, case: str) -> None:
    text, words = SECRETS[case]
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    line = dry.bad(3, "start", "web", "--net", "relay:gw/web", "--relay-secret", file)
    assert words in line and (not text.strip() or text.strip() not in line)
    assert not list(dry.root.glob("vms/*"))
    define(dry, "web")
    before = (dry.root / "vms" / "web.conf").read_bytes()
    dry.bad(3, "set", "web", "net=relay:gw/web", f"relay-secret={file}")
    assert (dry.root / "vms" / "web.conf").read_bytes() == before


def test_words_about_secrets(dry: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    assert "goes with --net relay" in dry.bad(2, "start", "web", "--relay-secret", file)
    assert "No such file" in dry.bad(3, "start", "web", "--net", "relay:gw/web",
                                     "--relay-secret", "/nonexistent")
    assert "others may read" in dry.bad(3, "start", "web", "--net", "relay:gw/web",
                                        "--relay-secret", file)
    define(dry, "mail")
    assert "goes with net=relay" in dry.bad(2, "set", "mail", f"relay-secret={file}")


# Moves


def test_connections_go_along(web: Launcher, there: Launcher, gateway: Gateway, rsh: Path) -> None:
    """There and back; the port is whose guest runs, and the secret is where the VM is."""
    talker = Talker(gateway)
    done = web.run("migrate", "web", "127.0.0.1", "--rsh", rsh, "--remove", *ANY_PAUSE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "web is at 127.0.0.1"
    assert "warning" not in done.stderr
    assert there.state("web")["relay"] == {"state": "attached", "epoch": 2}
    talker.wait_more()
    assert left_files(web) == []
    tells_nothing(there, gateway.secret.hex())
    back = way_to(web.root, rsh.with_name("back"))
    there.good("migrate", "web", "127.0.0.1", "--rsh", back, "--net", unix_of(gateway),
               *ANY_PAUSE)
    assert web.state("web")["relay"] == {"state": "attached", "epoch": 3}
    assert web.state("web")["definition"]["net"] == unix_of(gateway)
    talker.wait_more()
    assert talker.end() > 6


def test_a_move_given_up(web: Launcher, there: Launcher, gateway: Gateway, rsh: Path) -> None:
    """The port was never another's, and no secret stays."""
    talker = Talker(gateway)
    done = web.run("migrate", "web", "127.0.0.1", "--rsh", rsh, "--bandwidth", "1M",
                   "--timeout", "1")
    assert done.returncode == 4 and "it runs here" in done.stderr, done.stderr
    talker.wait_more()
    talker.end()
    assert web.state("web")["relay"] == {"state": "attached", "epoch": 1}
    assert left_files(there) == []


@pytest.mark.parametrize("phase", PHASES)
def test_the_relay_is_killed(web: Launcher, there: Launcher, gateway: Gateway, rsh: Path,
                             phase: str) -> None:
    """The move does not need it; it says what is missing, and connections wait for the next one."""
    gateway.relay.settings["listen-tls"] = "{}:{}".format(*gateway.relay.where("tls"))
    talker = Talker(gateway)
    mover = web.start("migrate", "web", "127.0.0.1", "--rsh", rsh, "--remove", "--bandwidth", "40M",
                      "--progress", "json", *ANY_PAUSE)
    later = [*PHASES[PHASES.index(phase):], "done"]     # a short one may not be told
    assert any(json.loads(line)["phase"] in later for line in mover.stdout)
    gateway.relay.kill()
    errors = mover.communicate(timeout=120)[1].decode()
    assert mover.returncode == 0, errors
    assert errors.splitlines()[-1] == "web is at 127.0.0.1"
    if phase != "commit":       # then it may have taken the guest over before
        assert "warning: it is there, and the relay" in errors
        assert there.state("web")["relay"]["state"] in ("waiting", "connecting")
    assert there.state("web")["state"] == "running"
    gateway.relay.start()
    wait_for(lambda: there.state("web")["relay"]["state"] == "attached", 60)
    # An answer that was lost with the relay is asked for anew, with a higher number.
    assert there.state("web")["relay"]["epoch"] in ((2, 3) if phase == "commit" else (2,))
    talker.wait_more()
    talker.end()


def test_what_was_there_stays_when_it_does_not_come_back(
        web: Launcher, there: Launcher, gateway: Gateway, rsh: Path) -> None:
    """The host that it left has its own secret again, whatever came along."""
    web.good("migrate", "web", "127.0.0.1", "--rsh", rsh, *ANY_PAUSE)
    kept = web.root / "vms" / "web.secret"
    kept.write_text(f"{KEY}:{SECRET}\n")
    back = way_to(web.root, rsh.with_name("back"))
    done = there.run("migrate", "web", "127.0.0.1", "--rsh", back, "--bandwidth", "1M",
                     "--timeout", "1")
    assert done.returncode == 4, done.stderr        # either end tells, and may
    assert kept.read_text() == f"{KEY}:{SECRET}\n"
    assert web.state("web")["definition"]["moved"] == "127.0.0.1"


def test_refused_before_anything_is_touched(web: Launcher, there: Launcher, gateway: Gateway,
                                            rsh: Path) -> None:
    words = ["migrate", "web", "127.0.0.1", "--rsh", rsh]
    port = free_port()
    assert "its state fits no other network" in web.bad(3, *words, "--net", "user")
    assert "does not fit default/mail" in web.bad(3, *words, "--net", net_of(gateway, "mail"))
    line = web.bad(3, *words, "--net", f"relay:127.0.0.1:{port}/web")
    assert f"the relay 127.0.0.1:{port} cannot be reached" in line and "refused" in line
    assert "state: it is here as it was" in line
    (web.root / "vms" / "web.secret").rename(web.root / "aside")
    assert f"there is no secret for {KEY}" in web.bad(3, *words)
    (web.root / "aside").rename(web.root / "vms" / "web.secret")
    gateway.relay.kill()
    assert "cannot be reached" in web.bad(3, *words, "--dry-run")
    assert left_files(there) == []
    assert web.state("web")["state"] == "running"


def test_a_card_stays_a_card(bare: Launcher, rsh: Path) -> None:
    """QEMU would refuse what comes, late and in words of its own."""
    line = bare.bad(3, "migrate", "box", "127.0.0.1", "--rsh", rsh, "--net", "user")
    assert "what it has of net=none does not fit net=user" in line
    assert "state: it is here as it was" in line


def test_a_socket_is_not_another_hosts(linux: Callable[..., Any], quasar: Launcher, rsh: Path,
                                       there: Launcher, gateway: Gateway, secret: Path) -> None:
    assert linux(unix_of(gateway), "--relay-secret", secret).returncode == 0
    gateway.wait_guest()
    line = quasar.bad(3, "migrate", "web", "127.0.0.1", "--rsh", rsh)
    assert "its relay is a socket of another host" in line
    assert f"--net relay:unix=PATH:{KEY}" in line
    quasar.good("migrate", "web", "127.0.0.1", "--rsh", rsh, "--net", net_of(gateway), *ANY_PAUSE)
    assert there.state("web")["relay"]["epoch"] == 2


def test_saved_and_restored(web: Launcher, there: Launcher, gateway: Gateway,
                            tmp_path: Path) -> None:
    """A connection waits in the relay; the second copy has no network and is told why."""
    talker = Talker(gateway)
    web.good("save", "web", tmp_path / "f")
    done = there.run("restore", tmp_path / "f")
    assert (done.returncode, done.stderr) == (0, "web runs\n")
    talker.wait_more()
    assert talker.end() > 3
    tells_nothing(there, gateway.secret.hex())
    assert there.state("web")["relay"]["epoch"] == 2
    assert "secret" not in " ".join(p.name for p in there.root.glob("images/*/*"))
    warned(web.run("restore", tmp_path / "f", "--name", "again"),
           "a later copy of this VM was attached", "start it anew")
    assert "ended" in web.good("list")
    warned(there.run("restore", tmp_path / "f", "--name", "local", "--net", unix_of(gateway)),
           "a later copy")


@pytest.mark.parametrize("elsewhere", ["ppc64le"], indirect=True)
def test_to_another_architecture(web: Launcher, elsewhere: Elsewhere, gateway: Gateway,
                                 tmp_path: Path) -> None:
    rsh = way_to(tmp_path / "there", tmp_path / "rsh", elsewhere.program())
    far = Launcher(tmp_path / "there", web.environment)
    talker = Talker(gateway)
    try:
        web.good("migrate", "web", "127.0.0.1", "--rsh", rsh, *ANY_PAUSE, timeout=300)
        wait_for(lambda: far.state("web")["relay"] == {"state": "attached", "epoch": 2}, 60)
        talker.wait_more()
        talker.end()
    finally:
        far.finish()


# Strangers


def test_a_secret_that_makes_no_sense(fake: Launcher, gateway: Gateway) -> None:
    """The source is a stranger; what it sends goes into no file unless it is a secret."""
    talk = [HELLO, json.dumps(offer(
        definition=DEFINITION.replace("net=none", f"net={net_of(gateway)}"),
        **{"only-check": False, "relay-secret": True})),
        json.dumps({"say": "prepare", "key": "0" * 64, "listen": "loopback", "lanes": 1,
                    "relay-secret": "0\nroot:0"})]
    done = fake.run("receive", input="\n".join(talk) + "\n")
    assert "a malformed secret" in done.stdout + done.stderr
    assert left_files(fake) == []


@pytest.mark.parametrize("secret, words", [
    (SECRET, "is not on PATH"), ("x\n", "not 32 to 128"), (None, "there is no secret")])
def test_files_of_strangers(dry: Launcher, tmp_path: Path, secret: str | None,
                            words: str) -> None:
    files = {} if secret is None else {"relay-secret": secret.encode()}
    file = make(tmp_path / "f", DEFINITION.replace("net=none", "net=relay:gw/web"), **files)
    assert words in dry.bad(3, "restore", file)
    assert left_files(dry) == []


def test_a_secret_for_nothing(dry: Launcher, tmp_path: Path) -> None:
    file = make(tmp_path / "f", DEFINITION, **{"relay-secret": SECRET.encode()})
    assert "something else than it should" in dry.bad(3, "restore", file)


def test_a_relay_by_a_strangers_path(dry: Launcher, tmp_path: Path) -> None:
    file = make(tmp_path / "f", DEFINITION.replace("net=none", "net=relay:unix=/run/x:web"))
    assert "a socket of another host" in dry.bad(3, "restore", file)
