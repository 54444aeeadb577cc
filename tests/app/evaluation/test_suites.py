"""Every task that comes along: its reference solution passes; doing nothing fails, and so does a wrong solution."""

from __future__ import annotations

import asyncio

import pytest

from kodkod_app.evaluation.agents import AgentKind
from kodkod_app.evaluation.records import TrialsKept
from kodkod_app.evaluation.running import Evaluation, TrialPlan
from kodkod_app.evaluation.suite_files import bundled_suites, load_suite
from kodkod_app.settings import Settings
from kodkod_sandbox import landlock
from kodkod_sandbox.base import SandboxKind
from reachable import let_others_in

SUITES = sorted(bundled_suites())


@pytest.fixture
def box(tmp_path, monkeypatch):
    """Copies are made below; a closed box where this machine has one."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    let_others_in(tmp_path)  # a box's user may be another than root
    return SandboxKind.NONE if landlock.missing() else SandboxKind.LANDLOCK


def test_there_are_at_least_forty():
    suites = [load_suite(name) for name in SUITES]
    assert len(suites) >= 3
    assert sum(len(suite.tasks) for suite in suites) >= 40
    assert {suite.kind.value for suite in suites} == {"coding", "dialogue", "functions"}


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("agent", [AgentKind.REFERENCE, AgentKind.NOTHING, AgentKind.WRONG])
def test_each_task(name, agent, tmp_path, box):
    suite = load_suite(name)
    plan = TrialPlan([suite], 1, 2, agent, Settings(sandbox=box), tmp_path)
    asyncio.run(Evaluation(plan, None, TrialsKept(tmp_path), lambda _: None).run())
    trials = list(TrialsKept(tmp_path))
    assert len(trials) == len(suite.tasks)
    assert not [trial for trial in trials if trial.is_fault]
    expected = agent is AgentKind.REFERENCE
    assert {trial.task: trial.reasons for trial in trials if trial.passed is not expected} == {}
    assert len(list((tmp_path / "transcripts").iterdir())) == len(trials)
