# SPDX-License-Identifier: GPL-2.0-or-later
"""Count test results, whoever ran the tests: everything is read from JUnit files."""

import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from say import Failure


@dataclass
class Tally:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def record(self, name: str, problem: str | None) -> None:
        """Count one check of our own; PROBLEM says what is wrong, or is None."""
        if problem is None:
            self.passed += 1
        else:
            self.failed.append(name)
            print(f"FAILED {name}\n{problem}", file=sys.stderr)

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append((name, reason))

    def add(self, other: "Tally") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def read_junit(self, path: Path, prefix: str) -> None:
        """Count the cases of a JUnit file; a file without a case is a failure."""
        try:
            cases = list(ElementTree.parse(path).iter("testcase"))
        except (OSError, ElementTree.ParseError) as error:
            raise Failure(f"the test results of {prefix} cannot be read: {error}") from error
        for case in cases:
            name = f"{prefix}: {case.get('classname', '')} {case.get('name', '')}".strip()
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed.append(name)
            elif skipped is not None:
                reason = (skipped.get("message") or skipped.text or case.findtext("system-out")
                          or "no reason was given")
                self.skip(name, reason.strip().splitlines()[0])
            else:
                self.passed += 1
        if not cases:
            self.failed.append(f"{prefix}: no test was run")

    def report(self) -> int:
        """Print what was skipped and what failed, then the closing line; return the status."""
        for name, reason in self.skipped:
            print(f"skipped: {name}: {reason}")
        for name in self.failed:
            print(f"failed:  {name}")
        tail = f", {len(self.skipped)} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {len(self.failed)} failed{tail}")
        return 1 if self.failed else 0
