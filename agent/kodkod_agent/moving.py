"""Going to a step, back in a session or into a fork: the files and the conversation, both or neither.

What is there is recorded, the journal says where to go, then files and conversation are put there. Killed on the way,
whoever opens the session next ends it; where something fails on the way the files are put back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from kodkod_agent import forks, trajectory
from kodkod_agent.errors import FilesHalfMoved
from kodkod_agent.journal import MoveRecord, SnapshotRecord, StayRecord, StepRecord
from kodkod_agent.private_git import GitFault
from kodkod_agent.resources import Resources
from kodkod_agent.runs import Runs
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.state import new_session


class Mover:
    """Takes one session to where it is to be."""

    def __init__(self, folder: SessionFolder, res: Resources, runs: Runs) -> None:
        self._folder = folder
        self._res = res
        self._runs = runs

    async def arrive(self) -> None:
        """Go where the journal says that the session is to be, and begin if it never did.

        Raises:
            FilesHalfMoved: it failed, and so did putting the files back.
            GitFault: it failed, and the files are as they were.
        """
        move = self._res.journal.move
        if move is not None:
            await _to_its_end(self._go(move))
        elif await self._runs.is_new():
            await self._runs.place(new_session(self._res.log.mark))

    async def back(self, record: StepRecord) -> None:
        """Take the session back to a step of its own. It goes there, or all stays as it was.

        Cancelled while the files are recorded it stays; later it is too late, and it goes there all the same.

        Raises:
            FilesHalfMoved: it failed, and so did putting the files back.
            GitFault: it failed.
        """
        journal, log = self._res.journal, self._res.log
        snapshot, here = journal.snapshot_after(record.step), log.mark
        earlier = log.at(self._res.tokenizer, record.ledger_mark)
        move = forks.move_to(record, log.sync(earlier.fork(len(earlier))), snapshot)
        journal.add(move)
        try:
            before = await self._record(move)
            await _to_its_end(self._change(move, before))
        except (Exception, asyncio.CancelledError):
            if journal.move is None:
                return  # it is there
            self._stay(here)
            raise

    def _stay(self, here: int) -> None:
        with suppress(OSError):  # a full disk: whoever opens the session next goes there then
            self._res.journal.add(StayRecord())
            self._res.ledger = self._res.log.load(self._res.tokenizer, here)

    async def _go(self, move: MoveRecord) -> None:
        """Cut short, it is done again as a whole."""
        await self._change(move, await self._record(move))

    async def _record(self, move: MoveRecord) -> str | None:
        """The files as they are, where others are to take their place."""
        return await self._res.take_snapshot(move.to.step) if move.snapshot is not None else None

    async def _change(self, move: MoveRecord, before: str | None) -> None:
        try:
            await self._tell_fork(move)
            await self._put_files(move)
            ledger = self._res.log.load(self._res.tokenizer, move.to.ledger_mark)
            # All of it: what a record does not name is as at the beginning, not as it was before the move.
            await self._runs.place(new_session(move.to.ledger_mark) | move.to.state)
        except Exception as fault:
            if before is not None:
                await self._put_back(before, fault)
            raise
        self._res.ledger = ledger
        self._res.loops.reset()
        self._res.journal.add(move.to)

    async def _tell_fork(self, move: MoveRecord) -> None:
        origin = self._folder.info.forked_from
        if origin is not None and await self._runs.is_new():
            forked = trajectory.Forked(parent_session_id=origin.session_id, parent_step=origin.step)
            self._res.record(forked, move.to.step)

    async def _put_files(self, move: MoveRecord) -> None:
        if move.snapshot is None:
            return
        step = move.to.step
        await asyncio.to_thread(self._res.snapshots.restore, move.snapshot)
        await self._hold(move.snapshot, *map(move.to.state.get, ("base_snapshot", "origin_snapshot")), step=step)
        self._res.journal.add(SnapshotRecord(step=step, snapshot=move.snapshot))

    async def _hold(self, *snapshots: str | None, step: int) -> None:
        """What a fork goes back to, or compares with, was recorded by the session it left, which may be deleted."""
        for snapshot in filter(None, snapshots):
            with suppress(GitFault):  # gone already, with a session that an earlier version forked
                await asyncio.to_thread(self._res.snapshots.hold, snapshot, step)

    async def _put_back(self, before: str, fault: Exception) -> None:
        try:
            await asyncio.to_thread(self._res.snapshots.restore, before)
        except GitFault as second:
            raise FilesHalfMoved(
                f"{fault}; nor could the files be put back ({second}): some are as at that step, all are on record. "
                f"Mend the cause and try again: open session {self._folder.path.name}, or rewind it to its last step"
            ) from fault


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Not cut short by a cancellation, which counts afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        task.result()
        raise
