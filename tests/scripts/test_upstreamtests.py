# SPDX-License-Identifier: GPL-2.0-or-later
"""How QEMU's own tests are read, compared and held against the reviewed list."""

import time

import pytest
import upstreamtests
from say import Failure
from tally import Tally
from upstreamtests import Comparison, Outcome, Review

TAP = """TAP version 13
1..4
# Start of x86_64 tests
ok 1 /x86_64/migration/one
# starting QEMU: exec qemu
not ok 2 /x86_64/migration/two - ERROR:framework.c:1
ok 3 /x86_64/migration/three # SKIP no such device
ok qcow2 migrate-bitmaps-test
ok qcow2 permissions # SKIP
Bail out! ERROR:framework.c:1
"""


def _compared(stock: dict[str, str], ours: dict[str, str], column: str = "fork") -> Comparison:
    one = Comparison("migration-test", "x86_64")
    one.columns = {"stock": {c: Outcome(w) for c, w in stock.items()},
                   column: {c: Outcome(w) for c, w in ours.items()}}
    return one


def _review(case: str, stock: str, ours: str, column: str = "fork") -> Review:
    return Review("migration-test", "x86_64", column, case, stock, ours, "because")


def test_results_are_read_from_tap():
    found = upstreamtests.read_tap(TAP)
    assert found["/x86_64/migration/one"] == Outcome("pass")
    assert found["/x86_64/migration/two"] == Outcome("fail", "ERROR:framework.c:1")
    assert found["/x86_64/migration/three"] == Outcome("skip", "no such device")
    assert found["qcow2 migrate-bitmaps-test"] == Outcome("pass")
    assert found["qcow2 permissions"] == Outcome("skip")
    assert len(found) == 5


@pytest.mark.parametrize("stock, ours, column, failed, skipped", [
    ("pass", "pass", "fork", 0, 0),
    ("fail", "fail", "fork", 0, 1),
    ("skip", "skip", "fork", 0, 1),
    ("pass", "fail", "fork", 1, 0),
    ("pass", "skip", "fork", 1, 0),
    ("fail", "pass", "fork", 1, 0),
    ("pass", "fail", "stock-fork", 1, 0),
])
def test_only_the_same_outcome_passes(stock, ours, column, failed, skipped):
    tally = Tally()
    upstreamtests.judge(_compared({"/a": stock}, {"/a": ours}, column), [], tally)
    assert (len(tally.failed), len(tally.skipped)) == (failed, skipped)
    assert tally.passed == 1 - failed - skipped


def test_a_case_that_is_missing_differs_but_not_between_builds():
    tally = Tally()
    upstreamtests.judge(_compared({"/a": "pass", "/b": "pass"}, {"/a": "pass"}), [], tally)
    assert len(tally.failed) == 1 and tally.failed[0].endswith("/b")
    tally = Tally()
    upstreamtests.judge(_compared({"/a": "pass", "/b": "pass"}, {"/a": "pass"}, "fork-stock"), [],
                        tally)
    assert not tally.failed


def test_a_reviewed_difference_is_no_failure():
    tally = Tally()
    review = _review("/a", "pass", "fail")
    assert upstreamtests.judge(_compared({"/a": "pass"}, {"/a": "fail"}), [review], tally) == \
        [review]
    assert not tally.failed and "because" in tally.skipped[0][1]


@pytest.mark.parametrize("ours", ["pass", "skip"])
def test_a_review_that_no_longer_applies_fails(ours):
    tally = Tally()
    upstreamtests.judge(_compared({"/a": "pass"}, {"/a": ours}), [_review("/a", "pass", "fail")],
                        tally)
    assert len(tally.failed) == 1 and tally.passed == 0


def test_the_list_is_read_and_a_broken_line_named(tmp_path):
    path = tmp_path / "differences"
    path.write_text("# comment\n\nmigration-test x86_64 fork /a pass fail two words\n")
    assert upstreamtests.read_reviews(path)[0].reason == "two words"
    path.write_text("# comment\nmigration-test x86_64 fork /a pass fail\n")
    with pytest.raises(Failure, match="line 2"):
        upstreamtests.read_reviews(path)
    assert isinstance(upstreamtests.read_reviews(), list)


def test_a_case_that_differs_is_run_once_more():
    answers = {("stock", "/a"): ["pass", "pass"], ("fork", "/a"): ["fail", "pass"],
               ("stock", "/b"): ["pass", "pass"], ("fork", "/b"): ["fail", "fail"],
               ("stock", "/c"): ["pass"], ("fork", "/c"): ["pass"]}
    one = Comparison("migration-test", "x86_64")
    names = ["/a", "/b", "/c"]
    upstreamtests.measure(one, {"stock": names, "fork": names},
                          lambda column, name: Outcome(answers[column, name].pop(0)))
    assert one.differing("fork") == ["/b"]
    assert len(one.unsteady) == 1 and "/a" in one.unsteady[0]
    assert not any(answers.values())
    lines = upstreamtests.table([one], [_review("/b", "pass", "fail")]).splitlines()
    assert lines[1].split()[3:9] == ["3", "2", "0", "0", "1", "0"]
    assert "unsteady" in lines[2]


def test_a_program_that_hangs_or_dies_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(upstreamtests, "CASE_SECONDS", 1)

    def run(script: str) -> Outcome:
        return upstreamtests._one(["sh", "-c", script], {}, tmp_path, "/a", tmp_path / "log")

    assert run("echo 'ok 1 /a'") == Outcome("pass")
    assert "status 3" in run("echo 'ok 1 /a'; exit 3").detail
    assert "no result" in run("echo 'ok 1 /b'").detail
    began = time.monotonic()
    hung = run("echo 'ok 1 /a'; sleep 60 & wait")
    assert hung.word == "fail" and "no end within 1 seconds" in hung.detail
    assert time.monotonic() - began < 20        # what it started ended with it


def test_iotests_are_chosen_by_what_they_say(tmp_path):
    (tmp_path / "tests").mkdir()
    for name, text in {"181": "#!/bin/sh\n# Migration\n", "182": "#!/bin/sh\n",
                       "181.out": "migrate\n", "tests/qsd-migrate": "#!/bin/sh\nmigrate\n",
                       "tests/qsd-migrate.out": "#!migrate\n"}.items():
        (tmp_path / name).write_text(text)
    assert upstreamtests.iotests_of_migration(tmp_path) == ["181", "qsd-migrate"]
