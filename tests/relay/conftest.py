#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the helpers, and the programs of the build when none are named."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
