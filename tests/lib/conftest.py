# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets the tests of the harness import it."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    with suppress(ValueError):      # another folder of the same run may have it already
        parser.getgroup("quasar").addoption("--quick", action="store_true",
                                            help="no difference here: all are quick")
