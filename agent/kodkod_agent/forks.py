"""Beginning a session where another one stood: the conversation, and what its files are to be.

A fork is made apart and becomes a session in one step, when its description is written. Until then nothing outside its
folder was touched. From then on its journal says where it is to go, and opening it, at once or after a kill, takes it
there.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from kodkod_agent.errors import SessionNotFound
from kodkod_agent.fitness import require_fit
from kodkod_agent.journal import Journal, MoveRecord, StepRecord
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.private_git import GitFault
from kodkod_agent.session_folder import ForkPoint, SessionFolder
from kodkod_agent.snapshots import WorkTreeSnapshots, copy_snapshots
from kodkod_engine.chat.tokenizer import Tokenizer


def require_step(journal: Journal, step: int, session_id: str, under_way: bool) -> StepRecord:
    """Where a session was after so many turns: when they ended, or when the run went on that followed.

    Raises:
        SessionNotFound: no such step.
    """
    record = journal.step(step) if under_way else journal.rest(step)
    if record is None:
        known = ", ".join(str(one.step) for one in journal.steps) or "none"
        raise SessionNotFound(f"session {session_id} has no step {step}; it has {known}")
    return record


def _last_step(journal: Journal, session_id: str) -> StepRecord:
    if not journal.steps:
        raise SessionNotFound(f"session {session_id} has no step to fork from; go on with it instead")
    return journal.steps[-1]


def make_fork(
    root: Path, session_id: str, step: int | None, tokenizer: Tokenizer, work_tree: Path, *, under_way: bool = False
) -> SessionFolder:
    """The folder of a new session that is to go to another's step, without one to where that stands; the files of
    `work_tree` are still as they were.

    Raises:
        SessionNotFound: no such session, or no such step.
        WorkTreeUnfit: the folder cannot be one's work tree.
        LedgerFault: another tokenizer than the session's.
    """
    require_fit(work_tree)
    parent = SessionFolder.find(root, session_id)
    parents = Journal(parent.journal)
    record = _last_step(parents, session_id) if step is None else require_step(parents, step, session_id, under_way)
    folder = SessionFolder.make(root)
    mark = _copy_ledger(parent, folder, record.ledger_mark, tokenizer)
    if parent.snapshots.exists():
        copy_snapshots(parent.snapshots, folder.snapshots)
    Journal(folder.journal).add(move_to(record, mark, parents.snapshot_after(record.step)))
    folder.describe(work_tree, parent.info.title, ForkPoint(session_id=session_id, step=record.step))
    return folder


def unmake_fork(folder: SessionFolder, work_tree: Path) -> None:
    """Remove a fork that did not arrive, whose files are as they were before it; one that arrived stays.

    What cannot be removed is a session still, and arrives when it is opened.
    """
    if Journal(folder.journal).move is None:
        return
    with suppress(GitFault):
        WorkTreeSnapshots(work_tree, folder.path.name, folder=folder.path).drop_session()
        shutil.rmtree(folder.path, ignore_errors=True)


def move_to(record: StepRecord, mark: int, snapshot: str | None) -> MoveRecord:
    """To a step, whose conversation now ends at `mark`."""
    there = StepRecord(step=record.step, ledger_mark=mark, state={**record.state, "ledger_mark": mark})
    return MoveRecord(to=there, snapshot=snapshot)


def _copy_ledger(parent: SessionFolder, folder: SessionFolder, mark: int, tokenizer: Tokenizer) -> int:
    """Begin a session's ledger as a branch of another's; returns the mark where it begins."""
    LedgerLog(parent.ledger).copy_to(folder.ledger, mark)
    log = LedgerLog(folder.ledger)
    whole = log.load(tokenizer, mark)
    return log.sync(whole.fork(len(whole)))
