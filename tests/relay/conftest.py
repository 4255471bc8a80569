#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the helpers; runs what a guest feels of its NAT with each kind of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))
sys.path.insert(0, str(Path(__file__).parent))
import relaylib  # noqa: E402

WITH_EACH = ("test_nat", "test_moving", "test_restart", "test_drain", "test_forward6")


@pytest.fixture(autouse=True)
def nat_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind = getattr(request, "param", relaylib.NAT)
    monkeypatch.setattr(relaylib, "NAT", kind)
    return kind


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__ in WITH_EACH:
        metafunc.parametrize("nat_kind", ["slirp", "scaled"], indirect=True)
