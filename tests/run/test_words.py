# SPDX-License-Identifier: GPL-2.0-or-later
"""What needs no QEMU: words, settings, definitions, help, completion, the manual."""

import json
import os
import pty
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import TOP, Launcher

VERBS = ["start", "stop", "list", "show", "console", "screenshot", "migrate", "receive",
         "save", "restore", "doctor", "jobs", "watch", "cancel", "resume", "resolve", "report",
         "set", "delete", "config", "version", "completion", "help"]
MANUAL = TOP / "docs" / "man" / "quasar-run.rst"
DEFINITION = """[vm]
guest=x86_64
machine=pc-q35-10.0
cpu=Nehalem
memory=512M
cpus=1
net=user
mac=52:54:00:00:00:{:02x}
uuid=3e9a5f0e-8d0b-4e7c-9a39-2d1f1e0b8c{:02x}
display=none
sandbox=auto
"""


def define(launcher: Launcher, name: str, more: str = "", number: int = 1) -> Path:
    folder = launcher.root / "vms"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.conf"
    path.write_text(DEFINITION.format(number, number) + more)
    return path


def record(launcher: Launcher, vm: str, number: int = 1, **more: object) -> Path:
    """Writes the record of a job, as a launcher would have left it."""
    job = {"version": 1, "verb": "migrate", "vm": vm, "began": 1000000, "ended": 2000000,
           "code": 0, "words": "done", **more}
    lines = ["[job]", *(f"{key}={value}" for key, value in job.items() if value is not None),
             "[process]", "pid=4000000", "start=1", f"boot={'f' * 36}"]
    folder = launcher.root / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}.job"
    path.write_text("\n".join(lines) + "\n")
    return path


