"""Progress where no bar can be drawn."""

from __future__ import annotations

import pytest

from kodkod_app import progress as progress_module
from kodkod_app.progress import bytes_progress


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with bytes_progress("fetching") as move:
        for second in range(150):
            now[0] = 100.0 + second
            move(second * 10**9, 150 * 10**9)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["fetching: 60.0 GB of 150.0 GB", "fetching: 120.0 GB of 150.0 GB"]
    assert not captured.out


def test_quick_work_says_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    with bytes_progress("loading") as move:
        move(1, 2)
        move(2, 2)
    assert capsys.readouterr() == ("", "")
