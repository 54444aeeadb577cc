"""Coding tasks: kodkod's own agent, its own tools, a work tree of its own, in a box."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kodkod_agent import events
from kodkod_agent.policy import PermissionMode
from kodkod_agent.report import RunReport
from kodkod_app.bootstrap import Model
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.candidate_places import copy_folder
from kodkod_app.evaluation.harbor_tasks import HarborTask
from kodkod_app.evaluation.suite import World
from kodkod_app.evaluation.transcript import Made, Transcript
from kodkod_app.headless import Scene, run_with
from kodkod_app.own_git import begin_repository, commit_all
from kodkod_app.python_environment import find_environment
from kodkod_app.session_opening import RunOptions
from kodkod_app.settings import Settings
from kodkod_sandbox.base import Sandbox, SandboxKind
from kodkod_sandbox.image_files import copy_from_image

_BASE = "begins"
"""Message of the commit that holds a world's files where it has no history of its own."""


@dataclass(slots=True)
class Recorder:
    """A renderer that writes the transcript."""

    transcript: Transcript
    report: RunReport | None = None
    _text: str = ""
    _written: dict[str, events.CallWritten] = field(default_factory=dict)

    def begin(self, scene: Scene) -> None:
        """Nothing to show."""

    def show(self, event: events.Event) -> None:
        """Taken down."""
        match event:
            case events.TextDelta(text):
                self._text += text
            case events.CallWritten(call):
                self._written[call.id] = event
            case events.CallFinished():
                self._take(event)
            case events.UsageReported(usage=usage):
                self.transcript.count(usage)
            case events.TurnEnded() | events.RunEnded():
                self._close_turn()
            case _:
                pass

    def _take(self, finished: events.CallFinished) -> None:
        written = self._written.get(finished.call_id)
        arguments = dict(written.call.arguments) if written else {}
        fault = written.call.fault if written else None
        self.transcript.calls.append(Made(finished.name, arguments, finished.for_model, fault=fault))
        if finished.name == "finish" and isinstance(summary := arguments.get("summary"), str):
            self._text += summary

    def _close_turn(self) -> None:
        if self._text.strip():
            self.transcript.said.append(("agent", self._text))
        self._text = ""

    def end(self, report: RunReport, exit_code: int) -> None:
        """Kept."""
        del exit_code
        self.report = report


@dataclass(frozen=True, slots=True)
class Workshop:
    """A work tree in which a task is done, and its box's plan."""

    tree: Path
    plan: BoxPlan

    @asynccontextmanager
    async def box(self) -> AsyncIterator[Sandbox]:
        """A fresh box, for checks."""
        async with open_box(self.plan) as box:
            yield box


@asynccontextmanager
async def open_workshop(world: World, kind: SandboxKind, environment: Path | None) -> AsyncIterator[Workshop]:
    """A work tree as a world begins, removed afterwards."""
    with copy_folder() as parent:
        tree = parent / "tree"
        await asyncio.to_thread(lay_out, world, tree)
        yield Workshop(tree, BoxPlan(tree, kind, find_environment(tree, environment, {})))


@asynccontextmanager
async def open_harbor_workshop(
    task: HarborTask, kind: SandboxKind, environment: Path | None
) -> AsyncIterator[Workshop]:
    """A work tree as a task directory of Harbor begins, removed afterwards.

    Raises:
        SuiteFault, SandboxError: it cannot be made.
    """
    image = task.file.environment.docker_image
    with copy_folder() as parent:
        tree = parent / "tree"
        if image is None:
            await asyncio.to_thread(task.lay_out, tree)
            plan = BoxPlan(tree, kind, find_environment(tree, environment, {}), variables=task.variables)
        else:
            await asyncio.to_thread(copy_from_image, image, task.work_folder, tree)
            plan = BoxPlan(tree, SandboxKind.DOCKER, image=image, variables=task.variables)
        begin_repository(tree)
        commit_all(tree, _BASE)
        yield Workshop(tree, plan)


async def work(workshop: Workshop, model: Model, settings: Settings, prompt: str, transcript: Transcript) -> RunReport:
    """Have the agent do a task, with nobody watching.

    Raises:
        EngineError, SandboxError, AgentError: a fault.
    """
    # In a closed box a command can do no harm; without a box what would be asked is refused.
    is_closed = settings.sandbox is not SandboxKind.NONE
    mode = PermissionMode.BYPASS_PERMISSIONS if is_closed else PermissionMode.ACCEPT_EDITS
    transcript.said.append(("user", prompt))
    recorder = Recorder(transcript)
    settings = settings.model_copy(update={"permission_mode": mode})
    options = RunOptions(workshop.tree, settings, prompt, sessions=workshop.tree.parent / "sessions")
    await run_with(options, model, workshop.plan, recorder)
    assert recorder.report is not None, "a run that began is reported"
    transcript.exit_status = str(recorder.report.status)
    return recorder.report


def lay_out(world: World, tree: Path) -> None:
    """Write a world's files, and its history: its commits, or one of all files.

    Raises:
        OwnGitFault, OSError: it is none that can be laid out.
    """
    tree.mkdir(parents=True)
    begin_repository(tree)
    for commit in world.commits:
        for name, text in commit.files.items():
            _write(tree, name, text)
        commit_all(tree, commit.message)
    for name, text in world.files.items():
        _write(tree, name, text)
    if not world.commits:
        commit_all(tree, _BASE)


def _write(tree: Path, name: str, text: str | None) -> None:
    path = tree / name
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
