# SPDX-License-Identifier: GPL-2.0-or-later
"""What all test folders share: the import paths and the options of scripts/check."""

import os
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "scripts" / "lib"))
sys.path.insert(0, str(TOP / "tests"))


@pytest.fixture
def checkout() -> Path:
    return TOP


def wanted_hosts() -> list[str]:
    """The host architectures that scripts/check --hosts asked for."""
    from arches import ARCHES
    given = os.environ.get("QUASAR_TEST_HOSTS")
    return given.split(",") if given else list(ARCHES)
