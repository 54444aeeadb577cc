"""When a run's change does not pass: other ways to go on from before it, tried side by side.

    run ─ … ─ first change ─ … ─ tests fail
               │
               ├─ candidate 2   a fork of the session, in a copy of the work tree, in a box of its own
               ├─ candidate 3
               └─ …

The first candidate whose tests pass wins, and the others are stopped. Its changes take the place of the run's in the
person's work tree, and there the tests are run once more: what is reported as verified was verified where it is used.
Candidates are sessions of their own and are kept; each names the session it left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kodkod_agent import events, trajectory
from kodkod_agent.candidate_reports import candidate, first_candidate, total
from kodkod_agent.candidate_starts import Begin, Junction, Start, draw
from kodkod_agent.config import CandidatesConfig
from kodkod_agent.context import prompt
from kodkod_agent.journal import Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.private_git import GitFault
from kodkod_agent.report import CandidateReport, RunReport
from kodkod_agent.session import Session, SessionSetup
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.state import Status
from kodkod_agent.tally import Tally
from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import Sandbox
from kodkod_tools.base import ToolContext

_WORTH_GOING_ON = (Status.UNVERIFIED, Status.LIMIT)
_CHANGING = ("edit", "write")
"""Calls before the first of which a candidate leaves the run."""


@dataclass(frozen=True, slots=True)
class Place:
    """A copy of the work tree, as it was where the candidates leave, and a box on it."""

    work_tree: Path
    """Absolute and resolved."""
    sandbox: Sandbox


OpenPlace = Callable[[SessionFolder, str | None], AbstractAsyncContextManager[Place]]
"""Makes a place from a session and one of its snapshots (None: the files as they are); it is gone afterwards."""


class Candidates:
    """One run of a session, and the candidates that follow where it fails. Used once."""

    def __init__(
        self,
        session: Session,
        config: CandidatesConfig,
        open_place: OpenPlace,
        *,
        begin: Begin = draw,
        leaves_before: Sequence[str] = _CHANGING,
    ) -> None:
        """Prepare.

        Args:
            session: the run's.
            config: how many, and how many at once.
            open_place: makes the copies.
            begin: finds how candidates begin.
            leaves_before: names of calls; candidates leave before the run's first turn with one of them.
        """
        self._session = session
        self._config = config
        self._open_place = open_place
        self._begin = begin
        self._leaves_before = frozenset(leaves_before)
        self._tally = Tally()
        self._ended: asyncio.Queue[CandidateReport | None] = asyncio.Queue()
        self._trials: set[asyncio.Task[CandidateReport]] = set()
        self._is_cancelled = False
        self._is_over = False

    async def are_due(self) -> bool:
        """Whether the session's last run, in an earlier process maybe, ended such that candidates should follow."""
        return bool(self._session.steps) and self._is_worth(await self._session.last_report())

    def cancel(self) -> None:
        """Stop the run or the candidates, whichever goes on."""
        self._is_cancelled = True
        self._ended.put_nowait(None)
        self._session.cancel()

    async def follow(self, stream: AsyncGenerator[events.Event, None]) -> AsyncGenerator[events.Event, None]:
        """The events of the run, then of what follows it, to the one `RunEnded` of both.

        Args:
            stream: of `Session.send` or `Session.proceed`; empty for a run that ended in an earlier process.

        Raises:
            EngineError, SandboxError: a fault, after its `RunEnded`.
        """
        held: RunReport | None = None
        is_empty = True
        async with aclosing(stream) as found:
            async for event in found:
                is_empty = False
                self._tally.count(event)
                if not isinstance(event, events.RunEnded):
                    yield event
                elif self._is_worth(event.report):
                    held = event.report
                else:
                    yield events.RunEnded(replace(event.report, test_runs=self._tally.test_runs))
        if is_empty:
            held = await self._session.last_report()
        if held is not None and self._is_worth(held):
            async with aclosing(self._try_others(held)) as found:
                async for event in found:
                    yield event

    def _is_worth(self, report: RunReport) -> bool:
        """Whether there may be a better way, and tests that would tell."""
        can_tell = bool(report.tests_before or report.tests_after)
        return self._config.count > 1 and can_tell and report.status in _WORTH_GOING_ON and not self._is_cancelled

    async def _try_others(self, report: RunReport) -> AsyncGenerator[events.Event, None]:
        tried = [first_candidate(report, self._tally)]
        yield events.CandidateEnded(tried[0])
        winner: CandidateReport | None = None
        try:
            async with aclosing(self._race(report)) as found:
                async for ended in found:
                    tried.append(ended)
                    yield events.CandidateEnded(ended)
                    winner = ended if ended.status is Status.DONE else None
        except Exception as fault:
            words = " ".join(str(fault).split()) or type(fault).__name__
            yield events.RunEnded(total(replace(report, status=Status.FAULT, reason=words), tried))
            raise
        if winner is None or self._is_cancelled:
            yield events.RunEnded(total(self._without_winner(report, len(tried)), tried))
            return
        async with aclosing(self._adopt(winner, report, tried)) as adopted:
            async for event in adopted:
                yield event

    def _without_winner(self, report: RunReport, num_tried: int) -> RunReport:
        if self._is_cancelled:
            return replace(report, status=Status.INTERRUPTED, reason="the user interrupted it")
        return replace(report, reason=f"none of {num_tried} candidates passes; of the first: {report.reason}")

    async def _adopt(
        self, winner: CandidateReport, report: RunReport, tried: Sequence[CandidateReport]
    ) -> AsyncGenerator[events.Event, None]:
        """Put the winner's changes into the person's work tree, and run the tests there."""
        word = prompt("adopted", diff=winner.diff)
        tally = Tally()
        try:
            async with aclosing(self._session.adopt(winner.diff, word, winner.summary)) as found:
                async for event in found:
                    tally.count(event)
                    if isinstance(event, events.RunStarted):
                        if self._is_cancelled:
                            self._session.cancel()  # there was nothing yet that could be
                        continue
                    if isinstance(event, events.RunEnded):
                        ended = replace(event.report, winner=winner.number, seconds=report.seconds)
                        event = events.RunEnded(total(ended, tried, tally.test_runs))  # noqa: PLW2901 - same event, whole
                    yield event
        except GitFault as fault:
            reason = f"candidate {winner.number} passes, but its changes cannot be put into the work tree: {fault}"
            yield events.RunEnded(total(replace(report, reason=reason), tried))

    # The race

    async def _race(self, report: RunReport) -> AsyncGenerator[CandidateReport, None]:
        """The candidates as they end; the last one is verified, or none is."""
        step, snapshot = self._junction_step()
        deadline_s = time.monotonic() + self._session.setup.config.timeout_s - report.seconds
        async with AsyncExitStack() as stack:
            place = await stack.enter_async_context(self._open_place(self._session.folder, snapshot))
            starts = await self._begin(self._junction(step, place), self._config.count - 1)
            numbered = iter(list(enumerate(starts, 2)))
            openings: list[AbstractAsyncContextManager[Place]] = [_opened(place)]
            openings += [
                self._open_place(self._session.folder, snapshot)
                for _ in range(min(self._config.num_at_once, len(starts)) - 1)
            ]
            workers = [asyncio.create_task(self._work(opening, numbered, step)) for opening in openings]
            stack.push_async_callback(self._stop, workers)
            everyone = asyncio.gather(*workers, return_exceptions=True)
            everyone.add_done_callback(lambda _: self._ended.put_nowait(None))
            while (ended := await self._next_ended(deadline_s)) is not None:
                yield ended
                if ended.status is Status.DONE:
                    return
            if not self._is_cancelled and everyone.done():
                _raise_first(everyone.result())

    async def _next_ended(self, deadline_s: float) -> CandidateReport | None:
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                return await self._ended.get()
        except TimeoutError:
            return None

    async def _work(
        self, opening: AbstractAsyncContextManager[Place], starts: Iterator[tuple[int, Start]], step: int
    ) -> None:
        """Try one start after another in one place."""
        async with opening as place:
            while not self._is_over and (numbered := next(starts, None)) is not None:
                trial = asyncio.create_task(self._try(*numbered, place, step))
                self._trials.add(trial)
                await asyncio.wait({trial})
                self._trials.discard(trial)
                if not trial.cancelled():
                    self._ended.put_nowait(trial.result())

    async def _stop(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """End what is still tried. The workers themselves are not cancelled: they take their places away."""
        self._is_over = True
        for trial in self._trials:
            trial.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _try(self, number: int, start: Start, place: Place, step: int) -> CandidateReport:
        began = time.monotonic()
        parent = self._session
        setup = replace(
            parent.setup, config=start.config, work_tree=place.work_tree, sandbox=place.sandbox, reads_ahead=False
        )
        tally = Tally()
        root = parent.folder.path.parent
        async with await Session.fork(root, parent.id, step, setup, under_way=True) as session:
            before = await session.last_report()
            report = before
            async with aclosing(session.go_on(start.turns)) as found:
                async for event in found:
                    tally.count(event)
                    if isinstance(event, events.ApprovalAsked):
                        session.answer()
                    elif isinstance(event, events.RunEnded):
                        report = event.report
        return candidate(number, report, tally, before, time.monotonic() - began, start.logprob)

    def _junction_step(self) -> tuple[int, str | None]:
        """The step the candidates leave from, and the files as they were."""
        folder = self._session.folder
        journal = Journal(folder.journal)
        first_step = int(journal.steps[-1].state["first_step"])
        turns = [
            entry
            for entry in trajectory.read(folder.trajectory)
            if isinstance(entry.event, trajectory.AssistantTurn) and entry.step > first_step
        ]
        changing = (
            entry.step for entry in turns if self._leaves_before & {call.name for call in _calls_of(entry.event)}
        )
        wanted = next(changing, first_step + 1) - 1
        step = max((record.step for record in journal.steps if record.step <= wanted), default=first_step)
        return step, journal.snapshot_after(step)

    def _junction(self, step: int, place: Place) -> Junction:
        setup: SessionSetup = self._session.setup
        record = Journal(self._session.folder.journal).step(step)
        assert record is not None, "a step out of the journal"
        ledger = LedgerLog(self._session.folder.ledger).at(setup.tokenizer, record.ledger_mark)
        tools = self._session.tools
        there = ToolContext(place.sandbox, place.work_tree, tools.config, tools.log_folder)
        entries = trajectory.read(self._session.folder.trajectory)
        tried = tuple(call for entry in entries if entry.step > step for call in _calls_of(entry.event))
        return Junction(ledger, setup, there, tried)


def _calls_of(event: trajectory.Event) -> Sequence[ToolCall]:
    return event.calls if isinstance(event, trajectory.AssistantTurn) else ()


@asynccontextmanager
async def _opened(place: Place) -> AsyncIterator[Place]:
    """A place that somebody else closes."""
    yield place


def _raise_first(results: Sequence[BaseException | None]) -> None:
    fault = next((result for result in results if result is not None), None)
    if fault is not None:
        raise fault