# A status of 2 says that the words are wrong, whatever there is; 1, that nothing was changed; 3,
# that it was refused before anything was touched.
USAGE = {
    "no command": ([], 2, "a command is missing"),
    "unknown command": (["strat"], 2, 'no command "strat"'),
    "unknown option": (["list", "--all"], 2, "--all"),
    "too many words": (["list", "x"], 2, "usage: quasar-run list"),
    "too few words": (["show"], 2, "usage: quasar-run show NAME"),
    "unknown format": (["list", "--format", "xml"], 2, "table, json or names"),
    "name missing": (["start"], 2, "a name is missing"),
    "name with slash": (["show", "../x"], 2, "no name for a VM"),
    "name empty": (["start", "", "--memory", "1G"], 2, "no name for a VM"),
    "name too long": (["start", "a" * 49, "--memory", "1G"], 2, "no name for a VM"),
    "no such vm": (["show", "web"], 1, 'there is no VM "web"'),
    "start no such vm": (["start", "web"], 1, 'there is no VM "web"'),
    "delete no such vm": (["delete", "web"], 1, 'there is no VM "web"'),
    "memory": (["start", "web", "--memory", "much"], 2, "a size such as"),
    "memory too small": (["start", "web", "--guest", "ppc64", "--memory", "64M"], 2, "256M"),
    "guest": (["start", "web", "--guest", "vax"], 2, "x86_64|aarch64|ppc64|s390x"),
    "cpus": (["start", "web", "--cpus", "0"], 2, "1 to 64"),
    "net": (["start", "web", "--net", "bridge"], 2, "user, none, relay:HOST"),
    "forward": (["start", "web", "--forward", "ssh"], 2, "PORT:GUESTPORT"),
    "forward without net": (["start", "web", "--net", "none", "--forward", "1:2"], 2, "net=user"),
    "append alone": (["start", "web", "--append", "quiet"], 2, "give --kernel"),
    "image missing": (["start", "web", "--image", "/nonexistent"], 3, "No such file"),
    "image a folder": (["start", "web", "--image", "/"], 3, "image /"),
    "kernel missing": (["start", "web", "--kernel", "/nonexistent"], 3, "kernel /nonexistent"),
    "no qemu": (["start", "web", "--memory", "1G"], 3, "qemu-system-x86_64 is not on PATH"),
    "from missing": (["start", "web", "--from", "/nonexistent"], 1, "/nonexistent"),
    "stop timeout": (["stop", "web", "--timeout", "0"], 2, "1 to 86400"),
    "escape": (["console", "web", "--escape", "ab"], 2, "--escape"),
    "until empty": (["console", "web", "--until", ""], 2, "--until"),
    "setting": (["config", "colour"], 2, 'no setting "colour"'),
    "setting value": (["config", "memory", "lots"], 2, "a size such as"),
    "unset alone": (["config", "--unset"], 2, "--unset needs a key"),
    "shell": (["completion", "fish"], 2, "bash or zsh"),
    "no such job": (["watch", "web#7"], 1, 'there is no job "web#7"'),
    "no job of it": (["resume", "web"], 1, 'there is no job of "web"'),
    "no number": (["cancel", "web#x"], 2, "this is no job"),
    "no verdict": (["resolve", "web", "maybe"], 2, "run or discard"),
    "report format": (["report", "web", "--format", "xml"], 2, "table, json or names"),
    "svg of a list": (["list", "--format", "svg"], 2, "table, json or names"),
    "help of nothing": (["help", "strat"], 2, 'no command "strat"'),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_words(dry: Launcher, case: str) -> None:
    words, status, text = USAGE[case]
    assert text in dry.bad(status, *words)
    assert not list(dry.root.glob("vms/*"))


@pytest.mark.parametrize("words, text", [
    (["web", "memory"], "is not KEY=VALUE"), (["web", "=1G"], "there is no key"),
    (["web", "memory=1G", "cpus=many"], "cpus"), (["web", "colour=red"], "there is no key"),
    (["web", "cpu=host"], "not the host's"),
    (["web", "cpu=Nehalem,+vmx"], "without options"), (["web", "mac=01:00:00:00:00:00"], "mac"),
    (["web", "append=quiet"], "initrd and append go with a kernel"),
])
def test_wrong_changes_change_nothing(dry: Launcher, words: list[str], text: str) -> None:
    path = define(dry, "web")
    before = path.read_bytes()
    assert text in dry.bad(2, "set", *words)
    assert path.read_bytes() == before


def test_set(dry: Launcher) -> None:
    define(dry, "web")
    dry.good("set", "web", "memory=2G", "forward=2222:22;udp:53:53", "display=std")
    shown = dry.state("web")["definition"]
    assert (shown["memory"], shown["forward"]) == ("2048M", "2222:22;udp:53:53")
    dry.good("set", "web", "forward=", "memory=")
    shown = dry.state("web")["definition"]
    assert "forward" not in shown and shown["memory"] == "512M"


def test_another_guest_is_another_machine(dry: Launcher) -> None:
    define(dry, "web")
    dry.good("set", "web", "guest=s390x")
    shown = dry.state("web")["definition"]
    assert (shown["machine"], shown["cpu"]) == ("s390-ccw-virtio-10.0", "qemu")


def test_image_format_is_found_once(dry: Launcher, tmp_path: Path) -> None:
    define(dry, "web")
    (tmp_path / "a.img").write_bytes(b"QFI\xfb" + bytes(100))
    (tmp_path / "b.img").write_bytes(bytes(100))
    dry.good("set", "web", f"image={tmp_path}/a.img;{tmp_path}/b.img")
    assert dry.state("web")["definition"]["image-format"] == "qcow2;raw"
    assert "No such file" in dry.bad(3, "set", "web", "image=/nonexistent")


def test_a_guest_cannot_change_its_format(dry: Launcher, tmp_path: Path) -> None:
    """A raw image that begins like another stays raw when a second one is added."""
    (tmp_path / "a.img").write_bytes(bytes(100))
    (tmp_path / "b.img").write_bytes(b"QFI\xfb" + bytes(100))
    define(dry, "web")
    dry.good("set", "web", f"image={tmp_path}/a.img")
    (tmp_path / "a.img").write_bytes(b"QFI\xfb" + bytes(100))
    dry.good("set", "web", f"image={tmp_path}/b.img;{tmp_path}/a.img")
    assert dry.state("web")["definition"]["image-format"] == "qcow2;raw"
    dry.good("set", "web", f"image={tmp_path}/a.img", "image-format=qcow2")
    assert dry.state("web")["definition"]["image-format"] == "qcow2"
    dry.good("set", "web", "image=")
    assert "image-format" not in dry.state("web")["definition"]


def test_stop_and_delete_what_is_stopped(dry: Launcher, tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(100))
    path = define(dry, "web")
    dry.good("set", "web", f"image={image}")
    done = dry.run("stop", "web")
    assert (done.returncode, done.stderr) == (0, "web is stopped already\n")
    done = dry.run("delete", "web")
    assert done.returncode == 0 and str(image) in done.stderr
    assert image.exists() and not path.exists() and not dry.run_folder("web").exists()


@pytest.mark.parametrize("words", [["console", "web"], ["screenshot", "web"]])
def test_needs_a_running_vm(dry: Launcher, words: list[str]) -> None:
    define(dry, "web")
    line = dry.bad(1, *words)
    assert "state: stopped" in line and "hint: quasar-run start web" in line


def test_damaged_definition(dry: Launcher) -> None:
    define(dry, "good")
    define(dry, "odd", "surprise=1\n")
    done = dry.run("list")
    assert done.returncode == 0
    assert re.search(r"^odd +unreadable", done.stdout, re.M) and "surprise" in done.stderr
    assert "surprise" in dry.bad(3, "start", "odd")
    dry.good("delete", "odd")
    assert dry.good("list", "--format", "names") == "good\n"


def test_a_definition_does_not_speak_to_the_terminal(dry: Launcher) -> None:
    define(dry, "odd", "a\x1b]0;x\x07\u009b2J=1\n")
    for done in (dry.run("list"), dry.run("start", "odd")):
        [line] = done.stderr.splitlines()
        assert "a ]0;x  2J" in line and line.isprintable()


def test_empty_list(dry: Launcher) -> None:
    assert dry.good("list").split() == ["NAME", "STATE", "GUEST", "MEMORY", "CPUS", "NET", "PID"]
    assert json.loads(dry.good("list", "--json")) == []
    assert not dry.root.exists()


def test_a_hundred_vms(dry: Launcher) -> None:
    """`list` and `show` must answer in under 50 ms, the best of as many as a busy machine needs."""
    for number in range(100):
        define(dry, f"vm{number:02}", number=number)

    def best(*words: str) -> float:
        times = [1.0]
        while min(times) >= 0.05 and len(times) < 100:
            before = time.monotonic()
            dry.good(*words)
            times.append(time.monotonic() - before)
        return min(times)

    assert best("list") < 0.05
    assert best("list", "--json") < 0.05
    assert best("show", "vm50") < 0.05
    assert len(json.loads(dry.good("list", "--json"))) == 100


def test_where_settings_come_from(dry: Launcher) -> None:
    def of(key: str, **env: str) -> tuple[str, str]:
        row = json.loads(dry.good("config", "--json", env=env))[key]
        return row["value"], row["origin"]

    assert of("memory") == ("512M", "built-in")
    dry.good("config", "memory", "2G")
    assert of("memory") == ("2G", str(dry.root / "quasar.conf"))
    assert of("memory", QUASAR_MEMORY="3G") == ("3G", "environment")
    assert dry.good("config", "memory") == "2G\n"
    dry.good("config", "--unset", "memory")
    assert of("memory") == ("512M", "built-in")
    assert "environment" in dry.bad(2, "config", env={"QUASAR_CPUS": "all"})


def test_damaged_settings(dry: Launcher) -> None:
    dry.root.mkdir()
    (dry.root / "quasar.conf").write_text("nonsense")
    assert "mend or remove" in dry.bad(3, "config")
    assert "mend or remove" in dry.bad(3, "config", "cpus", "2")


def test_root_from_the_environment(dry: Launcher, tmp_path: Path) -> None:
    define(dry, "web")
    done = subprocess.run([dry.program, "list", "--format", "names"], text=True, check=True,
                          env={**dry.environment, "QUASAR_HOME": str(dry.root)},
                          capture_output=True)
    assert done.stdout == "web\n"


def test_folders_of_the_user(dry: Launcher, tmp_path: Path) -> None:
    """A VM outlives its user's session, and the folder of that session does not."""
    env = {**dry.environment, "XDG_CONFIG_HOME": str(tmp_path / "c"),
           "XDG_STATE_HOME": str(tmp_path / "s"), "XDG_RUNTIME_DIR": str(tmp_path / "r")}
    vms = tmp_path / "c" / "quasar" / "vms"
    vms.mkdir(parents=True)
    (vms / "web.conf").write_text(DEFINITION.format(1, 1))
    done = subprocess.run([dry.program, "show", "web", "--json"], env=env, check=True,
                          capture_output=True)
    assert json.loads(done.stdout)["run-folder"] == str(tmp_path / "s/quasar/run/web")


@pytest.mark.parametrize("boot, left", [("another", ["lock"]),
                                        ("this", ["lock", "log", "process"])])
def test_leftovers_of_another_boot(dry: Launcher, boot: str, left: list[str]) -> None:
    define(dry, "web")
    run = dry.run_folder("web")
    run.mkdir(parents=True)
    this = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (run / "process").write_text(
        f"[process]\npid=12345\nstart=1\nboot={this if boot == 'this' else 'f' * 36}\n")
    (run / "log").touch()
    dry.good("set", "web", "memory=1G")
    assert sorted(p.name for p in run.iterdir()) == left


def on_terminal(launcher: Launcher, *words: str, **env: str) -> str:
    """What a command shows on a terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(launcher.argv(*words), stdin=follower, stdout=follower, stderr=follower,
                          env={**launcher.environment, "TERM": "xterm", **env}) as process:
        os.close(follower)
        seen = b""
        try:
            while piece := os.read(leader, 4096):
                seen += piece
        except OSError:     # the terminal's end
            pass
        os.close(leader)
    assert process.returncode == 0
    return seen.decode()


def test_colours(dry: Launcher) -> None:
    define(dry, "web")
    assert "\033[" in on_terminal(dry, "list")
    assert "\033[" not in on_terminal(dry, "list", NO_COLOR="1")
    assert "\033[" not in on_terminal(dry, "list", TERM="dumb")
    assert "\033[" not in dry.good("list")


def test_quiet(dry: Launcher) -> None:
    define(dry, "web")
    assert dry.run("stop", "web", "--quiet").stderr == ""
    assert dry.run("-q", "delete", "web").stderr == ""


def test_version(dry: Launcher) -> None:
    found = json.loads(dry.good("version", "--json"))
    assert found["qemu"]["x86_64"] == {"path": None, "version": None}
    assert dry.good("--version").startswith(f"quasar-run {found['version']}\n")


# Help, completion and the manual tell the same


def options_of(launcher: Launcher, verb: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", launcher.good(verb, "--help").partition("Examples:")[0]))


def test_help_lists_all(dry: Launcher) -> None:
    listed = re.findall(r"^  ([a-z]+) +\w", dry.good("--help").partition("Options")[0], re.M)
    assert listed == VERBS
    assert dry.good("help") == dry.good("--help") == dry.good("-h")


@pytest.mark.parametrize("verb", VERBS)
def test_help(dry: Launcher, verb: str) -> None:
    text = dry.good("help", verb)
    assert text == dry.good(verb, "--help")
    examples = text.partition("Examples:\n")[2].splitlines()
    assert examples and all(line.startswith(f"  quasar-run {verb}") for line in examples)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("verb", VERBS)
def test_the_manual_knows(dry: Launcher, verb: str) -> None:
    manual = MANUAL.read_text()
    section = re.search(rf"^\*\*{verb}\*\*.*?(?=^\*\*[a-z]+\*\*[^,]*$|^[A-Z ]+\n===)", manual,
                        re.M | re.S)
    assert section, f"the manual has no section on {verb}"
    shared = options_of(dry, "help")
    for option in options_of(dry, verb) - shared:
        where = manual if verb == "start" else section.group()
        assert f"**{option}**" in where or f"**{option[2:]}**" in where, option


def test_the_manual_knows_keys_and_settings(dry: Launcher) -> None:
    manual = MANUAL.read_text()
    keys = re.findall(r"^  ([a-z-]+) ", dry.good("help", "set").partition("Keys:")[2]
                      .partition("Options")[0], re.M)
    assert len(keys) > 10
    for key in [*keys, *dry.good("config", "--format", "names").split()]:
        assert f"**{key}**" in manual, key


def complete(launcher: Launcher, shell: str, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = launcher.good("completion", shell)
    line = f"""
        quasar-run() {{ {launcher.program} "$@"; }}
        {script}
        COMP_WORDS=({' '.join(f"'{w}'" for w in ('quasar-run', *words))})
        COMP_CWORD={len(words)}
        _quasar_run
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, check=True,
                          env={**launcher.environment, "QUASAR_HOME": str(launcher.root)})
    assert done.stderr == ""
    return done.stdout.split()


