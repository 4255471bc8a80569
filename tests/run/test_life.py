# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's life with a real QEMU: started, used, stopped, killed, and what is left each time."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Fake, Launcher

from deadlines import Deadline

GREETING = "QUASAR-BARE"
PASSES = " bad 0"


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.M))


def has_ended(pid: int) -> bool:
    """Gone, or waiting for whoever inherited it to look at its end."""
    try:
        return status_of(pid)["State"].startswith("Z")
    except FileNotFoundError:
        return True


def wait_end(pidfd: int) -> None:
    """Wait until the process of a pidfd has ended."""
    import select
    ready, _, _ = select.select([pidfd], [], [], 20)
    os.close(pidfd)
    assert ready


def wait_lock(launcher: Launcher, name: str, verb: str) -> None:
    """Wait until another launcher is at work on a VM."""
    deadline = Deadline(20, f"the lock of {verb}")
    while f"quasar-run {verb}," not in (launcher.run_folder(name) / "lock").read_text():
        deadline.left()
        time.sleep(0.01)


def listed(launcher: Launcher) -> dict[str, Any]:
    """The only row of `list`, which waits for a busy QEMU less long than `show` does."""
    deadline = Deadline(20, "an answer from QEMU")
    while True:
        [row] = json.loads(launcher.good("list", "--json"))
        if row["state"] != "silent":
            return row
        deadline.left()


def leftovers(launcher: Launcher, name: str) -> list[str]:
    return sorted(p.name for p in launcher.run_folder(name).iterdir())


def test_start_to_stop(bare: Launcher) -> None:
    row = listed(bare)
    assert (row["name"], row["state"], row["guest"]) == ("box", "running", "x86_64")
    status = status_of(row["pid"])
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    assert os.getsid(row["pid"]) == row["pid"]
    assert PASSES in bare.good("console", "box", "--until", PASSES, "--timeout", "30")
    assert re.search(r"^box +(running|silent)", bare.good("list"), re.M)
    bare.good("stop", "--force", "box")
    assert bare.state("box")["state"] == "stopped"
    assert leftovers(bare, "box") == ["lock"]
    assert has_ended(row["pid"])


def test_console_from_the_first_character(quasar: Launcher, guest: Callable[[str], Any]) -> None:
    process = quasar.start("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory",
                           "64M", "--net", "none", "--console", "--quiet")
    seen = b""
    while PASSES.encode() not in seen:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, seen
        seen += piece
    assert seen.decode().lstrip().startswith(GREETING)
    # Whoever watches keeps nobody from working on the VM.
    quasar.good("set", "box", "memory=96M")
    assert "stop --force" in quasar.bad(4, "stop", "box", "--timeout", "1")
    # Detached by a signal, the VM runs on and the status says that this was no failure.
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert quasar.state("box")["state"] == "running"


def test_already_running(bare: Launcher) -> None:
    pid = bare.state("box")["pid"]
    assert "state: running here" in bare.bad(4, "start", "box")
    assert "is defined already" in bare.bad(1, "start", "box", "--memory", "1G")
    assert "stop ends it first" in bare.bad(4, "delete", "box")
    assert bare.state("box")["pid"] == pid


def test_a_deaf_guest_stays(bare: Launcher) -> None:
    line = bare.bad(4, "stop", "box", "--timeout", "1")
    assert "state: it runs here" in line and "hint: quasar-run stop --force box" in line
    assert bare.state("box")["state"] == "running"


def test_interrupted_stop_leaves_it(bare: Launcher) -> None:
    process = bare.start("stop", "box", "--timeout", "60", text=True)
    wait_lock(bare, "box", "stop")
    assert "quasar-run stop, process" in bare.bad(1, "screenshot", "box")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "it runs here" in errors
    assert bare.state("box")["state"] == "running"


