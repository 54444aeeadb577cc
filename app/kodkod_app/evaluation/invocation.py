"""One `kodkod eval SUITE`: settings, model, trials, reports."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kodkod_app import paths
from kodkod_app.bootstrap import Model, absolute_name, demonstration_checkpoint, open_model, require_model
from kodkod_app.evaluation.agents import AgentKind
from kodkod_app.evaluation.records import TrialsKept
from kodkod_app.evaluation.report import told, write_reports
from kodkod_app.evaluation.running import Evaluation, TrialPlan
from kodkod_app.evaluation.suite import Suite, SuiteFault
from kodkod_app.evaluation.suite_files import load_suites
from kodkod_app.output_folder import claim_output, make_output
from kodkod_app.settings import Settings, load_settings

_MUST_AGREE = ("agent", "model", "seed", "temperature", "user")


def evaluate(
    names: Sequence[str],
    folder: Path,
    flags: Mapping[str, Any],
    tell: Callable[[str], None],
    show: Callable[[str], None],
) -> int:
    """Do it; the exit code. The reports are written whatever happens.

    Args:
        names: of suites, or paths of their files.
        folder: for all that is kept.
        flags: of the command.
        tell: takes lines of progress.
        show: takes the report.

    Raises:
        SuiteFault, SettingsFault, CheckpointError, EngineError: a fault, each with its exit code.
    """
    suites = load_suites(names)
    _require_task(suites, flags["pattern"])
    make_output(folder)
    agent = AgentKind(flags["agent"])
    settings = _settings(folder, flags, agent)
    setting = _setting(settings, agent, flags)
    claim_output(folder, setting, _MUST_AGREE, "trials")
    plan = TrialPlan(
        suites, flags["trials"], flags["workers"], agent, settings, folder, flags["pattern"], flags["user"] == "model",
        redo_faults=flags["redo_faults"],
    )  # fmt: skip
    kept = TrialsKept(folder)
    model = _open(agent, settings)
    try:
        asyncio.run(Evaluation(plan, model, kept, tell).run())
    finally:
        if model is not None:
            model.engine.close()
        if len(kept):
            show(told(write_reports(list(kept), setting, folder)))
    return 1 if any(trial.is_fault for trial in kept) else 0


def _settings(folder: Path, flags: Mapping[str, Any], agent: AgentKind) -> Settings:
    said = {
        "model": flags["model"] and absolute_name(flags["model"]),
        "sandbox": flags["sandbox"],
        "env": flags["env"] and str(paths.expanded(flags["env"]).absolute()),
        "agent": {"seed": flags["seed"], "temperature": flags["temperature"]},
    }
    settings = load_settings(folder, trusted=False, environment=os.environ, flags=said)
    if agent is not AgentKind.MODEL:
        return settings
    return settings.model_copy(update={"model": require_model(settings.model)})


def _setting(settings: Settings, agent: AgentKind, flags: Mapping[str, Any]) -> dict[str, Any]:
    is_model = agent is AgentKind.MODEL
    return {
        "agent": Path(settings.model or "").name if is_model else str(agent),
        "model": settings.model if is_model else None,
        "seed": settings.agent.seed,
        "temperature": settings.agent.temperature,
        "user": flags["user"],
        "sandbox": str(settings.sandbox),
        "version": version("kodkod"),
    }


def _require_task(suites: Sequence[Suite], pattern: str) -> None:
    if not any(pattern in task.id for suite in suites for task in suite.tasks):
        raise SuiteFault(f"no task has {pattern!r} in its id; give a part of one by --task, or leave it out for all")


def _open(agent: AgentKind, settings: Settings) -> Model | None:
    """The model all trials share; None for scripted agents."""
    if agent.is_scripted:
        return None
    name = str(demonstration_checkpoint()) if agent is AgentKind.RANDOM else settings.model
    return open_model(name, settings.engine)
