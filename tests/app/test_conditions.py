"""A disk that is full, and files that may not be written: one line, in every face."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from kodkod_app.conditions import told_condition
from kodkod_app.tui.faults import told_fault


@pytest.fixture
def full() -> sqlite3.OperationalError:
    """What sqlite says when it has no room."""
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE t (x)")
        database.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as fault:
            database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    return fault.value


def test_what_a_machine_says_of_files_is_told_with_the_way_out(full: sqlite3.OperationalError) -> None:
    assert told_condition(full) == "no room is left on the disk; make room, then go on"
    assert told_condition(OSError(errno.ENOSPC, "No space left on device")) == told_condition(full)
    assert told_condition(OSError(errno.ENOSPC, "No space left on device", "/there/x")) == (
        "/there/x: No space left on device; make room or allow it, then try again"
    )
    with pytest.raises(OSError, match="too long") as fault:
        Path("/x" * 3_000).stat()
    assert told_condition(fault.value) == f"{'/x' * 30}…: no disk takes a name of this length; name another"
    for other in (
        sqlite3.OperationalError("no such table: t"),
        OSError(errno.EIO, "Input/output error", "x"),
        ValueError(),
    ):
        assert told_condition(other) is None


def test_the_app_tells_a_fault_that_it_cannot_write_down(home: Path, full: sqlite3.OperationalError) -> None:
    """With a full disk it raised another fault, which ended the thread, and the screen waited for ever."""
    home.mkdir()
    (home / "cache").touch()
    assert told_fault(ZeroDivisionError("so")).text == "ZeroDivisionError: so"
    (home / "cache").unlink()
    (home / "cache" / "fault.log").mkdir(parents=True)
    assert told_fault(ZeroDivisionError("so")).text == "ZeroDivisionError: so"
    assert told_fault(full).text == told_condition(full)
    (home / "cache" / "fault.log").rmdir()
    assert told_fault(ZeroDivisionError("so")).text.endswith(f"the whole of it is in {home}/cache/fault.log")


def test_a_command_tells_a_full_database(kodkod, project, record, monkeypatch, full: sqlite3.OperationalError) -> None:
    def fails(*_, **__):
        raise full

    monkeypatch.setattr("kodkod_app.headless.open_session", fails)
    found = kodkod("-p", "hi", "-C", project, "-m", record(), "--sandbox", "none")
    assert (found.code, found.err.splitlines()[-1]) == (1, f"kodkod: {told_condition(full)}")
