# SPDX-License-Identifier: GPL-2.0-or-later
"""The fork's tree: what is accepted as the base, what a patch may look like."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import series
import tree
import upstream
from say import Failure

GOOD = """Subject: physmem: a length that is the guest's

The reason is told here, at a length that a reader can use.

Upstream-Status: Pending [not yet sent]
Test: tests/vm, something

diff --git a/a.c b/a.c
--- a/a.c
+++ b/a.c
@@ -1,3 +1,3 @@
 before
-old
+new
 after
"""


def make_tarball(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"qemu-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def pinned_for(tarball: Path) -> upstream.Upstream:
    return upstream.Upstream(version="1.0.1", content_folders=["hw"],
                             content=upstream.content_digest(tarball, ["hw"]))


def test_upstream_is_complete():
    pinned = upstream.read()
    assert pinned.version and pinned.hashes and pinned.content and pinned.names
    assert [s[0] for s in pinned.sources] == ["file", "folder", "folder", "apt", "url"]


def test_a_line_that_is_not_understood_is_named(tmp_path):
    (tmp_path / "UPSTREAM").write_text("version 1.0.0\nversoin 2\n")
    with pytest.raises(Failure, match="line 2 is not understood"):
        upstream.read(tmp_path / "UPSTREAM")


def test_another_packing_of_the_same_release_is_accepted(tmp_path):
    full = make_tarball(tmp_path / "a.tar.xz", {"hw/a.c": "int a;", "roms/big": "blob"})
    small = make_tarball(tmp_path / "b.tar.xz", {"hw/a.c": "int a;"})
    assert upstream.verify(small, pinned_for(full)) == "another packing of the same release"


def test_a_changed_file_is_refused(tmp_path):
    full = make_tarball(tmp_path / "a.tar.xz", {"hw/a.c": "int a;"})
    bad = make_tarball(tmp_path / "b.tar.xz", {"hw/a.c": "int b;"})
    with pytest.raises(Failure, match="is not QEMU 1.0.1: its SHA-256 is"):
        upstream.verify(bad, pinned_for(full))


def test_a_truncated_tarball_is_refused(tmp_path):
    full = make_tarball(tmp_path / "a.tar.xz", {"hw/a.c": "int a;" * 5000})
    pinned = pinned_for(full)
    cut = tmp_path / "cut.tar.xz"
    cut.write_bytes(full.read_bytes()[:100])
    with pytest.raises(Failure, match="no readable tarball"):
        upstream.verify(cut, pinned)


def test_a_sister_release_is_accepted_from_the_package_manager_alone(tmp_path):
    full = make_tarball(tmp_path / "a.tar.xz", {"hw/a.c": "int a;"})
    sister = make_tarball(tmp_path / "qemu_1.0.7+ds.orig.tar.xz", {"hw/a.c": "int b;"})
    assert "1.0.7" in upstream.verify(sister, pinned_for(full), trusted=True)
    with pytest.raises(Failure):
        upstream.verify(sister, pinned_for(full))


def test_a_tarball_that_is_given_but_absent_is_named(checkout, tmp_path):
    environment = {"QUASAR_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin",
                   "QUASAR_QEMU_TARBALL": str(tmp_path / "absent.tar.xz")}
    done = subprocess.run([sys.executable, checkout / "scripts/qemu-tree", "fetch"],
                          env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "QUASAR_QEMU_TARBALL names no file" in done.stderr
    assert "Traceback" not in done.stderr


def pinned_to_folder(folder: Path, good: Path) -> upstream.Upstream:
    pinned = pinned_for(good)
    pinned.names = ["first.tar.xz", "second.tar.xz"]
    pinned.sources = [["folder", str(folder)], ["folder", str(folder / "none")]]
    return pinned


def test_a_bad_tarball_does_not_hide_a_good_one(tmp_path, capfd):
    good = make_tarball(tmp_path / "second.tar.xz", {"hw/a.c": "int a;"})
    data = bytearray(good.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "first.tar.xz").write_bytes(data)
    (tmp_path / "out").mkdir()
    upstream._fetch(pinned_to_folder(tmp_path, good), tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "qemu.tar.xz").read_bytes() == good.read_bytes()
    assert "refused: first.tar.xz" in capfd.readouterr().err


def test_no_source_at_all_tells_what_was_tried(tmp_path):
    good = make_tarball(tmp_path / "elsewhere.tar.xz", {"hw/a.c": "int a;"})
    make_tarball(tmp_path / "first.tar.xz", {"hw/a.c": "int b;"})
    with pytest.raises(Failure, match="no source of QEMU 1.0.1") as caught:
        upstream._fetch(pinned_to_folder(tmp_path, good), tmp_path, tmp_path)
    assert "tried in this order" in caught.value.hint
    assert "is not QEMU 1.0.1" in caught.value.hint and "nothing there" in caught.value.hint


def test_edit_leaves_alone_what_is_there(checkout, tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "work").write_text("of days")
    for verb in ("edit", "apply"):
        done = subprocess.run([sys.executable, checkout / "scripts/qemu-tree", verb, tmp_path],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "exists already" in done.stderr
        assert (tmp_path / "work").read_text() == "of days"


def test_our_series_has_no_faults():
    for variant in tree.GROUPS:
        for patch in tree.patches(variant):
            assert series.lint(patch) == [], patch.name


@pytest.mark.parametrize("change, fault", [
    (lambda t: t.replace("Upstream-Status: Pending", "Upstream-Status: Perhaps"),
     "Upstream-Status"),
    (lambda t: t.replace("Test: tests/vm, something\n", ""), "Test:"),
    (lambda t: t.replace("Subject: physmem: ", "Subject: "), "the header must be"),
    (lambda t: t.replace(" before\n", " more\n before\n"), "before a change"),
    (lambda t: t + " more\n", "after a change"),
    (lambda t: t.replace("--- a/a.c", "--- /dev/null"), "it adds a file"),
    (lambda t: t.replace("+new", "+new "), "white space"),
], ids=["status", "test", "subject", "before", "after", "new-file", "space"])
def test_the_lint_finds(tmp_path, monkeypatch, change, fault):
    monkeypatch.setattr(series, "TOP", tmp_path)
    patch = tmp_path / "0001.patch"
    patch.write_text(GOOD)
    assert series.lint(patch) == []
    patch.write_text(change(GOOD))
    assert any(fault in f for f in series.lint(patch)), series.lint(patch)


def test_a_patch_that_does_not_apply_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "TOP", tmp_path)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.c").write_text("something\nelse\n")
    patch = tmp_path / "0001-a.patch"
    patch.write_text(GOOD)
    with pytest.raises(Failure, match="0001-a.patch does not apply"):
        tree.apply_patch(tmp_path / "tree", patch)


def test_edit_and_export_are_inverse(checkout, tmp_path, monkeypatch):
    """Export an edited tree into a copy of qemu/: the series comes back byte for byte."""
    patches, overlay = tmp_path / "patches", tmp_path / "overlay"
    for group in tree.GROUPS["quasar"]:
        (patches / group).mkdir(parents=True)
    overlay.mkdir()
    series.edit(tmp_path / "tree")
    before = {p.relative_to(tree.PATCHES): p.read_text() for p in tree.patches("quasar")}
    (tmp_path / "tree" / "hw" / "quasar-new.c").write_text("int quasar;\n")
    for name, value in (("PATCHES", patches), ("OVERLAY", overlay), ("TOP", tmp_path)):
        monkeypatch.setattr(series, name, value)
    with pytest.raises(Failure, match="not committed"):
        series.export(tmp_path / "tree")
    git = ["git", "-C", str(tmp_path / "tree"), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "overlay: a new file"], check=True)
    written = series.export(tmp_path / "tree")
    after = {p.relative_to(patches): p.read_text() for p in patches.rglob("*.patch")}
    assert after == before
    assert "overlay/hw/quasar-new.c" in written
    assert (overlay / "hw" / "quasar-new.c").read_text() == "int quasar;\n"


def test_bump_refuses_a_tarball_of_another_release(checkout):
    before = upstream.FILE.read_bytes()
    done = subprocess.run([sys.executable, checkout / "scripts/qemu-tree", "bump", "10.0.99",
                           upstream.tarball()], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"holds QEMU {upstream.read().version}, not 10.0.99" in done.stderr
    assert upstream.FILE.read_bytes() == before
