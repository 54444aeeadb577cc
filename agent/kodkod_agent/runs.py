"""Runs of a session's graph: each is driven to its end, followed by its events, and reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command

from kodkod_agent import compaction, events, trajectory
from kodkod_agent.approval import Approval
from kodkod_agent.errors import ContextFull, Interrupted, SessionBusy
from kodkod_agent.graph import build_graph, end_run
from kodkod_agent.journal import StepRecord
from kodkod_agent.private_git import GitFault
from kodkod_agent.reading_ahead import ReadingAhead, coming_ids
from kodkod_agent.report import RunReport
from kodkod_agent.resources import Resources
from kodkod_agent.spans import RunSpan
from kodkod_agent.state import AgentState, Node, Status, new_run, origin_of, plain
from kodkod_engine.chat.ledger import TokenLedger

_RECURSION_LIMIT = 1_000_000
"""LangGraph's own bound on steps; ours are in `AgentConfig`."""
_INTERRUPTED = "the user interrupted it"
_STAYS = "that was stopped; the conversation is as it was"


class Runs:
    """The runs of one session, one at a time, and the graph's state between them."""

    def __init__(self, session_id: str, res: Resources, saver: BaseCheckpointSaver[str]) -> None:
        self._session_id = session_id
        self._res = res
        self._graph = build_graph(res, saver)
        self._thread: RunnableConfig = {
            "configurable": {"thread_id": session_id},
            "recursion_limit": _RECURSION_LIMIT,
        }
        self._events: asyncio.Queue[events.Event | None] = asyncio.Queue()
        self._work: asyncio.Task[Any] | None = None
        self._driver: asyncio.Task[None] | None = None
        """Sees the last run to its end, and reports it."""
        self._answers: asyncio.Future[tuple[Approval, ...]] | None = None
        self.ahead = ReadingAhead(res.engine)
        res.emit = self._emit

    async def state(self) -> AgentState:
        """The graph's, with every key."""
        values = (await self._graph.aget_state(self._thread)).values
        return new_run("", step=0) | cast("AgentState", values)

    async def is_new(self) -> bool:
        """Whether the graph never had a state."""
        return not (await self._graph.aget_state(self._thread)).values

    async def is_unfinished(self) -> bool:
        """Whether a run was cut short."""
        # Not `next`, which leaves out a node that has ended but whose checkpoint is not written.
        return bool((await self._graph.aget_state(self._thread)).tasks)

    async def place(self, state: Mapping[str, Any], *, behind: Node = Node.FINISH) -> None:
        """Put the graph in this state, as if a node had just ended; behind `finish` no run is under way."""
        await self._graph.aupdate_state(self._thread, plain(state), as_node=behind)

    def require_idle(self) -> None:
        """Nothing may run.

        Raises:
            SessionBusy: a run is going on.
        """
        if self._work is not None:
            raise SessionBusy("a run is going on in this session; wait for its end or cancel it")

    async def follow(self, inputs: AgentState | None, counted_s: float) -> AsyncGenerator[events.Event, None]:
        """Run to the end, from where the graph stands when there are no inputs. Closing it early cancels the run.

        Args:
            inputs: what begins a new run.
            counted_s: seconds at work so far.

        Raises:
            SessionBusy: a run is going on.
            EngineError, SandboxError: a fault, after its `RunEnded`.
        """
        self.require_idle()
        self.ahead.stop()
        self._events = asyncio.Queue()
        self._emit(events.RunStarted(self._session_id, resumed=inputs is None))
        self._res.stopwatch.start(counted_s)
        watched = ExitStack()
        span = watched.enter_context(self._res.spans.run(self._session_id))
        self._work = asyncio.create_task(self._drive(inputs))
        self._driver = driver = asyncio.create_task(self._to_the_end(self._work, watched, span))
        try:
            while (event := await self._events.get()) is not None:
                yield event
        finally:
            if not driver.done():
                self.cancel()
            await asyncio.wait({driver})
            driver.exception()  # looked at even when the reader has gone, so that asyncio does not report it
        driver.result()

    async def compact(self, focus: str) -> AsyncGenerator[events.Event, None]:
        """Shorten the conversation between runs. Cancelled, or closed early, it leaves it as it was.

        Raises:
            SessionBusy: a run is going on, or was cut short and is to go on.
            EngineError: the engine failed.
        """
        self.require_idle()
        if await self.is_unfinished():
            raise SessionBusy("a run was cut short here; go on with it, or say something, before you shorten it")
        if not any(span.origin.is_generated for span in self._res.ledger.spans):
            yield events.Notice("there is nothing to shorten yet")
            return
        self.ahead.stop()
        yield compaction.beginning(self._res)
        self._work = work = asyncio.create_task(self._shortened(focus))
        try:
            await asyncio.wait({work})
        finally:
            work.cancel()
            await asyncio.wait({work})
            self._work = None
        yield events.Notice(_STAYS) if work.cancelled() else work.result()

    async def _shortened(self, focus: str) -> events.Event:
        """What came of it. Once the summary is there nothing stops it: half of it would be another conversation."""
        try:
            ledger, summary = await compaction.shorten(self._res, focus)
        except ContextFull as full:
            return events.Notice(full.reason)
        if len(ledger) >= len(self._res.ledger):
            return events.Notice(f"it stays as it is: with a summary it would have {len(ledger):,} tokens, not fewer")
        taking = asyncio.create_task(self._go_on_from(ledger, summary))
        while not taking.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(taking)
        return taking.result()

    async def _go_on_from(self, ledger: TokenLedger, summary: str) -> events.Event:
        state = await self.state()
        update, told = compaction.go_on_from(ledger, summary, state, self._res)
        compaction.tell_plan(state, self._res)
        update["ledger_mark"] = self._res.log.sync(self._res.ledger)
        there = plain({**state, **update})
        await self.place(there)
        self._res.journal.add(StepRecord(step=state["step"], ledger_mark=update["ledger_mark"], state=there))
        return told

    def answer(self, approvals: tuple[Approval, ...]) -> None:
        """Answer what was asked.

        Raises:
            SessionBusy: nothing was.
        """
        if self._answers is None or self._answers.done():
            raise SessionBusy("no question is open; answer after ApprovalAsked")
        self._answers.set_result(approvals)

    def cancel(self) -> None:
        """Stop what runs, in order."""
        if self._work is not None:
            self._work.cancel()

    async def close(self) -> None:
        """Stop what runs, and wait until it is reported."""
        self.ahead.stop()
        self.cancel()
        if under_way := {task for task in (self._work, self._driver) if task is not None}:
            await asyncio.wait(under_way)

    async def _to_the_end(self, work: asyncio.Task[None], watched: ExitStack, span: RunSpan) -> None:
        with watched:
            await self._reported(work, span)

    async def _reported(self, work: asyncio.Task[None], span: RunSpan) -> None:
        """Wait for a run, however it ends, and report it."""
        fault: BaseException | None = None
        try:
            await asyncio.wait({work})
            try:
                if work.cancelled():
                    # Told first: a snapshot, and what changed since the first, take seconds in a large work tree.
                    self._emit(events.RunInterrupted(_INTERRUPTED))
                    await self._end_cancelled()
                else:
                    fault = work.exception()
                report = await self.report(fault)
            except GitFault as gone:  # nobody can tell what changed; how it ended is told all the same
                fault = fault or gone
                report = await self.report(fault, with_diff=False)
            span.ended(report)
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
        state = await self.state()
        update = end_run(Interrupted(_INTERRUPTED), self._res)
        update["active_s"] = self._res.stopwatch.seconds
        self._res.is_stale = False
        await self.place({**state, **update}, behind=Node.PREPARE)
        await self._graph.ainvoke(None, self._thread, durability="sync")

    async def read_ahead(self) -> None:
        """While nothing runs: have the engine compute what it will go on from, until it is asked."""
        self.ahead.begin(coming_ids(await self.state(), self._res))

    async def report(self, fault: BaseException | None = None, *, with_diff: bool = True) -> RunReport:
        """How the last run ended, or how it stands."""
        state = await self.state()
        status, reason = Status(state["status"]), state["reason"]
        if fault is not None:
            status, reason = Status.FAULT, " ".join(str(fault).split()) or type(fault).__name__
        return RunReport(
            session_id=self._session_id,
            status=status,
            reason=reason,
            summary=state["summary"],
            diff=await self.diff(state) if with_diff else "",
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

    async def diff(self, state: AgentState) -> str:
        """What the run changed in the files, and those it goes on with, to its end or to now."""
        base = origin_of(state) or self._res.journal.snapshot_after(state["first_step"])
        if not base:
            return ""
        end = state["end_snapshot"] or await self._res.take_snapshot(state["step"])
        return await asyncio.to_thread(self._res.snapshots.diff, base, end)

    def _emit(self, event: events.Event) -> None:
        self._events.put_nowait(event)
