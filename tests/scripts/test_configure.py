# SPDX-License-Identifier: GPL-2.0-or-later
"""configure as a QEMU user expects it."""

import os
import subprocess

import pytest


def configure(checkout, *arguments, **environment):
    return subprocess.run(["sh", checkout / "configure", *arguments], capture_output=True,
                          text=True, check=False, env={**os.environ, **environment})


def test_help_names_every_option(checkout):
    done = configure(checkout, "--help")
    assert done.returncode == 0
    for option in ("--prefix", "--guests", "--hosts", "--builddir", "--without-qemu"):
        assert option in done.stdout


@pytest.mark.parametrize("argument,words", [
    ("--gests=x86_64", "'--gests=x86_64' is not understood"),
    ("--guests=vax", "--guests: 'vax' is not known"),
    ("--hosts=", "--hosts needs at least one name"),
    ("--prefix=relative", "--prefix must be an absolute path"),
])
def test_bad_options_are_told(checkout, argument, words):
    done = configure(checkout, argument)
    assert done.returncode == 2
    assert words in done.stderr


def test_missing_libraries_are_named_with_their_packages(checkout, tmp_path):
    """With an empty pkg-config path nothing is found: each need is named, nothing is built."""
    done = configure(checkout, f"--builddir={tmp_path / 'build'}",
                     PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH="")
    assert done.returncode == 1
    for package in ("libglib2.0-dev", "libslirp-dev", "libgnutls28-dev", "libpixman-1-dev"):
        assert f"(Debian package {package})" in done.stderr
    assert "scripts/bootstrap installs them" in done.stderr
    assert not (tmp_path / "build").exists()


def test_bootstrap_finds_nothing_missing_here(checkout):
    done = subprocess.run(["sh", checkout / "scripts/bootstrap", "--list"], capture_output=True,
                          text=True, check=True)
    assert done.stdout == ""


def test_bootstrap_refuses_what_it_does_not_know(checkout):
    done = subprocess.run(["sh", checkout / "scripts/bootstrap", "kitchen"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2
    assert "usage: scripts/bootstrap" in done.stderr
