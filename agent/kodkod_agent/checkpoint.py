"""The graph's memory on disk: LangGraph's SQLite saver in the session's folder, kept small.

Its asynchronous saver sends every statement to another thread and back, some sixty times a step, which costs more than
the statements. Here they run where they are asked for: none takes a millisecond, for nothing waits for the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from kodkod_agent.errors import SessionDamaged

# By the order in which they were written, not by their ids: these begin with the time, and clocks are set back.
_LATEST = "SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? ORDER BY rowid DESC LIMIT 1"
_PRUNE = (
    "DELETE FROM checkpoints WHERE rowid NOT IN (SELECT rowid FROM checkpoints ORDER BY rowid DESC LIMIT ?)",
    "DELETE FROM writes WHERE checkpoint_id NOT IN (SELECT checkpoint_id FROM checkpoints)",
)


class PrunedSaver(SqliteSaver):
    """A saver for one session that keeps the last checkpoints alone."""

    def __init__(self, connection: sqlite3.Connection, keep: int, path: Path) -> None:
        # No class is ever loaded from a checkpoint: the state is plain values.
        super().__init__(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=()))
        self._keep = keep
        self._path = path
        self._puts = 0

    def setup(self) -> None:
        """See `SqliteSaver`.

        Raises:
            SessionDamaged: the file is none of these.
        """
        with _damage_told(self._path):
            super().setup()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `BaseCheckpointSaver`.

        Raises:
            SessionDamaged: the file cannot be read there.
        """
        with _damage_told(self._path):
            latest = config if get_checkpoint_id(config) else self._latest(config)
            return super().get_tuple(latest) if latest is not None else None

    def _latest(self, config: RunnableConfig) -> RunnableConfig | None:
        thread_id = config["configurable"]["thread_id"]
        with self.cursor(transaction=False) as cursor:
            row = cursor.execute(_LATEST, (thread_id,)).fetchone()
        place = {"thread_id": thread_id, "checkpoint_ns": config["configurable"].get("checkpoint_ns", "")}
        return {"configurable": {**place, "checkpoint_id": row[0]}} if row else None

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `get_tuple`."""
        return self.get_tuple(config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save one, and now and then let go of the oldest; their room in the file is used again."""
        saved = self.put(config, checkpoint, metadata, new_versions)
        self._puts += 1
        if self._puts % self._keep == 0:
            self._prune()
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a node asked or was answered; what it wrote into the state comes with the next checkpoint.

        No two nodes run side by side, so nothing is won by keeping one's writes apart: a node that was killed before
        its checkpoint runs again from its first line.
        """
        if all(channel in WRITES_IDX_MAP for channel, _ in writes):
            self.put_writes(config, writes, task_id, task_path)

    def _prune(self) -> None:
        keep, rest = _PRUNE
        with self.cursor() as cursor:
            cursor.execute(keep, (self._keep,))
            cursor.execute(rest)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as fault:
        if getattr(fault, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:  # nothing is damaged
            raise
        raise SessionDamaged(
            f"{path} cannot be read ({fault}); go on in a fork: kodkod --fork {path.parent.name}"
        ) from fault


@asynccontextmanager
async def open_saver(path: Path, keep: int) -> AsyncIterator[PrunedSaver]:
    """Open or create a session's checkpoint file; it is closed on the way out.

    Raises:
        SessionDamaged: it is none. Damage further in is found, and told, where it is read.
    """
    # LangGraph may save from another thread than the loop's; the saver has a lock of its own.
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        saver = PrunedSaver(connection, keep, path)
        saver.setup()
        # Write-ahead log without a flush per commit: whole after a kill; a power cut may lose the last steps, never
        # the file.
        connection.execute("PRAGMA synchronous=NORMAL")
        yield saver
