"""A session on disk: one folder with everything that is needed to go on, to go back and to tell what happened.

SESSION/
  session.json         what it is: id, work tree, title, where it was forked
  ledger.jsonl         the conversation as token ids (`ledger_log.py`)
  journal.jsonl        what was about to be done and what was done (`journal.py`)
  trajectory.jsonl     what happened, for people and for replay (`trajectory.py`)
  checkpoints.sqlite   the graph's state after each node (`checkpoint.py`)
  logs/                whole outputs that were too long for the model
  lock                 held by the process that has the session open
"""

from __future__ import annotations

import fcntl
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kodkod_agent.errors import SessionBusy, SessionDamaged, SessionNotFound, cause_of
from kodkod_engine.chat.surrogates import without_lone_surrogates

_ID = re.compile(r"[\w-]+")
_MADE = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_MAX_TITLE_CHARS = 80
_ABANDONED_S = 3_600.0
"""A folder that is no session by then never will be one."""


class ForkPoint(BaseModel):
    """Where a session left another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: str
    step: int


class SessionInfo(BaseModel):
    """What `session.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    created_at: datetime
    work_tree: Path
    title: str = ""
    """The beginning of what the person said first."""
    forked_from: ForkPoint | None = None


class SessionFolder:
    """Paths in one session's folder, and its description."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger.jsonl"
        self.journal = path / "journal.jsonl"
        self.trajectory = path / "trajectory.jsonl"
        self.checkpoints = path / "checkpoints.sqlite"
        self.snapshots = path / "snapshots.git"
        self.logs = path / "logs"
        self._info = path / "session.json"

    @classmethod
    def make(cls, root: Path) -> SessionFolder:
        """A new folder under `root`; ids sort by time. It is a session only once `describe` was called."""
        _remove_abandoned(root)
        folder = cls(root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
        folder.logs.mkdir(parents=True)
        folder.path.chmod(0o700)
        return folder

    def describe(self, work_tree: Path, title: str = "", forked_from: ForkPoint | None = None) -> None:
        """Make it a session."""
        now = datetime.now(UTC)
        info = SessionInfo(id=self.path.name, created_at=now, work_tree=work_tree, title=title, forked_from=forked_from)
        self.write_info(info)

    @classmethod
    def find(cls, root: Path, session_id: str) -> SessionFolder:
        """The folder of a session.

        Raises:
            SessionNotFound: there is none.
        """
        folder = cls(root / session_id)
        if not _ID.fullmatch(session_id) or not folder._info.is_file():
            raise SessionNotFound(f"no session {session_id!r} in {root}; list them with `kodkod sessions`")
        return folder

    @property
    def info(self) -> SessionInfo:
        """Its description.

        Raises:
            SessionDamaged: it cannot be read, or is of another session.
        """
        try:
            info = SessionInfo.model_validate_json(self._info.read_bytes())
        except (OSError, ValidationError) as fault:
            raise SessionDamaged(
                f"{self._info} cannot be read ({cause_of(fault)}); restore it, or remove the session with "
                f"`kodkod sessions delete {self.path.name}`"
            ) from fault
        if info.id != self.path.name:
            raise SessionDamaged(f"{self.path} is a copy of session {info.id}, and no session; move it elsewhere")
        return info

    def write_info(self, info: SessionInfo) -> None:
        """Replace the description in one step."""
        temporary = self._info.with_suffix(".tmp")
        temporary.write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._info)

    def name_after(self, text: str) -> None:
        """Give the session a title, unless it has one."""
        info = self.info
        if not info.title:
            title = " ".join(without_lone_surrogates(text).split())[:_MAX_TITLE_CHARS]
            self.write_info(info.model_copy(update={"title": title}))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the session; the system lets go of it when the process ends, however it ends.

        Raises:
            SessionBusy: another process holds it.
        """
        with (self.path / "lock").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as fault:
                name = self.path.name
                raise SessionBusy(
                    f"session {name} is open elsewhere; close it there, or go on beside it with kodkod --fork {name}"
                ) from fault
            yield


def list_sessions(root: Path, work_tree: Path | None = None) -> list[SessionInfo]:
    """The sessions under `root`, the latest first; of one work tree when given. Damaged ones are left out."""
    found: list[SessionInfo] = []
    for path in sorted(root.glob("*/session.json"), reverse=True):
        try:
            info = SessionFolder(path.parent).info
        except SessionDamaged:
            continue
        if work_tree is None or info.work_tree == work_tree:
            found.append(info)
    return found


def _remove_abandoned(root: Path) -> None:
    """Clear away what a kill left of sessions on their way to be made: nothing was said in them, no file touched."""
    for path in root.glob("*/"):
        folder = SessionFolder(path)
        began = any(file.exists() for file in (folder._info, folder.trajectory, folder.checkpoints))
        if _MADE.fullmatch(path.name) and not began and _age_s(path) > _ABANDONED_S:
            shutil.rmtree(path, ignore_errors=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