def test_change_while_running(bare: Launcher) -> None:
    assert not bare.state("box")["changed-since-start"]
    assert "the next start" in bare.run("set", "box", "memory=96M").stderr
    assert bare.state("box")["changed-since-start"]
    bare.good("stop", "--force", "box")
    bare.good("start", "box")
    assert not bare.state("box")["changed-since-start"]
    pid = bare.state("box")["pid"]
    assert b"\0-m\x0096M\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_killed_qemu_leaves_nothing_to_mend(bare: Launcher) -> None:
    pid = bare.state("box")["pid"]
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_end(pidfd)
    assert bare.state("box")["state"] == "stopped"
    assert "process" in leftovers(bare, "box")
    assert "stopped already" in bare.run("stop", "box").stderr
    assert leftovers(bare, "box") == ["lock"]
    assert "does not run" in bare.bad(1, "console", "box")
    bare.good("start", "box")
    assert bare.state("box")["pid"] != pid


def test_logout_leaves_it(quasar: Launcher, guest: Callable[[str], Any], tmp_path: Path) -> None:
    """The session's folder goes when its user leaves; the VM stays, known and not started twice."""
    session = tmp_path / "session"
    session.mkdir()
    quasar.environment |= {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(session)}
    words = ["start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M", "--net",
             "none"]
    user = Launcher(tmp_path, quasar.environment)
    user.argv = lambda *words: [quasar.program, *map(str, words)]  # type: ignore[method-assign]
    try:
        user.good(*words)
        shutil.rmtree(session)
        pid = user.state("box")["pid"]
        assert "is started already" in user.bad(4, "start", "box")
        assert user.state("box")["pid"] == pid
    finally:
        user.good("delete", "--force", "box")


def test_record_of_another_process(bare: Launcher) -> None:
    """A number that is somebody else's now is never signalled."""
    pid = bare.state("box")["pid"]
    record = bare.run_folder("box") / "process"
    kept = record.read_text()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        record.write_text(re.sub(r"pid=\d+", f"pid={stranger.pid}", kept))
        bare.bad(6, "stop", "--force", "box")
        assert stranger.poll() is None and Path(f"/proc/{pid}").exists()
        stranger.kill()
    record.write_text(kept)


def test_killed_launcher(quasar: Launcher, guest: Callable[[str], Any]) -> None:
    """Killed at any point of a start, it leaves a VM that runs, waits, or never was."""
    words = ("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M", "--net",
             "none")
    for milliseconds in (1, 3, 6, 10, 15, 25, 40, 60):
        process = quasar.start(*words)
        time.sleep(milliseconds / 1000)
        process.kill()
        process.wait()
        if not (quasar.root / "vms" / "box.conf").exists():
            continue
        state = quasar.state("box")["state"]
        assert state in ("running", "paused", "stopped")
        if state != "running":
            quasar.good("start", "box")
        assert quasar.state("box")["state"] == "running"
        quasar.good("delete", "--force", "box")


@pytest.mark.parametrize("told, status, words", [
    ({"cont": "refuse"}, 4, "no cont today; state: it is paused here; hint: quasar-run start web"),
    ({"cont": "die"}, 1, "state: stopped"),
    ({"cont": "die", "query-status": "die"}, 1, "state: stopped"),
])
def test_a_start_that_does_not_go_on(fake: Fake, told: dict[str, str], status: int,
                                     words: str) -> None:
    fake.tell(**told)
    assert words in fake.bad(status, "start", "web", "--memory", "64M")
    if status == 4:     # it waits for who tries again
        fake.tell()
        assert "web was paused; it runs on" in fake.run("start", "web").stderr
    else:
        assert fake.good("list", "--format", "names") == ""


@pytest.mark.parametrize("told, status, words", [
    ({"cont": "silent"}, 130, "interrupted; state: it is paused here"),
    ({"cont": "silent", "query-status": {"status": "running"}}, 130, "state: it runs here"),
    ({"cont": "silent", "query-status": "silent"}, 6, "state: it is here and does not answer"),
])
def test_a_start_that_is_interrupted(fake: Fake, told: dict[str, Any], status: int,
                                     words: str) -> None:
    fake.tell(**told)
    process = fake.start("start", "web", "--memory", "64M", text=True)
    fake.wait_asked("cont")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and words in errors, errors


