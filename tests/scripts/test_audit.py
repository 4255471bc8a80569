# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/qemu-tree audit makes of QEMU's answers."""

import stat
from pathlib import Path

import audit
import pytest
from audit import Result


def finding(field: str, kind: str = "blob", state: str = "card", **more: object) -> dict:
    return {"device": "card", "state": state, "field": field, "kind": kind, "type": "buffer",
            "size": 4, "neutral": kind == "typed", **more}


PROBED = [finding("planted", state=audit.PROBE), finding("hidden", state=f"{audit.PROBE}/inner")]


def result(*findings: dict) -> Result:
    one = Result("x86_64")
    one.take("somewhere", findings)
    return one


def test_typed_and_reviewed_pass() -> None:
    one = result(*PROBED, finding("count", "typed"), finding("bytes", neutral=True, reason="ok"),
                 finding("raw", reason="known to depend"))
    assert one.faults() == []
    assert (len(one.fields), len(one.reviewed), len(one.depend)) == (3, 1, 1)
    assert "card: raw (blob, type buffer, 4 bytes): known to depend" in audit.table([one])


def test_new_field_fails() -> None:
    one = result(*PROBED, finding("fresh"), finding("fresh"))
    assert one.faults() == ["x86_64: somewhere: card: fresh (blob, type buffer, 4 bytes): "
                            "not reviewed"]


@pytest.mark.parametrize("seen", [(), PROBED[:1], [finding("planted", neutral=True, reason="no")]])
def test_blind_audit_fails(seen: list[dict]) -> None:
    assert any("does not see the faults" in fault
               for fault in result(*seen, finding("count", "typed")).faults())


def test_newest_machine_of_each_family() -> None:
    assert audit.newest(["pc-q35-10.0", "pc-q35-9.2", "none", "virt-10.0", "x-remote"]) == \
        ["pc-q35-10.0", "virt-10.0", "x-remote"]


def test_device_gets_what_it_lacks(tmp_path: Path) -> None:
    """A program that plays QEMU: its device wants a disk."""
    program = tmp_path / "qemu-system-s390x"
    program.write_text("""#!/bin/sh
case "$*" in
*"-device disk,drive="*) read -r x; echo '{"return": {"fields": [], "truncated": false}}' ;;
*) echo "qemu: -device disk: drive property not set" >&2 ;;
esac
""")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    qemu = audit.Qemu("s390x", lambda argv: ([str(program), *argv[1:]], {}))
    assert qemu.try_device("disk") == ("disk on s390-ccw-virtio", [])
    assert qemu.try_device("other") == ("other", None)
