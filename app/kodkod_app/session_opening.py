"""What every session is opened with, whether somebody watches it or not: box, extras, settings, and where it stood.

options -> box plan, extras, setup -> session
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from kodkod_agent.candidate_starts import most_probable
from kodkod_agent.candidates import Candidates
from kodkod_agent.config import AgentConfig
from kodkod_agent.fitness import require_fit
from kodkod_agent.policy import PermissionMode
from kodkod_agent.session import Session, SessionSetup
from kodkod_app import bootstrap, paths
from kodkod_app.bootstrap import Model
from kodkod_app.boxes import BoxPlan, is_closed_box
from kodkod_app.candidate_places import place_opener
from kodkod_app.extras import Extras, find_extras, open_extras
from kodkod_app.python_environment import find_environment
from kodkod_app.settings import Layer, Settings
from kodkod_app.telemetry import open_spans
from kodkod_sandbox.base import Sandbox
from kodkod_sandbox.choose import SandboxKind

_ASKED = "asked.json"


class Extension(StrEnum):
    """What is added to a session beside its own tools."""

    NONE = "none"
    KNOWN = "known"
    """What the person's settings name, and a trusted project."""
    TRUSTED = "trusted"
    """The project is trusted for this once."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a person asked for."""

    work_tree: Path
    """Absolute and resolved."""
    settings: Settings
    prompt: str | None
    """None goes on with a run that was cut short."""
    session_id: str | None = None
    """The session to open again; None begins one."""
    fork: bool = False
    """Leave that session as it is, and go on in a new one."""
    fork_step: int | None = None
    """From this step; None goes on from where it stands."""
    allow_build_network: bool = False
    """A Docker image that is missing may be built over the network."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What commands in the box see besides."""
    sessions: Path | None = None
    """Where the session is kept, if not with the person's others."""
    extras: Extension = Extension.NONE
    asked: Layer = field(default_factory=dict)
    """What was said on the command line, kept with the session so that it need not be said again."""
    goes_on: bool = False
    """Without a prompt: go on where a run stopped short of its goal, too."""


def what_was_asked(session_id: str) -> Layer:
    """What was said on the command line when a session was last worked on; empty for another command's session."""
    try:
        found = json.loads((paths.sessions_folder() / session_id / _ASKED).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


async def require_folder(options: RunOptions) -> None:
    """That a session can be of the folder: asked before box and model are opened, which takes long.

    Raises:
        WorkTreeUnfit: it cannot.
    """
    if options.session_id is None or options.fork:
        await asyncio.to_thread(require_fit, options.work_tree)


def box_plan(options: RunOptions) -> BoxPlan:
    """The box a run works in."""
    settings = options.settings
    return BoxPlan(
        options.work_tree,
        settings.sandbox,
        find_environment(options.work_tree, settings.env, os.environ),
        environment_for_docker=settings.env is not None,
        allow_build_network=options.allow_build_network,
        test_command=settings.tools.test_command,
        variables=options.variables,
    )


@asynccontextmanager
async def extras_of(options: RunOptions, model: Model, way_back: str = "") -> AsyncIterator[Extras]:
    """What the person and the project add to the session, open; see `open_extras`."""
    with open_spans(options.settings.telemetry, Path(model.name).name) as spans:
        if options.extras is Extension.NONE:
            yield Extras(spans=spans)
            return
        found = find_extras(options.work_tree, options.settings, trusted=options.extras is Extension.TRUSTED)
        guided = model.profile.guided
        async with open_extras(found, options.work_tree, guided=guided, way_back=way_back) as extras:
            yield replace(extras, spans=spans)


def session_setup(settings: Settings, model: Model, box: Sandbox, extras: Extras | None = None) -> SessionSetup:
    """What a session works with, by the settings."""
    extras = extras or Extras()
    return SessionSetup(
        engine=model.engine,
        tokenizer=model.tokenizer,
        sandbox=box,
        work_tree=box.options.work_tree,
        config=_agent_config(settings, model),
        tools=settings.tools,
        mode=settings.permission_mode or PermissionMode.ACCEPT_EDITS,
        rules=settings.permissions,
        trusted=True,
        sandboxed=is_closed_box(box),
        profile=model.profile,
        ranker=model.ranker,
        model=bootstrap.absolute_name(model.name),
        more=extras.more,
        news=extras.news,
        hooks=extras.hooks,
        spans=extras.spans,
        skills=extras.skills,
    )


def _agent_config(settings: Settings, model: Model) -> AgentConfig:
    """The settings', but for what the model is."""
    if model.is_recording:
        return settings.agent.model_copy(update={"constraints": False})  # it says again what it said
    if not model.profile.guided or settings.candidates.count == 1:
        return settings.agent
    # Where there are candidates each conversation is one edit, tested once.
    return settings.agent.model_copy(update={"max_tries": 1})


def candidates_for(session: Session, settings: Settings, plan: BoxPlan, box: Sandbox) -> Candidates:
    """The ways to go on that the settings ask for, in a session that works in this box."""
    open_place = place_opener(plan, SandboxKind(box.name))
    if session.setup.profile.guided:
        return Candidates(session, settings.candidates, open_place, begin=most_probable, leaves_before=("view", "edit"))
    return Candidates(session, settings.candidates, open_place)


async def open_session(options: RunOptions, setup: SessionSetup) -> Session:
    """Begin a session, open one again, or fork one; what was asked for is kept with it."""
    root = options.sessions or paths.sessions_folder()
    if options.session_id is None:
        session = await Session.create(root, setup)
    elif options.fork:
        session = await Session.fork(root, options.session_id, options.fork_step, setup)
    else:
        session = await Session.resume(root, options.session_id, setup)
    try:
        (root / session.id / _ASKED).write_text(json.dumps(options.asked) + "\n", encoding="utf-8")
    except BaseException:
        await session.close()
        raise
    return session
