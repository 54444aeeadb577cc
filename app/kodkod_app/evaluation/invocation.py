"""One `kodkod eval SUITE`: settings, model, trials, reports."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kodkod_app.bootstrap import Model, absolute_name, demonstration_checkpoint, open_model, require_model
from kodkod_app.evaluation.agents import AgentKind
from kodkod_app.evaluation.records import TrialsKept
from kodkod_app.evaluation.report import told, write_reports
from kodkod_app.evaluation.running import Evaluation, TrialPlan
from kodkod_app.evaluation.suite import SuiteFault, load_suite
from kodkod_app.settings import Settings, load_settings

_SETTING = "setting.json"
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
    suites = [load_suite(name) for name in names]
    agent = AgentKind(flags["agent"])
    settings = _settings(folder, flags, agent)
    setting = _setting(settings, agent, flags)
    _claim(folder, setting)
    plan = TrialPlan(
        suites, flags["trials"], flags["workers"], agent, settings, folder, flags["pattern"], flags["user"] == "model"
    )
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
        "env": flags["env"] and str(flags["env"].expanduser().absolute()),
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


def _claim(folder: Path, setting: Mapping[str, Any]) -> None:
    """Make a folder this evaluation's, or find that it is."""
    path = folder / _SETTING
    try:
        before = json.loads(path.read_bytes()) if path.exists() else setting
    except (OSError, ValueError) as fault:
        raise SuiteFault(f"{path} cannot be read ({fault}); restore it, or choose another folder with -o") from fault
    if differing := [name for name in _MUST_AGREE if before.get(name) != setting[name]]:
        raise SuiteFault(f"{folder} holds trials with another {' and '.join(differing)}; choose another folder with -o")
    path.write_text(json.dumps(setting, indent=1) + "\n", encoding="utf-8")


def _open(agent: AgentKind, settings: Settings) -> Model | None:
    """The model all trials share; None for scripted agents."""
    if agent.is_scripted:
        return None
    name = str(demonstration_checkpoint()) if agent is AgentKind.RANDOM else settings.model
    return open_model(name, settings.engine)
