# SPDX-License-Identifier: GPL-2.0-or-later
"""Which hosts the tests of this folder are for."""

import os

from arches import ARCHES


def wanted_hosts() -> list[str]:
    """The host architectures that scripts/check --hosts asked for."""
    given = os.environ.get("QUASAR_TEST_HOSTS")
    return given.split(",") if given else list(ARCHES)
