# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the guests' own Python is found."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "lib"), str(ROOT / "tests" / "guests" / "make")]
