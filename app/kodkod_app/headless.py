"""A run that nobody watches: opens box, model and session, follows the run to its end, and shows it.

    box -> model -> session -> events -> renderer

Questions are answered by refusal, with a reason that reaches the model. Whatever happens, all is closed in order, and
a run that began is reported.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias

from kodkod_agent import events
from kodkod_agent.approval import Approval
from kodkod_agent.candidate_starts import most_probable
from kodkod_agent.candidates import Candidates
from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import SessionNotFound
from kodkod_agent.fitness import require_fit
from kodkod_agent.journal import Journal
from kodkod_agent.policy import PermissionMode
from kodkod_agent.report import RunReport
from kodkod_agent.session import Session, SessionSetup
from kodkod_agent.session_folder import SessionFolder
from kodkod_app import bootstrap, paths
from kodkod_app.bootstrap import Model
from kodkod_app.boxes import BoxPlan, is_closed_box, open_box
from kodkod_app.candidate_places import place_opener
from kodkod_app.extras import Extras, find_extras, open_extras
from kodkod_app.interrupts import Interrupts
from kodkod_app.python_environment import find_environment
from kodkod_app.settings import Layer, Settings
from kodkod_app.telemetry import open_spans
from kodkod_engine.config import EngineConfig
from kodkod_sandbox.base import Sandbox
from kodkod_sandbox.choose import SandboxKind

NOBODY = "nobody is there to ask: do without it, or finish and say what is missing"
"""What a refusal tells the model, after the reason for the question."""
GO_ON = "Go on where you stopped."
"""What a session is told whose run stopped short of its goal, when it is opened again without a word."""
OpenModel: TypeAlias = Callable[[str | None, EngineConfig], Model]
_ASKED = "asked.json"


class NothingToDo(Exception):
    """A session that has ended was opened again, and nothing was said."""

    exit_code = 2


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
    """From this step; None takes its last."""
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


@dataclass(frozen=True, slots=True)
class Scene:
    """What a run works with, for its first line."""

    session_id: str
    work_tree: Path
    model: str
    mode: PermissionMode
    box: str
    python: str
    """The environment the tests run in; empty where the box has Python of its own."""


class Stop(Protocol):
    """Asks a run to end; see `Interrupts`."""

    on_first: Callable[[], object]
    """Called when it is asked."""
    was_asked: bool


class Never:
    """Never asks."""

    def __init__(self) -> None:
        self.on_first: Callable[[], object] = lambda: None
        self.was_asked = False


class Renderer(Protocol):
    """Shows a run."""

    def begin(self, scene: Scene) -> None:
        """Before the first event."""
        ...

    def show(self, event: events.Event) -> None:
        """One event."""
        ...

    def end(self, report: RunReport, exit_code: int) -> None:
        """After the last, however the run ended."""
        ...


def what_was_asked(session_id: str) -> Layer:
    """What was said on the command line when a session was last worked on; empty for another command's session."""
    try:
        found = json.loads((paths.sessions_folder() / session_id / _ASKED).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_headless(options: RunOptions, renderer: Renderer, open_model: OpenModel = bootstrap.open_session_model) -> int:
    """Do it; returns the exit code.

    Raises:
        CheckpointError, SandboxError, SettingsFault, ...: each with its `exit_code`, after the report of a run that
            had begun.
        KeyboardInterrupt: interrupted before a run had begun.
    """
    try:
        return asyncio.run(_run(options, renderer, open_model))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _run(options: RunOptions, renderer: Renderer, open_model: OpenModel) -> int:
    plan = box_plan(options)
    with Interrupts() as interrupts:
        await require_folder(options)
        async with open_box(plan) as box:
            with interrupts.blocking():
                model = open_model(options.settings.model, options.settings.engine)
            try:
                async with extras_of(options, model) as extras:
                    return await _work(options, model, box, plan, renderer, interrupts, extras)
            finally:
                model.engine.close()


async def require_folder(options: RunOptions) -> None:
    """That a session can be of the folder: asked before box and model are opened, which takes long.

    Raises:
        WorkTreeUnfit: it cannot.
    """
    if options.session_id is None or options.fork:
        await asyncio.to_thread(require_fit, options.work_tree)


async def run_with(
    options: RunOptions, model: Model, plan: BoxPlan, renderer: Renderer, interrupts: Stop | None = None
) -> int:
    """One of several runs in a loop, with a model that is open and stays so. See `run_headless`."""
    async with open_box(plan) as box:
        return await _work(options, model, box, plan, renderer, interrupts or Never(), Extras())


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


async def _work(
    options: RunOptions,
    model: Model,
    box: Sandbox,
    plan: BoxPlan,
    renderer: Renderer,
    interrupts: Stop,
    extras: Extras,
) -> int:
    setup = session_setup(options.settings, model, box, extras)
    async with await open_session(options, setup) as session:
        candidates = candidates_for(session, options.settings, plan, box)
        prompt = options.prompt
        if prompt is None and not await session.is_unfinished() and not await candidates.are_due():
            prompt = await _word_to_go_on(session, options)
        renderer.begin(Scene(session.id, setup.work_tree, model.name, setup.mode, box.name, _python(plan, box)))
        stream = session.proceed() if prompt is None else session.send(prompt)
        return await _follow(session, candidates, stream, renderer, interrupts)


async def _word_to_go_on(session: Session, options: RunOptions) -> str:
    if options.goes_on and await session.has_stopped_short():
        return GO_ON
    raise NothingToDo(f"session {session.id} has ended; say what to do next with --issue TEXT")


def candidates_for(session: Session, settings: Settings, plan: BoxPlan, box: Sandbox) -> Candidates:
    """The ways to go on that the settings ask for, in a session that works in this box."""
    open_place = place_opener(plan, SandboxKind(box.name))
    if session.setup.profile.guided:
        return Candidates(session, settings.candidates, open_place, begin=most_probable, leaves_before=("view", "edit"))
    return Candidates(session, settings.candidates, open_place)


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


def _python(plan: BoxPlan, box: Sandbox) -> str:
    if plan.environment is None or "VIRTUAL_ENV" not in box.options.env:
        return ""
    return f"{plan.environment.folder} ({plan.environment.origin})"


async def open_session(options: RunOptions, setup: SessionSetup) -> Session:
    """Begin a session, open one again, or fork one at its last step; what was asked for is kept with it."""
    root = options.sessions or paths.sessions_folder()
    if options.session_id is None:
        session = await Session.create(root, setup)
    elif options.fork:
        step = _last_step(root, options.session_id) if options.fork_step is None else options.fork_step
        session = await Session.fork(root, options.session_id, step, setup)
    else:
        session = await Session.resume(root, options.session_id, setup)
    (root / session.id / _ASKED).write_text(json.dumps(options.asked) + "\n", encoding="utf-8")
    return session


def _last_step(root: Path, session_id: str) -> int:
    steps = Journal(SessionFolder.find(root, session_id).journal).steps
    if not steps:
        raise SessionNotFound(f"session {session_id} has no step to fork from; go on with it instead")
    return steps[-1].step


async def _follow(
    session: Session,
    candidates: Candidates,
    stream: AsyncGenerator[events.Event, None],
    renderer: Renderer,
    interrupts: Stop,
) -> int:
    interrupts.on_first = candidates.cancel
    ended: RunReport | None = None
    exit_code = 1
    try:
        async with aclosing(candidates.follow(_answered(stream, session))) as found:
            async for event in found:
                if isinstance(event, events.RunStarted) and interrupts.was_asked:
                    candidates.cancel()  # asked for before there was something to cancel
                if isinstance(event, events.RunEnded):
                    ended, exit_code = event.report, event.report.exit_code
                renderer.show(event)
    except Exception as fault:
        exit_code = getattr(fault, "exit_code", 1)
        raise
    finally:
        if ended is not None:
            renderer.end(ended, exit_code)
    return exit_code


async def _answered(stream: AsyncGenerator[events.Event, None], session: Session) -> AsyncGenerator[events.Event, None]:
    """The events of a run, its questions answered."""
    async with aclosing(stream) as found:
        async for event in found:
            yield event
            if isinstance(event, events.ApprovalAsked):
                session.answer(*map(_refusal, event.requests))


def _refusal(request: events.ApprovalRequest) -> Approval:
    return Approval(call_id=request.call.id, allowed=False, message=f"{request.reason}; {NOBODY}")
