# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded waiting: every wait of the harness has an end, and says what it waited for."""

import time


class TooLate(Exception):
    """Something did not happen within its time."""


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, seconds: float, what: str):
        self.seconds = seconds
        self.what = what
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that remain, or raise when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TooLate(f"{self.what}: nothing within {self.seconds:g} seconds")
        return left

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end
