"""A session: what the person says goes in, events come out, and everything is on disk on the way.

    async with await Session.create(root, setup) as session:
        async for event in session.send("mend the failing test"):
            ...                                   # on ApprovalAsked: session.answer(Approval(...))

Killed at any instant, `Session.resume` and `proceed` go on where it stopped.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from kodkod_agent import events, trajectory
from kodkod_agent.approval import Approval
from kodkod_agent.checkpoint import PrunedSaver, open_saver
from kodkod_agent.config import AgentConfig
from kodkod_agent.context import Budget, prompt
from kodkod_agent.errors import Interrupted, SessionBusy, SessionNotFound
from kodkod_agent.graph import build_graph, end_run
from kodkod_agent.guidance import Guide, WorkTreeFiles
from kodkod_agent.journal import Journal, RewindRecord, SnapshotRecord, StepRecord
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.permissions import Permissions
from kodkod_agent.policy import PermissionMode
from kodkod_agent.profile import Profile
from kodkod_agent.report import RunReport
from kodkod_agent.resources import Resources
from kodkod_agent.rules import Rules
from kodkod_agent.session_folder import ForkPoint, SessionFolder, SessionInfo
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_agent.state import AgentState, Node, Status, new_run, new_session, plain
from kodkod_engine.api import Engine
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_sandbox.base import Sandbox
from kodkod_tools.base import ToolContext
from kodkod_tools.config import ToolsConfig

if TYPE_CHECKING:
    from kodkod_agent.call_grammar import CallGrammar

_RECURSION_LIMIT = 1_000_000
"""LangGraph's own bound on steps; ours are in `AgentConfig`."""
_CHARS_PER_TOKEN = 3
_FAILURES_OF_A_GUIDED_RUN = 1
"""Told in full: a small model reads one well, and its context is short."""


