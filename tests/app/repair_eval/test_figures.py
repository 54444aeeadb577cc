"""Shares, records and reports."""

from __future__ import annotations

import importlib.util
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_app.json_lines import RecordsDamaged
from kodkod_app.repair_eval.plots import write_plots
from kodkod_app.repair_eval.records import (
    AgentResult,
    ControlResult,
    FaultRecord,
    PlantedFault,
    Records,
)
from kodkod_app.repair_eval.report import summary, told, write_reports
from kodkod_app.statistics import Share, median


def record(number, *, resolved=True, winner=None, blind=False, kind="comparison", package="a==1"):
    fault = PlantedFault(
        key=f"{package}/0/{number}", package=package, kind=kind, path="a.py", line=1, old="<", new="<=",
        failing_tests=("test_a.py::test_x",),
    )  # fmt: skip
    agent = AgentResult(
        resolved=resolved, resolved_first=resolved and winner is None, status="done", reason="", ended_by_itself=True,
        candidates=winner or 1, winner=winner, tried_edits=winner or 1, test_runs=4, calls=5, malformed_calls=0,
        generated_tokens=10, prompt_tokens=100, reused_tokens=75, seconds=2.0, diff="",
    )  # fmt: skip
    nothing = ControlResult(resolved=False, tried_edits=0, edits=0)
    return FaultRecord(
        fault=fault,
        agent=agent,
        no_change=nothing,
        blind=ControlResult(resolved=blind, tried_edits=3, edits=20),
    )


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 18, 0.0, 0.176), (9, 18, 0.290, 0.710), (18, 18, 0.824, 1.0), (140, 200, 0.633, 0.759)],
)
def test_wilsons_interval(count, total, low, high):
    assert Share(count, total).interval == pytest.approx((low, high), abs=1e-3)


@given(st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_the_interval_holds_the_share(count, more):
    share = Share(count, count + more)
    low, high = share.interval
    assert 0 <= low <= high <= 1
    if share.total:
        assert low - 1e-9 <= share.value <= high + 1e-9


def test_median():
    assert [median([]), median([3, 1, 2]), median([4, 1, 2, 3])] == [0, 2, 2.5]


def test_records_are_found_again_and_a_torn_one_is_cut_off(tmp_path):
    path = tmp_path / "records.jsonl"
    records = Records(path)
    records.add(record(1))
    records.add(record(2))
    path.write_bytes(path.read_bytes() + b'{"fault": {"key"')
    again = Records(path)
    assert [one.fault.key for one in again] == ["a==1/0/1", "a==1/0/2"]
    assert "a==1/0/2" in again
    again.add(record(3))
    assert len(Records(path)) == 3


def test_a_line_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("{}\n")
    with pytest.raises(RecordsDamaged, match="line 1 cannot be read"):
        Records(path)


FOUND = [
    record(1),
    record(2, winner=3, kind="off_by_one", package="b==2", blind=True),
    record(3, resolved=False, kind="off_by_one"),
]


def test_the_summary_counts():
    found = summary(FOUND, {"candidates": 8})
    resolved = found["resolved"]
    assert [resolved[name]["count"] for name in ("agent", "agent_first", "blind", "no_change")] == [2, 1, 1, 0]
    assert found["times_blind"] == 2.0
    assert found["by_tries"] == [1, 1, 2]
    assert found["by_kind"]["off_by_one"]["agent"]["total"] == 2
    assert found["by_package"]["b==2"]["blind"]["count"] == 1
    assert found["cost"]["reused_share"] == 0.75
    assert summary([], {})["times_blind"] is None


def test_the_report_is_written_for_both(tmp_path):
    found = write_reports(FOUND, {"candidates": 8, "seed": 0}, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    text = (tmp_path / "report.md").read_text()
    assert text == told(found)
    assert "# Repair of 3 planted faults in 2 packages" in text
    assert "| with 8 candidates | 66.7 % (2 of 3; " in text
    assert "| off by one | 50.0 % (1 of 2; " in text


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plots_are_pictures(tmp_path):
    paths = write_plots(summary(FOUND, {"candidates": 8}), tmp_path)
    assert len(paths) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
