"""A session: what the person says goes in, events come out, and everything is on disk on the way.

    async with await Session.create(root, setup) as session:
        async for event in session.send("mend the failing test"):
            ...                                   # on ApprovalAsked: session.answer(Approval(...))

Killed at any instant, `Session.resume` and `proceed` go on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Self

from kodkod_agent import events, forks, trajectory
from kodkod_agent.approval import Approval
from kodkod_agent.checkpoint import PrunedSaver, open_saver
from kodkod_agent.errors import FilesHalfMoved
from kodkod_agent.fitness import require_fit
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.moving import Mover
from kodkod_agent.permissions import Permissions
from kodkod_agent.report import RunReport
from kodkod_agent.resources import Resources
from kodkod_agent.runs import Runs
from kodkod_agent.session_folder import SessionFolder, SessionInfo
from kodkod_agent.session_setup import SessionSetup as SessionSetup  # who opens a session finds it here
from kodkod_agent.session_setup import first_ledger, resources, started, tool_context
from kodkod_agent.state import AgentState, Node, Status, new_run
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_tools.base import ToolContext


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
        self._runs = Runs(self.id, res, saver)
        self._mover = Mover(folder, res, self._runs)

    @classmethod
    async def create(cls, root: Path, setup: SessionSetup) -> Self:
        """Begin a session in a new folder under `root`.

        Raises:
            WorkTreeUnfit: the folder cannot be one's work tree.
        """
        await asyncio.to_thread(require_fit, setup.work_tree)
        folder = SessionFolder.make(root)
        LedgerLog(folder.ledger).sync(first_ledger(setup))
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
    async def fork(
        cls, root: Path, session_id: str, step: int | None, setup: SessionSetup, *, under_way: bool = False
    ) -> Self:
        """A new session that starts as another was after `step` turns, or stands: the conversation and the files.

        The files are put back in `setup.work_tree`, which may be another checkout of the same repository. What was
        there is recorded first. What was said after that step is part of it where the run is `under_way` that answers
        it, for `go_on`.

        Raises:
            SessionNotFound: no such session, or no such step.
            GitFault: the files cannot be put back there; then there is no new session, and they are as they were.
            FilesHalfMoved: nor could they be put back as they were; opened again the new session arrives.
        """
        folder = forks.make_fork(root, session_id, step, setup.tokenizer, setup.work_tree, under_way=under_way)
        try:
            return await cls._open(folder, setup)
        except FilesHalfMoved:
            raise  # opened again it arrives, and it holds the record of what the files were
        except (Exception, asyncio.CancelledError):
            await asyncio.to_thread(forks.unmake_fork, folder, setup.work_tree)
            raise

    @classmethod
    async def _open(cls, folder: SessionFolder, setup: SessionSetup) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(folder.locked())
            saver = await stack.enter_async_context(open_saver(folder.checkpoints, setup.config.checkpoints_kept))
            tools = await stack.enter_async_context(tool_context(folder, setup))
            writer = stack.enter_context(trajectory.TrajectoryWriter(folder.trajectory))
            acted_on = resources(folder, setup, tools, writer)
            stack.callback(acted_on.close)
            session = cls(folder, setup, acted_on, saver, stack)
            session._res.record(started(session.id, setup, resumed=not writer.is_empty), 0)
            await session._mover.arrive()
            await session._read_ahead()
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

    @property
    def is_nearly_full(self) -> bool:
        """Whether what is said next would have the conversation shortened first; time to do it before."""
        budget = self._res.budget
        return self._thinks_ahead and budget.is_near_full(self._res.ledger, coming=budget.summary)

    @property
    def _thinks_ahead(self) -> bool:
        """A guided model computes no prompt, and writes no summary that would be worth the time."""
        return self._setup.reads_ahead and self._res.guide is None

    async def is_unfinished(self) -> bool:
        """Whether a run was cut short, so that `proceed` has something to do."""
        return await self._runs.is_unfinished()

    async def has_stopped_short(self) -> bool:
        """Whether the last run was ended before its goal: by a limit, by the person, or with nothing that shows it."""
        state = await self._runs.state()
        status = Status(state["status"])
        # A fork stands in the middle of a run, one that nothing was said in at the beginning of none.
        return status is not Status.DONE and (status is not Status.RUNNING or state["step"] > 0)

    async def send(self, text: str, *, goes_on: bool = False) -> AsyncGenerator[events.Event, None]:
        """Say something and follow the run it starts, to its `RunEnded`.

        Closing the generator early cancels the run.

        Args:
            text: for the model.
            goes_on: with what the last run was about: what changes is measured from before that one.

        Raises:
            SessionBusy: a run is going on.
            EngineError, SandboxError: a fault, after its `RunEnded`; `proceed` tries again from there.
        """
        self._folder.name_after(text)
        state = await self._runs.state()
        begun = new_run(text, step=state["step"], after=state if goes_on else None)
        async with aclosing(self._runs.follow(begun, 0.0)) as run:
            async for event in run:
                yield event
        await self._read_ahead()

    async def proceed(self) -> AsyncGenerator[events.Event, None]:
        """Go on with a run that was cut short; nothing happens when there is none. See `send`."""
        if await self.is_unfinished():
            async with aclosing(self._runs.follow(None, (await self._runs.state())["active_s"])) as run:
                async for event in run:
                    yield event
            await self._read_ahead()

    async def go_on(self, turns: Sequence[Sequence[int]] = ()) -> AsyncGenerator[events.Event, None]:
        """In a fresh fork of a run under way: go on with it. See `send`.

        Args:
            turns: ids of the turns that come first; the model is asked for those that follow.
        """
        self._runs.require_idle()
        self._res.given_turns = [tuple(turn) for turn in turns]
        state = await self._runs.state()
        await self._runs.place(state, behind=Node.PREPARE)
        async with aclosing(self._runs.follow(None, state["active_s"])) as run:
            async for event in run:
                yield event

    async def compact(self, focus: str = "") -> AsyncGenerator[events.Event, None]:
        """Shorten the conversation now: it goes on from a summary that the model writes, and the files at work.

        Going back to a step, the one where it stands too, goes back to before it. `cancel`, or closing the generator
        early, leaves all as it was.

        Args:
            focus: what is to be kept above all.

        Raises:
            SessionBusy: a run is going on, or was cut short and is to go on.
            EngineError: the engine failed; all is as it was.
        """
        async with aclosing(self._runs.compact(focus)) as told:
            async for event in told:
                yield event
        await self._read_ahead()

    async def adopt(self, patch: str, word: str, summary: str) -> AsyncGenerator[events.Event, None]:
        """Put another change in place of what the last run made, and let the tests decide about it. See `send`.

        Args:
            patch: of the same files, as they were before that run.
            word: for the model, should the conversation go on.
            summary: the last word of whoever made the change.

        Raises:
            GitFault: the files were changed meanwhile; they stay as they are.
        """
        self._runs.require_idle()
        state = await self._runs.state()
        await self._res.take_snapshot(state["step"])
        await asyncio.to_thread(self._res.snapshots.apply, await self._runs.diff(state), patch)
        self._res.tell_model(word, state["step"])
        update = AgentState(
            next=Node.VERIFY,
            status=Status.RUNNING,
            summary=summary,
            end_snapshot="",
            verifications=self._res.config.max_verifications - 1,
            ledger_mark=self._res.log.sync(self._res.ledger),
        )
        await self._runs.place({**state, **update}, behind=Node.TOOLS)
        async with aclosing(self._runs.follow(None, state["active_s"])) as run:
            async for event in run:
                yield event

    async def last_report(self) -> RunReport:
        """How the last run ended, or how it stands."""
        return await self._runs.report()

    def answer(self, *approvals: Approval) -> None:
        """Answer an `ApprovalAsked`. What is not named is refused.

        Raises:
            SessionBusy: nothing was asked.
        """
        self._runs.answer(approvals)

    def cancel(self) -> None:
        """Stop the run: the model stops within a step, commands are killed, and the run ends as interrupted."""
        self._runs.cancel()

    async def close(self) -> None:
        """Cancel what runs and let go of the folder. Idempotent."""
        await self._runs.close()
        await self._stack.aclose()

    async def rewind(self, step: int, *, under_way: bool = False) -> None:
        """Go back to where the session was after `step` turns: the conversation and the files; see `fork`.

        What is thrown away stays on disk, and what the work tree was is recorded first. Cancelled meanwhile the session
        stays where it is; later it is too late for that, and it goes there all the same.

        Raises:
            SessionNotFound: no such step.
            SessionBusy: a run is going on.
            GitFault: the files cannot be put there; all is as it was.
            FilesHalfMoved: nor could they be put back as they were.
        """
        self._runs.require_idle()
        await self._mover.back(forks.require_step(self._res.journal, step, self.id, under_way))
        await self._read_ahead()

    async def _read_ahead(self) -> None:
        """Use the time until the person has said something."""
        if self._thinks_ahead:
            await self._runs.read_ahead()