@dataclass(frozen=True, slots=True)
class SessionSetup:
    """What a session works with. The engine and the box are the caller's, started by it and closed by it."""

    engine: Engine
    tokenizer: Tokenizer
    sandbox: Sandbox
    work_tree: Path
    config: AgentConfig = field(default_factory=AgentConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    mode: PermissionMode = PermissionMode.DEFAULT
    rules: Rules = field(default_factory=Rules)
    trusted: bool = False
    """The person trusts this folder."""
    sandboxed: bool = False
    """The box holds the work tree alone and has no network."""
    model: str = ""
    """Name of the checkpoint, for the record."""
    profile: Profile = field(default_factory=Profile)
    """How the model is to be worked with."""


class Session:
    """One conversation about one work tree. Used from one asyncio loop, one run at a time."""

    def __init__(
        self, folder: SessionFolder, setup: SessionSetup, res: Resources, saver: PrunedSaver, stack: AsyncExitStack
    ) -> None:
        """Not for callers: see `create`, `resume`, `fork`."""
        self._folder = folder
        self._setup = setup
        self._res = res
        self._stack = stack
        self._graph = build_graph(res, saver)
        self._events: asyncio.Queue[events.Event | None] = asyncio.Queue()
        self._work: asyncio.Task[None] | None = None
        self._answers: asyncio.Future[tuple[Approval, ...]] | None = None
        res.emit = self._emit

    @classmethod
    async def create(cls, root: Path, setup: SessionSetup) -> Self:
        """Begin a session in a new folder under `root`."""
        folder = SessionFolder.make(root)
        LedgerLog(folder.ledger).sync(_first_ledger(setup))
        folder.describe(setup.work_tree)
        return await cls._open(folder, setup)

    @classmethod
    async def resume(cls, root: Path, session_id: str, setup: SessionSetup) -> Self:
        """Open a session again; `proceed` goes on with a run that was cut short.

        Raises:
            SessionNotFound, SessionBusy, SessionDamaged: it cannot be opened.
            LedgerFault: it was written with another model's tokenizer.
        """
        return await cls._open(SessionFolder.find(root, session_id), setup)

    @classmethod
    async def fork(cls, root: Path, session_id: str, step: int, setup: SessionSetup) -> Self:
        """A new session that starts as another was after `step` turns: the conversation and the files.

        The files are put back in `setup.work_tree`, which may be another checkout of the same repository. What was
        there is recorded first.

        Raises:
            SessionNotFound: no such session, or no such step.
        """
        parent = SessionFolder.find(root, session_id)
        journal = Journal(parent.journal)
        record = _require_step(journal, step, session_id)
        folder = SessionFolder.make(root)
        mark = _copy_ledger(parent, folder, record.ledger_mark, setup.tokenizer)
        if parent.snapshots.exists():
            shutil.copytree(parent.snapshots, folder.snapshots)
        folder.describe(setup.work_tree, parent.info.title, ForkPoint(session_id=session_id, step=step))
        session = await cls._open(folder, setup)
        session._res.record(trajectory.Forked(parent_session_id=session_id, parent_step=step), step)
        await session._go_to(record, mark, journal.snapshot_after(step))
        return session

    @classmethod
    async def _open(cls, folder: SessionFolder, setup: SessionSetup) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(folder.locked())
            saver = await stack.enter_async_context(open_saver(folder.checkpoints, setup.config.checkpoints_kept))
            tools = await stack.enter_async_context(_tool_context(folder, setup))
            is_resumed = folder.trajectory.exists()
            writer = stack.enter_context(trajectory.TrajectoryWriter(folder.trajectory))
            session = cls(folder, setup, _resources(folder, setup, tools, writer), saver, stack)
            session._res.record(_started(session.id, setup, resumed=is_resumed), 0)
            await session._begin_if_new()
            session._stack = stack.pop_all()
        return session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def id(self) -> str:
        """Names the session, and its folder."""
        return self._folder.path.name

    @property
    def folder(self) -> SessionFolder:
        """Where it is on disk."""
        return self._folder

    @property
    def setup(self) -> SessionSetup:
        """What it works with."""
        return self._setup

    @property
    def tools(self) -> ToolContext:
        """Where its calls act."""
        return self._res.tools

    @property
    def info(self) -> SessionInfo:
        """What the session's folder says of it."""
        return self._folder.info

    @property
    def permissions(self) -> Permissions:
        """What may be done; its mode and rules may be changed between runs."""
        return self._res.permissions

    @property
    def ledger(self) -> TokenLedger:
        """The conversation so far; not for changing."""
        return self._res.ledger

    @property
    def steps(self) -> list[int]:
        """The steps `rewind` and `fork` can go back to."""
        return [record.step for record in self._res.journal.steps]

    async def is_unfinished(self) -> bool:
        """Whether a run was cut short, so that `proceed` has something to do."""
        # Not `next`, which leaves out a node that has ended but whose checkpoint is not written.
        return bool((await self._graph.aget_state(self._thread)).tasks)

    async def send(self, text: str) -> AsyncGenerator[events.Event, None]:
        """Say something and follow the run it starts, to its `RunEnded`.

        Closing the generator early cancels the run.

        Raises:
            SessionBusy: a run is going on.
            EngineError, SandboxError: a fault, after its `RunEnded`; `proceed` tries again from there.
        """
        self._folder.name_after(text)
        state = await self._state()
        async with aclosing(self._run(new_run(text, step=state["step"]), 0.0)) as run:
            async for event in run:
                yield event

    async def proceed(self) -> AsyncGenerator[events.Event, None]:
        """Go on with a run that was cut short; nothing happens when there is none. See `send`."""
        if await self.is_unfinished():
            async with aclosing(self._run(None, (await self._state())["active_s"])) as run:
                async for event in run:
                    yield event

    async def go_on(self, turns: Sequence[Sequence[int]] = ()) -> AsyncGenerator[events.Event, None]:
        """In a fresh fork: go on with the run that was under way at its step. See `send`.

        Args:
            turns: ids of the turns that come first; the model is asked for those that follow.
        """
        self._require_idle()
        self._res.given_turns = [tuple(turn) for turn in turns]
        state = await self._state()
        await self._graph.aupdate_state(self._thread, plain(state), as_node=Node.PREPARE)
        async with aclosing(self._run(None, state["active_s"])) as run:
            async for event in run:
                yield event

    async def adopt(self, patch: str, word: str, summary: str) -> AsyncGenerator[events.Event, None]:
        """Put another change in place of what the last run made, and let the tests decide about it. See `send`.

        Args:
            patch: of the same files, as they were before that run.
            word: for the model, should the conversation go on.
            summary: the last word of whoever made the change.

        Raises:
            GitFault: the files were changed meanwhile; they stay as they are.
        """
        self._require_idle()
        state = await self._state()
        await self._res.take_snapshot(state["step"])
        await asyncio.to_thread(self._res.snapshots.apply, await self._diff(state), patch)
        self._res.tell_model(word, state["step"])
        update = AgentState(
            next=Node.VERIFY,
            status=Status.RUNNING,
            summary=summary,
            end_snapshot="",
            verifications=self._res.config.max_verifications - 1,
            ledger_mark=self._res.log.sync(self._res.ledger),
        )
        await self._graph.aupdate_state(self._thread, plain({**state, **update}), as_node=Node.TOOLS)
        async with aclosing(self._run(None, state["active_s"])) as run:
            async for event in run:
                yield event

    async def last_report(self) -> RunReport:
        """How the last run ended, or how it stands."""
        return await self._report(None)

    def answer(self, *approvals: Approval) -> None:
        """Answer an `ApprovalAsked`. What is not named is refused.

        Raises:
            SessionBusy: nothing was asked.
        """
        if self._answers is None or self._answers.done():
            raise SessionBusy("no question is open; answer after ApprovalAsked")
        self._answers.set_result(approvals)

    def cancel(self) -> None:
        """Stop the run: the model stops within a step, commands are killed, and the run ends as interrupted."""
        if self._work is not None:
            self._work.cancel()

    async def close(self) -> None:
        """Cancel what runs and let go of the folder. Idempotent."""
        self.cancel()
        if self._work is not None:
            await asyncio.wait({self._work})
        await self._stack.aclose()

    async def rewind(self, step: int) -> None:
        """Go back to where the session was after `step` turns: the conversation and the files.

        What is thrown away stays on disk, and what the work tree was is recorded first.

        Raises:
            SessionNotFound: no such step.
            SessionBusy: a run is going on.
        """
        self._require_idle()
        record = _require_step(self._res.journal, step, self.id)
        snapshot = self._res.journal.snapshot_after(step)
        earlier = self._res.log.at(self._res.tokenizer, record.ledger_mark)
        mark = self._res.log.sync(earlier.fork(len(earlier)))
        self._res.journal.add(RewindRecord(step=step))
        await self._go_to(record, mark, snapshot)

    async def _go_to(self, record: StepRecord, mark: int, snapshot: str | None) -> None:
        """Put the files, then the conversation, where a step left them."""
        if snapshot is not None:
            await self._res.take_snapshot(record.step)
            await asyncio.to_thread(self._res.snapshots.restore, snapshot)
            self._res.journal.add(SnapshotRecord(step=record.step, snapshot=snapshot))
        state = {**record.state, "ledger_mark": mark}
        self._res.journal.add(StepRecord(step=record.step, ledger_mark=mark, state=state))
        self._res.ledger = self._res.log.load(self._res.tokenizer, mark)
        self._res.loops.reset()
        await self._set_state(state)

    async def _run(self, inputs: AgentState | None, counted_s: float) -> AsyncGenerator[events.Event, None]:
        self._require_idle()
        self._events = asyncio.Queue()
        self._emit(events.RunStarted(self.id, resumed=inputs is None))
        self._res.stopwatch.start(counted_s)
        self._work = asyncio.create_task(self._drive(inputs))
        driver = asyncio.create_task(self._to_the_end(self._work))
        try:
            while (event := await self._events.get()) is not None:
                yield event
        finally:
            if not driver.done():
                self.cancel()
            await asyncio.wait({driver})
            driver.exception()  # looked at even when the reader has gone, so that asyncio does not report it
        driver.result()

    async def _to_the_end(self, work: asyncio.Task[None]) -> None:
        """Wait for a run, however it ends, and report it."""
        fault: BaseException | None = None
        try:
            await asyncio.wait({work})
            if work.cancelled():
                await self._end_cancelled()
            else:
                fault = work.exception()
            report = await self._report(fault)
            self._record_end(report, fault)
            self._emit(events.RunEnded(report))
        finally:
            self._work = None
            self._events.put_nowait(None)
        if fault is not None:
            raise fault

    async def _drive(self, inputs: AgentState | None) -> None:
        """Run the graph to its end, asking where it asks."""
        given: Any = None if inputs is None else plain(inputs)
        while True:
            await self._graph.ainvoke(given, self._thread, durability="sync")
            snapshot = await self._graph.aget_state(self._thread)
            questions = [question.value for task in snapshot.tasks for question in task.interrupts]
            if not questions:
                return
            given = Command(resume=await self._ask(questions[0]))

    async def _ask(self, asked: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Put calls before the person; one answer for each, in order."""
        calls = {call.id: call for call in self._res.ledger.pending_calls}
        requests = tuple(events.ApprovalRequest(calls[one["call_id"]], one["reason"]) for one in asked)
        counted_s = self._res.stopwatch.stop()
        self._answers = asyncio.get_running_loop().create_future()
        self._emit(events.ApprovalAsked(requests))
        try:
            given = {approval.call_id: approval for approval in await self._answers}
        finally:
            self._answers = None
        self._res.stopwatch.start(counted_s)
        refused = (given.get(one.call.id) or Approval(call_id=one.call.id, allowed=False) for one in requests)
        return [approval.model_dump(mode="json") for approval in refused]

    async def _end_cancelled(self) -> None:
        """Close the conversation where it was stopped, and let the graph finish."""
        state = await self._state()
        update = end_run(Interrupted("the user interrupted it"), self._res)
        update["active_s"] = self._res.stopwatch.seconds
        self._res.is_stale = False
        await self._graph.aupdate_state(self._thread, plain({**state, **update}), as_node=Node.PREPARE)
        await self._graph.ainvoke(None, self._thread, durability="sync")

    async def _report(self, fault: BaseException | None) -> RunReport:
        state = await self._state()
        status, reason = Status(state["status"]), state["reason"]
        if fault is not None:
            status, reason = Status.FAULT, " ".join(str(fault).split()) or type(fault).__name__
        return RunReport(
            session_id=self.id,
            status=status,
            reason=reason,
            summary=state["summary"],
            diff=await self._diff(state),
            tests_before=state["tests_before"],
            tests_after=state["tests_after"],
            turns=state["step"] - state["first_step"],
            generated_tokens=state["generated_tokens"],
            prompt_tokens=state["prompt_tokens"],
            reused_tokens=state["reused_tokens"],
            constrained_tokens=self._res.doubts.constrained_tokens,
            doubted_tokens=self._res.doubts.doubted_tokens,
            loosened=tuple(self._res.doubts.loosened),
            seconds=self._res.stopwatch.stop(),
        )

    def _record_end(self, report: RunReport, fault: BaseException | None) -> None:
        step = self._res.step
        if fault is not None:
            self._res.record(trajectory.Failed(error=type(fault).__name__, message=report.reason), step)
        elif report.status is Status.LIMIT:
            self._res.record(trajectory.LimitReached(reason=report.reason), step)
        else:
            verified = report.status is Status.DONE and bool(report.tests_after)
            self._res.record(trajectory.Finished(status=report.status, summary=report.summary, verified=verified), step)

    async def _diff(self, state: AgentState) -> str:
        """What the run changed in the files, to its end or to now."""
        base = state["base_snapshot"] or self._res.journal.snapshot_after(state["first_step"])
        if not base:
            return ""
        end = state["end_snapshot"] or await self._res.take_snapshot(state["step"])
        return await asyncio.to_thread(self._res.snapshots.diff, base, end)

    async def _begin_if_new(self) -> None:
        if not (await self._graph.aget_state(self._thread)).values:
            await self._set_state(new_session(self._res.log.mark))

    async def _state(self) -> AgentState:
        values = (await self._graph.aget_state(self._thread)).values
        return new_run("", step=0) | cast("AgentState", values)

    async def _set_state(self, state: Mapping[str, Any]) -> None:
        """Put the session between two runs, in this state."""
        await self._graph.aupdate_state(self._thread, plain(state), as_node=Node.FINISH)

    @property
    def _thread(self) -> RunnableConfig:
        return {"configurable": {"thread_id": self.id}, "recursion_limit": _RECURSION_LIMIT}

    def _emit(self, event: events.Event) -> None:
        self._events.put_nowait(event)

    def _require_idle(self) -> None:
        if self._work is not None:
            raise SessionBusy("a run is going on in this session; wait for its end or cancel it")


def _require_step(journal: Journal, step: int, session_id: str) -> StepRecord:
    record = journal.step(step)
    if record is None:
        known = ", ".join(str(one.step) for one in journal.steps) or "none"
        raise SessionNotFound(f"session {session_id} has no step {step}; it has {known}")
    return record


def _started(session_id: str, setup: SessionSetup, *, resumed: bool) -> trajectory.SessionStarted:
    return trajectory.SessionStarted(
        session_id=session_id,
        version=version("kodkod"),
        model=setup.model,
        seed=setup.config.seed,
        work_tree=str(setup.work_tree),
        resumed=resumed,
        engine=f"{type(setup.engine).__name__}, tokenizer {setup.tokenizer.fingerprint[:12]}",
        system=_system_text(setup) or "",
        tools=setup.profile.specs(),
    )


def _system_text(setup: SessionSetup) -> str | None:
    return prompt("system", work_tree=setup.work_tree) if setup.profile.system else None


def _first_ledger(setup: SessionSetup) -> TokenLedger:
    """A conversation of which nothing was said. Tools that are not declared are known to its parser all the same."""
    declare = setup.profile.declare_tools
    return TokenLedger.open(setup.tokenizer, setup.profile.specs(), _system_text(setup), declare=declare)


def _copy_ledger(parent: SessionFolder, folder: SessionFolder, mark: int, tokenizer: Tokenizer) -> int:
    """Begin a session's ledger as a branch of another's; returns the mark where it begins."""
    LedgerLog(parent.ledger).copy_to(folder.ledger, mark)
    log = LedgerLog(folder.ledger)
    whole = log.load(tokenizer, mark)
    return log.sync(whole.fork(len(whole)))


def _tool_context(folder: SessionFolder, setup: SessionSetup) -> ToolContext:
    budget = Budget.of(setup.config, setup.engine)
    max_chars = max(1_000, min(setup.tools.max_result_chars, budget.result * _CHARS_PER_TOKEN))
    update: dict[str, Any] = {"max_result_chars": max_chars}
    if setup.profile.guided:
        update |= {"test_targets": setup.config.test_targets, "max_failures": _FAILURES_OF_A_GUIDED_RUN}
    config = setup.tools.model_copy(update=update)
    return ToolContext(setup.sandbox, setup.work_tree, config, folder.logs)


def _agent_config(setup: SessionSetup) -> AgentConfig:
    update: dict[str, Any] = {}
    if not setup.profile.system:
        # The project's instructions would not be understood either.
        update["max_instruction_chars"] = 0
    if setup.profile.guided:
        # It finishes only where nothing else makes sense: asked to go on, it would finish again.
        update["max_verifications"] = 1
    return setup.config.model_copy(update=update)


def _guide(setup: SessionSetup, tools: ToolContext) -> Guide | None:
    return Guide(setup.tokenizer, WorkTreeFiles(tools), setup.config.max_tries) if setup.profile.guided else None


def _grammar(setup: SessionSetup, tools: ToolContext) -> CallGrammar | None:
    if setup.profile.guided or not setup.config.constraints:
        return None
    from kodkod_agent.call_grammar import CallGrammar  # loads numba and llguidance: half a second

    return CallGrammar(setup.tokenizer, setup.profile.specs(), tools)


def _resources(
    folder: SessionFolder, setup: SessionSetup, tools: ToolContext, writer: trajectory.TrajectoryWriter
) -> Resources:
    log = LedgerLog(folder.ledger)
    return Resources(
        config=_agent_config(setup),
        engine=setup.engine,
        tokenizer=setup.tokenizer,
        ledger=log.at(setup.tokenizer, log.mark),
        log=log,
        journal=Journal(folder.journal),
        trajectory=writer,
        tools=tools,
        snapshots=WorkTreeSnapshots(setup.work_tree, folder.path.name, folder=folder.path),
        permissions=Permissions(setup.work_tree, setup.mode, setup.rules, setup.trusted, setup.sandboxed),
        emit=lambda _: None,
        guide=_guide(setup, tools),
        grammar=_grammar(setup, tools),
        searched=setup.profile.searched,
        is_stale=True,
    )
