# SPDX-License-Identifier: GPL-2.0-or-later
"""The patch series as people work on it: as commits to edit, as files to lint, on a new base."""

import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import upstream
from say import Failure
from tree import (GROUPS, OVERLAY, PATCHES, SHARED, TOP, apply_patch, copy_overlay, patches,
                  prepare, unpack)

STATUSES = ("Pending", "Submitted", "Backport", "Denied", "Inappropriate")
HOOK_BUDGET = 120      # changed lines in existing files that the hooks group may have


def _git(tree: Path, *arguments: str, text: str | None = None) -> str:
    identity = ["-c", "user.name=qemu-tree", "-c", "user.email=qemu-tree@localhost",
                "-c", "core.autocrlf=false", "-c", "gc.auto=0", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=tree, input=text,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"git {arguments[0]} in {tree.name}: {done.stderr.strip()[:300]}")
    return done.stdout


def _split(patch: Path) -> tuple[str, str]:
    """Split a patch file into its header and its diff."""
    text = patch.read_text()
    cut = re.search(r"^diff --git ", text, re.M)
    if not cut:
        raise Failure(f"{patch.relative_to(TOP)} holds no diff")
    return text[:cut.start()].rstrip() + "\n", text[cut.start():]


def edit(tree: Path) -> None:
    """Make a git repository with a commit for the base, one for the overlay, one a patch."""
    tree.mkdir()
    unpack(upstream.tarball(), tree)
    prepare(tree)
    _git(tree, "init", "-q", "-b", "quasar")
    _git(tree, "add", "-A", "-f")
    _git(tree, "commit", "-q", "-m", f"base: QEMU {upstream.read().version}")
    _git(tree, "tag", "base")
    for patch in patches("quasar"):
        header, _ = _split(patch)
        subject, _, body = header.removeprefix("Subject: ").partition("\n")
        apply_patch(tree, patch)
        _git(tree, "add", "-A", "-f")
        _git(tree, "commit", "-q", "-F", "-", text=f"{subject}\n\n{body.strip()}\n"
             f"Group: {patch.parent.name}\n")
    copy_overlay(tree)
    _git(tree, "add", "-A", "-f")
    _git(tree, "commit", "-q", "--allow-empty", "-m", "overlay: our own files")


@dataclass
class Exported:
    group: str
    name: str
    text: str


def _export_commit(tree: Path, commit: str, base_files: set[str]) -> Exported | None:
    """Turn one commit's changes to files of the base into a patch; None if it has none."""
    names = _git(tree, "diff", "--name-only", f"{commit}~", commit).split()
    changed = [n for n in names if n in base_files]
    if not changed:
        return None
    message = _git(tree, "log", "-1", "--format=%B", commit)
    group = re.search(r"^Group: (\w+)$", message, re.M)
    subject, _, body = message.partition("\n")
    if not group or group.group(1) not in GROUPS["quasar"]:
        raise Failure(f"commit '{subject}' changes files of the base but names no group",
                      "add a line 'Group: portability' or 'Group: hooks' to its message")
    body = re.sub(r"^Group: \w+\n?", "", body, flags=re.M).strip()
    diff = _git(tree, "diff", "-U1", "--no-color", f"{commit}~", commit, "--", *changed)
    diff = re.sub(r"^index .*\n", "", diff, flags=re.M)
    slug = re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-")[:52].strip("-")
    return Exported(group.group(1), slug, f"Subject: {subject}\n\n{body}\n\n{diff}")


def export(tree: Path) -> list[str]:
    """Write the commits of an edited tree back to qemu/patches and qemu/overlay."""
    if _git(tree, "status", "--porcelain").strip():
        raise Failure(f"{tree} has changes that are not committed", "commit them and try again")
    base_files = set(_git(tree, "ls-tree", "-r", "--name-only", "base").splitlines())
    commits = _git(tree, "rev-list", "--reverse", "base..HEAD").split()
    exported = [e for c in commits if (e := _export_commit(tree, c, base_files))]
    written = []
    for group in GROUPS["quasar"]:
        for old in (PATCHES / group).glob("*.patch"):
            old.unlink()
        for number, patch in enumerate([e for e in exported if e.group == group], 1):
            path = PATCHES / group / f"{number:04d}-{patch.name}.patch"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(patch.text)
            written.append(str(path.relative_to(TOP)))
    ours = sorted(n for n in _git(tree, "ls-tree", "-r", "--name-only", "HEAD").splitlines()
                  if n not in base_files and not any(fnmatch(n, s) for s in SHARED))
    for old in OVERLAY.rglob("*"):
        if old.is_file() and str(old.relative_to(OVERLAY)) not in ours:
            old.unlink()
    for name in ours:
        target = OVERLAY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / name, target)
        written.append(str(target.relative_to(TOP)))
    return written


def _hunk_faults(body: list[str]) -> list[str]:
    """Find hunks with more context than a patch of ours may carry."""
    faults = []
    if len(body) > 1 and body[0].startswith(" ") and body[1].startswith(" "):
        faults.append("more than one line of context before a change")
    if len(body) > 1 and body[-1].startswith(" ") and body[-2].startswith(" "):
        faults.append("more than one line of context after a change")
    if any(all(line.startswith(" ") for line in body[i:i + 3]) for i in range(len(body) - 2)):
        faults.append("more than two lines of context between changes")
    return faults


def lint(patch: Path) -> list[str]:
    """Name what is wrong with a patch file."""
    header, diff = _split(patch)
    faults = []
    if not re.match(r"Subject: [\w/*.,-]+: .{8,}\n\n.{40,}", header, re.S):
        faults.append("the header must be 'Subject: area: what', an empty line and the reason")
    status = re.search(r"^Upstream-Status: (\w+)( \[(.|\n )+\])?$", header, re.M)
    if not status or status.group(1) not in STATUSES:
        faults.append(f"the header needs 'Upstream-Status:' with one of {', '.join(STATUSES)}")
    if not re.search(r"^Test: \S", header, re.M):
        faults.append("the header needs 'Test:' naming what fails without it")
    if re.search(r"^--- /dev/null$", diff, re.M):
        faults.append("it adds a file; new files go to qemu/overlay")
    for line in re.findall(r"^\+.*[ \t]$", diff, re.M)[:1]:
        faults.append(f"white space at the end of a line: {line!r}")
    for hunk in re.split(r"^@@.*@@.*\n", diff, flags=re.M)[1:]:
        body = re.split(r"^diff --git ", hunk, flags=re.M)[0].splitlines()
        faults += _hunk_faults(body)
    return faults


def changed_lines(patch: Path) -> int:
    _, diff = _split(patch)
    return len(re.findall(r"^[+-](?!\+\+ |-- )", diff, re.M))


def try_base(tarball: Path, work: Path) -> list[tuple[Path, str]]:
    """Apply the series to another base; tell for each patch how it went."""
    try:
        work.mkdir(parents=True)
        unpack(tarball, work)
        prepare(work)
    except (tarfile.TarError, OSError) as error:
        raise Failure(f"{tarball.name}: {error}") from error
    rows = []
    for patch in patches("quasar"):
        try:
            said = apply_patch(work, patch)
            rows.append((patch, "with offsets" if "offset" in said else "clean"))
        except Failure as failure:
            rows.append((patch, str(failure)))
    return rows