def test_two_at_once(quasar: Launcher, guest: Callable[[str], Any]) -> None:
    words = ("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M", "--net",
             "none")
    both = [quasar.start(*words, text=True) for _ in range(2)]
    results = [(p.communicate(timeout=30)[1], p.returncode) for p in both]
    assert sorted(status for _, status in results)[0] == 0
    [(words_of_loser, status)] = [r for r in results if r[1] != 0]
    assert status in (1, 4)
    assert re.search("another program works on|is defined already|runs already", words_of_loser)
    assert len(json.loads(quasar.good("list", "--json"))) == 1


def test_first_start_that_fails_leaves_nothing(quasar: Launcher, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"nothing that starts")
    line = quasar.bad(1, "start", "box", "--kernel", kernel, "--cpu", "NoSuchModel")
    assert "QEMU did not start" in line and "NoSuchModel" in line and "state: stopped" in line
    assert not quasar.run_folder("box").exists()
    assert quasar.good("list", "--format", "names") == ""


def test_image_in_one_line(quasar: Launcher, tmp_path: Path) -> None:
    image = tmp_path / "my,disk.v2.img"
    image.write_bytes(bytes(1 << 20))
    assert "no name for a VM" in quasar.bad(2, "start", "--image", image)
    plain = tmp_path / "disk.img"
    image.rename(plain)
    quasar.good("start", "--image", plain)
    assert quasar.state("disk")["state"] == "running"
    # The same image in a second VM is QEMU's to refuse; the second VM is not kept.
    assert "did not start" in quasar.bad(1, "start", "twin", "--image", plain)
    assert quasar.good("list", "--format", "names") == "disk\n"


def test_from_a_file(quasar: Launcher, guest: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "web.conf"
    file.write_text(f"[vm]\nkernel={guest('bare-x86_64').kernel}\nmemory=64M\nnet=none\n")
    quasar.good("start", "web", "--from", file, "--memory", "80M")
    shown = quasar.state("web")
    assert shown["state"] == "running" and shown["definition"]["memory"] == "80M"


def test_paths_that_are_too_long_for_sockets(quasar: Launcher, guest: Callable[[str], Any]) -> None:
    quasar.root = quasar.root / ("d" * 120)
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none")
    assert quasar.state("box")["state"] == "running"
    quasar.good("console", "box", "--until", PASSES, "--timeout", "30")


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "ppc64", "s390x"])
def test_every_guest_architecture(quasar: Launcher, arch: str, tmp_path: Path) -> None:
    """QEMU takes each architecture's command line with all that may be in it."""
    for name in ("a.img", "cd.iso", "kernel"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    # Firmware for Arm does not come with QEMU's build: a kernel needs none.
    kernel = ["--kernel", tmp_path / "kernel"] if arch == "aarch64" else []
    quasar.good("start", "box", "--guest", arch, "--memory", "512M", "--cpus", "2", "--image",
                tmp_path / "a.img", "--iso", tmp_path / "cd.iso", "--display", "std", *kernel)
    quasar.good("set", "box", "net=none")
    pid = quasar.state("box").get("pid")
    if pid is not None:
        assert f"qemu-system-{arch}" in Path(f"/proc/{pid}/cmdline").read_text()


def test_screenshot(quasar: Launcher, guest: Callable[[str], Any], tmp_path: Path) -> None:
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--display", "std")
    target = tmp_path / "now.png"
    quasar.good("screenshot", "box", target)
    assert target.read_bytes().startswith(b"\x89PNG\r\n")
    done = subprocess.run(quasar.argv("screenshot", "box", "-"), env=quasar.environment,
                          capture_output=True, check=True)
    assert done.stdout.startswith(b"\x89PNG\r\n")
    quasar.bad(1, "screenshot", "box", "/nonexistent/x.png")
    assert not list(quasar.run_folder("box").glob("*.png"))


def test_screenshot_without_display(bare: Launcher) -> None:
    assert "set box display=std" in bare.bad(3, "screenshot", "box")


def test_console_has_one_place(bare: Launcher) -> None:
    first = bare.start("console", "box")
    assert os.read(first.stdout.fileno(), 1)
    assert "another program is attached" in bare.bad(1, "console", "box", "--timeout", "1")
    first.kill()
    first.wait()
    bare.good("console", "box", "--until", PASSES, "--timeout", "30")


def test_console_does_not_wait_for_ever(bare: Launcher) -> None:
    assert "did not come in time" in bare.bad(1, "console", "box", "--until", "login:",
                                              "--timeout", "1")
    bare.good("console", "box", "--timeout", "1")


def test_console_on_a_terminal(bare: Launcher) -> None:
    """Raw while attached, as it was afterwards; Ctrl-] detaches."""
    import termios
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    process = bare.start("console", "box", stdin=follower, stdout=follower, stderr=follower)
    seen = b""
    while b"bad 0" not in seen:
        seen += os.read(leader, 4096)
    assert b"Ctrl-] detaches" in seen
    assert not termios.tcgetattr(follower)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    os.write(leader, b"\x03")       # no signal: it is the guest's
    assert process.poll() is None
    os.write(leader, b"\x1d")
    assert process.wait(20) == 0
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)
    assert bare.state("box")["state"] == "running"