def test_completion(dry: Launcher, tmp_path: Path) -> None:
    define(dry, "web")
    define(dry, "db")
    assert complete(dry, "bash", "") == VERBS
    assert complete(dry, "bash", "st") == ["start", "stop"]
    assert complete(dry, "bash", "stop", "") == ["db", "web"]
    assert complete(dry, "bash", "stop", "--fo") == ["--force", "--format"]
    assert complete(dry, "bash", "start", "--guest", "") == ["x86_64", "aarch64", "ppc64", "s390x"]
    assert complete(dry, "bash", "set", "web", "mem") == ["memory="]
    assert complete(dry, "bash", "set", "web", "cpus=2", "for") == ["forward="]
    assert complete(dry, "bash", "config", "sto") == ["stop-timeout"]
    assert complete(dry, "bash", "completion", "") == ["bash", "zsh"]
    (tmp_path / "hosts").write_text("10.0.0.9 power9 power10\n10.0.0.1 zed\n")
    dry.environment["HOSTFILE"] = str(tmp_path / "hosts")
    assert complete(dry, "bash", "migrate", "web", "pow") == ["power9", "power10"]
    assert complete(dry, "bash", "migrate", "web", "--on-timeout", "f") == ["force"]
    assert complete(dry, "bash", "save", "web", "file", "--l") == ["--live"]
    assert complete(dry, "bash", "--root", str(dry.root), "show", "w") == ["web"]
    assert complete(dry, "bash", "list", "--format", "j") == ["json"]
    assert complete(dry, "bash", "resolve", "web", "") == ["run", "discard"]
    record(dry, "web")
    assert complete(dry, "bash", "watch", "") == ["web#1", "db", "web"]
    assert complete(dry, "bash", "report", "web#") == ["web#1"]


def test_zsh_takes_the_same_script(dry: Launcher) -> None:
    bash, zsh = dry.good("completion", "bash"), dry.good("completion", "zsh")
    assert zsh.startswith("#compdef quasar-run\n") and zsh.endswith(bash)
