"""The sessions on disk as a person handles them: looked through, deleted, gone back in."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.errors import SessionBusy, SessionDamaged
from kodkod_agent.journal import Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.private_git import GitFault
from kodkod_agent.session_folder import SessionFolder, SessionInfo
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_app.session_story import Ending, ending_of, sessions_in
from kodkod_app.settings import kv_folders
from kodkod_engine.kv.segments import remove_prefix


@dataclass(frozen=True, slots=True)
class ShelvedSession:
    """One line of the list."""

    info: SessionInfo
    ending: Ending


class SessionShelf:
    """The sessions under one root. Blocking: for threads."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sessions(self) -> list[ShelvedSession]:
        """All that can be read, the latest first."""
        found = []
        for folder in sessions_in(self._root):
            try:
                found.append(ShelvedSession(folder.info, ending_or_damage(folder)))
            except SessionDamaged:
                continue
        return found

    def delete(self, session_id: str) -> None:
        """Remove it for good.

        Raises:
            SessionNotFound, SessionBusy: it cannot be.
        """
        delete_session(SessionFolder.find(self._root, session_id))


def ending_or_damage(folder: SessionFolder) -> Ending:
    """Where a session stands, be it that it cannot be read."""
    try:
        return ending_of(folder)
    except SessionDamaged as fault:
        return Ending(0, "damaged", str(fault))


def delete_session(folder: SessionFolder) -> bool:
    """Remove a session, its snapshots and what the model computed of it.

    Returns:
        False when its references stay in a repository that is gone.

    Raises:
        SessionBusy: it is open.
    """
    with folder.locked():
        work_tree = _known_work_tree(folder)
        is_there = work_tree is not None and work_tree.is_dir()
        if work_tree is not None and is_there:
            WorkTreeSnapshots(work_tree, folder.path.name, folder=folder.path).drop_session()
        _remove_kept(folder)
        shutil.rmtree(folder.path)
    return is_there


def remove_unsaid(folder: SessionFolder) -> None:
    """Remove a session in which nothing was said: the app begins one at every start, and few are wanted again."""
    with suppress(SessionBusy, SessionDamaged, GitFault, OSError):
        if not folder.info.title:
            delete_session(folder)


def _remove_kept(folder: SessionFolder) -> None:
    folders = kv_folders(os.environ)
    with suppress(SessionDamaged):  # what nobody can name any more goes when it is the oldest
        for token_ids in LedgerLog(folder.ledger).all_tokens():
            for kept in folders:
                remove_prefix(kept, token_ids)


def _known_work_tree(folder: SessionFolder) -> Path | None:
    try:
        return folder.info.work_tree
    except SessionDamaged:
        return None


def patch_back(folder: SessionFolder, step: int, work_tree: Path) -> str:
    """What going back to a step of a session would change in the files; they are recorded as they are now.

    Raises:
        SessionDamaged: the session cannot be read.
        GitFault: git refused.
    """
    journal = Journal(folder.journal)
    target = journal.snapshot_after(step)
    if target is None:
        return ""
    snapshots = WorkTreeSnapshots(work_tree, folder.path.name, folder=folder.path)
    return snapshots.diff(snapshots.take(journal.steps[-1].step if journal.steps else step), target)
