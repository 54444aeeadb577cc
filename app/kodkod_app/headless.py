"""A run that nobody watches: opens box, model and session, follows the run to its end, and shows it.

    box -> model -> session -> events -> renderer

Questions are answered by refusal, with a reason that reaches the model. Whatever happens, all is closed in order, and
a run that began is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from kodkod_agent import events
from kodkod_agent.approval import Approval
from kodkod_agent.candidates import Candidates
from kodkod_agent.policy import PermissionMode
from kodkod_agent.report import RunReport
from kodkod_agent.session import Session
from kodkod_app import bootstrap
from kodkod_app.bootstrap import Model
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.extras import Extras
from kodkod_app.interrupts import Interrupts
from kodkod_app.session_opening import (
    RunOptions,
    box_plan,
    candidates_for,
    extras_of,
    open_session,
    require_folder,
    session_setup,
)
from kodkod_engine.config import EngineConfig
from kodkod_sandbox.base import Sandbox

NOBODY = "nobody is there to ask: do without it, or finish and say what is missing"
"""What a refusal tells the model, after the reason for the question."""
GO_ON = "Go on where you stopped."
"""What a session is told whose run stopped short of its goal, when it is opened again without a word."""
OpenModel: TypeAlias = Callable[[str | None, EngineConfig], Model]


class NothingToDo(Exception):
    """A session that has ended was opened again, and nothing was said."""

    exit_code = 2


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


async def run_with(
    options: RunOptions, model: Model, plan: BoxPlan, renderer: Renderer, interrupts: Stop | None = None
) -> int:
    """One of several runs in a loop, with a model that is open and stays so. See `run_headless`."""
    async with open_box(plan) as box:
        return await _work(options, model, box, plan, renderer, interrupts or Never(), Extras())


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
        prompt, goes_on = options.prompt, False
        if prompt is None and not await session.is_unfinished() and not await candidates.are_due():
            prompt, goes_on = await _word_to_go_on(session, options), True
        renderer.begin(Scene(session.id, setup.work_tree, model.name, setup.mode, box.name, _python(plan, box)))
        stream = session.proceed() if prompt is None else session.send(prompt, goes_on=goes_on)
        return await _follow(session, candidates, stream, renderer, interrupts)


async def _word_to_go_on(session: Session, options: RunOptions) -> str:
    if options.goes_on and await session.has_stopped_short():
        return GO_ON
    raise NothingToDo(f"session {session.id} has ended; say what to do next with --issue TEXT")


def _python(plan: BoxPlan, box: Sandbox) -> str:
    if plan.environment is None or "VIRTUAL_ENV" not in box.options.env:
        return ""
    return f"{plan.environment.folder} ({plan.environment.origin})"


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
