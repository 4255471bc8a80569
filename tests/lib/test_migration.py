# SPDX-License-Identifier: GPL-2.0-or-later
"""Each end a migration can have, with a program that plays both QEMUs."""

from pathlib import Path
from typing import Any

import fakes
import pytest
from migration import Figures, MigrationFailed, migrate, save, wait_resumed


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_guest_arrives(tmp_path: Path, transport: str) -> None:
    arrived: list[bool] = []
    with fakes.machine(tmp_path / "a") as source, \
            fakes.machine(tmp_path / "b", incoming="defer") as destination:
        figures = migrate(source, destination, transport, bandwidth=1 << 20, downtime_ms=100,
                          timeout=10, arrived=lambda: arrived.append(True))
    assert figures == Figures(7, 1, 5000, 2, 3, 4, figures.stopped, figures.resumed)
    assert arrived == [True]


def test_source_dials_the_link_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leads: list[tuple[str, int]] = []
    dialled: list[str] = []

    def through(address: tuple[str, int]) -> tuple[str, int]:
        leads.append(address)
        return "127.0.0.2", 40010

    with fakes.machine(tmp_path / "a") as source, \
            fakes.machine(tmp_path / "b", incoming="defer") as destination:
        execute = source.qmp.execute

        def note(command: str, arguments: dict[str, Any] | None = None, **more: Any) -> Any:
            if command == "migrate":
                dialled.append(arguments["uri"])
            return execute(command, arguments, **more)

        monkeypatch.setattr(source.qmp, "execute", note)
        migrate(source, destination, "tcp", timeout=10, through=through)
    assert leads == [("127.0.0.1", 40009)] and dialled == ["tcp:127.0.0.2:40010"]


def test_source_that_refuses_is_quoted(tmp_path: Path) -> None:
    with fakes.machine(tmp_path / "a", "refuses") as source, \
            fakes.machine(tmp_path / "b", incoming="defer") as destination:
        with pytest.raises(MigrationFailed) as caught:
            migrate(source, destination, timeout=10)
    assert "fake on nowhere to fake on nowhere: it failed" in str(caught.value)
    assert "source: failed: told to refuse" in str(caught.value)
    assert "destination: still runs" in str(caught.value)


def test_destination_that_ends_is_quoted(tmp_path: Path) -> None:
    with fakes.machine(tmp_path / "a") as source, \
            fakes.machine(tmp_path / "b", "chokes", "defer") as destination:
        with pytest.raises(MigrationFailed, match="Size too large: /rom@etc/acpi/rsdp"):
            migrate(source, destination, timeout=10)


def test_save(tmp_path: Path) -> None:
    with fakes.machine(tmp_path / "a") as machine:
        save(machine, tmp_path / "state", timeout=10)
    with fakes.machine(tmp_path / "b", "refuses") as machine:
        with pytest.raises(MigrationFailed, match="saving failed\nsource: failed: told to"):
            save(machine, tmp_path / "state", timeout=10)


def test_load_that_ends_is_quoted(tmp_path: Path) -> None:
    with fakes.machine(tmp_path / "a", "chokes", "defer") as machine:
        machine.qmp.execute("migrate-incoming", {"uri": "file:x"})
        with pytest.raises(MigrationFailed, match="loading: .*\n.*Size too large"):
            wait_resumed(machine, timeout=10)
