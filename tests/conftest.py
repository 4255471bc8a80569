# SPDX-License-Identifier: GPL-2.0-or-later
"""What all test folders share: the import paths and the checkout."""

import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "scripts" / "lib"))
sys.path.insert(0, str(TOP / "tests"))


@pytest.fixture
def checkout() -> Path:
    return TOP
