# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person expects of scripts/host: programs of other architectures that behave as here."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import hosts
import pytest
import qemubuild
import upstream
from arches import ARCHES
from wanted import wanted_hosts

PLACES = [(a, p) for a in wanted_hosts() for p in ARCHES[a].page_sizes]


def host_run(checkout, *arguments, **keywords):
    return subprocess.run([sys.executable, checkout / "scripts" / "host", "run", *arguments],
                          capture_output=True, text=True, check=False, timeout=120, **keywords)


@pytest.fixture(scope="module", autouse=True)
def built():
    for arch in wanted_hosts():
        hosts.Host(arch).build(["x86_64"])


@pytest.mark.parametrize("arch,pages", PLACES)
def test_qemu_runs_and_says_what_it_is(checkout, arch, pages):
    done = host_run(checkout, arch, "--page-size", pages, "--", "qemu-system-x86_64", "--version")
    assert done.returncode == 0, done.stderr
    version = upstream.read().version
    assert f"version {version} (Quasar {version}+" in done.stdout
    done = host_run(checkout, arch, "--page-size", pages, "--", "qemu-img", "--version")
    assert f"qemu-img version {version}" in done.stdout


@pytest.mark.parametrize("arch", wanted_hosts())
def test_uname_tells_the_architecture_even_to_a_shell(checkout, arch):
    assert host_run(checkout, arch, "--", "uname", "-m").stdout == f"{arch}\n"
    assert host_run(checkout, arch, "--", "sh", "-c", "uname -m").stdout == f"{arch}\n"


@pytest.mark.parametrize("arch,pages", PLACES)
def test_the_page_size_is_the_one_asked_for(checkout, tmp_path, arch, pages):
    """A program of that architecture asks the kernel it sees."""
    source = tmp_path / "page.c"
    source.write_text('#include <stdio.h>\n#include <unistd.h>\n'
                      'int main(void) { printf("%ld\\n", sysconf(_SC_PAGESIZE)); return 0; }\n')
    kind = ARCHES[arch]
    flags = [] if kind.native else [f"--sysroot={hosts.Host(arch).sysroot()}"]
    compiler = "gcc" if kind.native else f"{kind.triplet}-gcc"
    subprocess.run([compiler, *flags, "-o", tmp_path / "page", source], check=True)
    done = host_run(checkout, arch, "--page-size", pages, "--", str(tmp_path / "page"))
    assert done.stdout.strip() == str(hosts.PAGE_BYTES[pages])


@pytest.mark.parametrize("arch", wanted_hosts())
def test_the_guest_devices_are_there(checkout, arch):
    """Every device of the default build that needs no outside library."""
    done = host_run(checkout, arch, "--", "qemu-system-x86_64", "-device", "help")
    for device in ("virtio-net-pci", "virtio-blk-pci", "e1000", "ahci", "nvme", "usb-storage",
                   "VGA", "virtio-gpu-pci", "vmcoreinfo", "tpm-crb", "intel-hda", "vmxnet3",
                   "virtio-balloon-pci", "ich9-usb-ehci1", "megasas", "mptsas1068"):
        assert f'"{device}"' in done.stdout, device


def test_arguments_streams_and_status_pass_through(checkout):
    arch = wanted_hosts()[-1]
    done = host_run(checkout, arch, "--", "sh", "-c",
                    'read x; echo "$x|$1|$#"; echo oops >&2; exit 41', "sh", "a  b", "",
                    input="line\n")
    assert (done.returncode, done.stdout) == (41, "line|a  b|2\n")
    assert "oops" in done.stderr


def test_an_emulated_program_fails_with_its_own_status(checkout):
    arch = wanted_hosts()[-1]
    done = host_run(checkout, arch, "--", "qemu-img", "info", "/nonexistent")
    assert done.returncode == 1
    assert "Could not open '/nonexistent'" in done.stderr


def test_a_signal_reaches_the_program(checkout):
    arch = wanted_hosts()[-1]
    with subprocess.Popen([sys.executable, checkout / "scripts" / "host", "run", arch, "--",
                           "qemu-system-x86_64", "-machine", "none", "-display", "none",
                           "-qmp", "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert "QMP" in process.stdout.readline()
        process.stdin.write('{"execute": "qmp_capabilities"}\n')
        process.stdin.flush()
        assert "return" in process.stdout.readline()    # QEMU's handlers are in place now
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(30) == 0        # QEMU shuts down in order on SIGTERM
        assert time.monotonic() - began < 20


def test_a_program_is_the_process_that_was_started():
    """Tests stop what they started by its id: no wrapper may stand in between."""
    host = hosts.Host(wanted_hosts()[-1])
    argv, environment = host.command(["qemu-system-x86_64", "-machine", "none", "-display",
                                      "none", "-qmp", "stdio"])
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        running = os.readlink(f"/proc/{process.pid}/exe")
        process.kill()
    assert "qemu" in os.path.basename(running)


def test_list_tells_what_is_built(checkout):
    done = subprocess.run([sys.executable, checkout / "scripts" / "host", "list", "--json"],
                          capture_output=True, text=True, check=True)
    rows = {row["arch"]: row for row in json.loads(done.stdout)}
    assert set(rows) == set(ARCHES)
    for arch in wanted_hosts():
        assert "x86_64" in rows[arch]["built"]["quasar"]


@pytest.mark.parametrize("arguments,status,words", [
    (["vax", "--", "true"], 2, "there is no host architecture 'vax'"),
    (["s390x", "--page-size", "64k", "--", "true"], 2, "s390x hosts have no 64k pages"),
    (["x86_64", "--", "no-such-program"], 127, "no such program on host x86_64"),
    (["x86_64"], 2, "no command was given"),
], ids=["arch", "pages", "program", "nothing"])
def test_bad_input_is_told(checkout, arguments, status, words):
    done = host_run(checkout, *arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_built_says_what_to_run(checkout, tmp_path):
    environment = {**os.environ, "QUASAR_CACHE": str(tmp_path)}
    done = host_run(checkout, "x86_64", "--", "qemu-img", "--version", env=environment)
    assert done.returncode == 1
    assert "nothing is built for x86_64" in done.stderr
    assert "scripts/host build x86_64" in done.stderr


def test_an_unchanged_fork_costs_seconds(checkout):
    began = time.monotonic()
    subprocess.run([sys.executable, checkout / "scripts" / "host", "build", "x86_64"],
                   capture_output=True, check=True)
    assert time.monotonic() - began < 20


def test_a_damaged_program_is_noticed(monkeypatch, tmp_path):
    """A build of which a file changed is not used any more (tried on a copy)."""
    entry = qemubuild.find_system(ARCHES["x86_64"], ["x86_64"])
    copy = tmp_path / "qemu" / entry.name
    shutil.copytree(entry, copy, symlinks=True)
    shutil.copy2(f"{entry}.manifest", f"{copy}.manifest")
    monkeypatch.setenv("QUASAR_CACHE", str(tmp_path))
    assert qemubuild.find_system(ARCHES["x86_64"], ["x86_64"]) == copy
    with open(copy / "bin" / "qemu-io", "ab") as file:
        file.write(b"x")
    assert qemubuild.find_system(ARCHES["x86_64"], ["x86_64"]) is None