def test_busy_monitor_does_not_hold_up_readers(bare: Launcher) -> None:
    """Somebody holds the monitor open: list and show have a way of their own."""
    here = os.getcwd()
    os.chdir(bare.run_folder("box"))
    try:
        with socket.socket(socket.AF_UNIX) as holder:
            holder.connect("monitor")
            assert holder.recv(3) == b'{"Q'
            # Who waited for the monitor would not be told.
            assert bare.state("box")["state"] == "running"
    finally:
        os.chdir(here)


def test_stopped_qemu_is_silent(bare: Launcher) -> None:
    """A QEMU that does not answer is shown as such, soon, and can be ended."""
    pid = bare.state("box")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        before = time.monotonic()
        [row] = json.loads(bare.good("list", "--json"))
        assert row["state"] == "silent"
        assert time.monotonic() - before < 10
        bare.good("stop", "--force", "box")
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)
    assert bare.state("box")["state"] == "stopped"


def test_sandbox_is_insisted_on(quasar: Launcher, guest: Callable[[str], Any]) -> None:
    quasar.good("start", "box", "--kernel", guest("bare-x86_64").kernel, "--memory", "64M",
                "--net", "none", "--sandbox", "off")
    assert status_of(quasar.state("box")["pid"])["Seccomp"] == "0"


def test_linux_guest(quasar: Launcher, guest: Callable[[str], Any]) -> None:
    """Boots, is spoken to on its console, is reached by its forward, and powers itself off."""
    linux = guest("linux-x86_64")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    quasar.good("start", "lin", "--kernel", linux.kernel, "--initrd", linux.initrd, "--append",
                linux.append, "--memory", f"{linux.memory_mb}M", "--forward", f"{port}:80")
    quasar.good("console", "lin", "--until", "QUASAR-READY", "--timeout", "50")
    answer = quasar.good("console", "lin", "--until", '"command":"ping"', "--timeout", "20",
                         input="ping\n")
    assert '"ok":true' in answer
    with socket.create_connection(("127.0.0.1", port), 20) as web:
        web.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert web.recv(9).startswith(b"HTTP/1.")
    # stop sees the end, whoever brings it about.
    stop = quasar.start("stop", "lin", "--timeout", "40")
    wait_lock(quasar, "lin", "stop")
    quasar.run("console", "lin", "--timeout", "20", input="poweroff\n")
    assert stop.wait(30) == 0
    assert quasar.state("lin")["state"] == "stopped"
    assert leftovers(quasar, "lin") == ["lock"]
