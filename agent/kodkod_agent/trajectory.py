"""What happened in a session, as JSON lines: append-only, readable to the last whole line whatever ends the process.

    with TrajectoryWriter(path) as writer:
        writer.append(UserMessage(text="..."), step=0)
    for entry in read(path):
        ...

A line is written by one call to the operating system, so a killed process leaves at most the line in flight torn; it
is recognised by its missing line feed, passed over when reading and cut off when writing goes on. At the border of two
steps the file is forced to the disk. Lines are ASCII and each can be read without the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, ValidationError

from kodkod_agent.errors import SessionDamaged, cause_of
from kodkod_agent.policy import Verdict
from kodkod_engine.api import FinishReason, Usage
from kodkod_engine.messages import ToolCall, ToolSpec
from kodkod_tools.base import ErrorCode


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SessionStarted(_Record):
    """The first line of a session, and again when it is resumed."""

    kind: Literal["session_started"] = "session_started"
    session_id: str
    version: str
    """Of kodkod."""
    model: str
    seed: int
    work_tree: str
    resumed: bool = False
    engine: str = ""
    """Back end and what tells its build and weights apart: enough to say whether a replay is exact."""
    context_tokens: NonNegativeInt | None = None
    """Most the engine takes, prompt and answer together. With what follows: when the conversation is compacted."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the runs: an `AgentConfig`."""
    profile: dict[str, JsonValue] = Field(default_factory=dict)
    """How the model is worked with: a `Profile`."""
    system: str = ""
    tools: tuple[ToolSpec, ...] = ()


class UserMessage(_Record):
    """The person spoke."""

    kind: Literal["user_message"] = "user_message"
    text: str


class AssistantTurn(_Record):
    """The model's turn, whole or cut off."""

    kind: Literal["assistant_turn"] = "assistant_turn"
    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = FinishReason.STOP
    usage: Usage | None = None
    context_tokens: NonNegativeInt | None = None
    """Of the conversation it was written for, the tag that asks for a turn included."""
    max_context_tokens: NonNegativeInt | None = None
    token_ids: tuple[NonNegativeInt, ...] | None = None
    """What it generated, for an exact replay."""


class Decided(_Record):
    """Whether a call may go ahead, by the policy or by the person it asked."""

    kind: Literal["decided"] = "decided"
    call_id: str
    verdict: Verdict
    reason: str
    rule: str | None = None
    by_person: bool = False
    arguments: dict[str, JsonValue] | None = None
    """What the person put in place of the model's arguments."""


class CallStarted(_Record):
    """A call is being done; without a `call_finished` it was interrupted."""

    kind: Literal["call_started"] = "call_started"
    call_id: str
    name: str


class CallFinished(_Record):
    """How a call ended, whether it was done or refused."""

    kind: Literal["call_finished"] = "call_finished"
    call_id: str
    name: str
    for_model: str
    log: str = ""
    """The whole output where `for_model` is not all of it."""
    log_path: str | None = None
    """The file that holds the whole output, instead of `log`."""
    error: ErrorCode | None = None
    refused: bool = False
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    duration_s: float = 0.0


class SnapshotTaken(_Record):
    """The work tree was recorded."""

    kind: Literal["snapshot_taken"] = "snapshot_taken"
    snapshot: str


class Notice(_Record):
    """The program told the model something."""

    kind: Literal["notice"] = "notice"
    text: str


class Rebuilt(_Record):
    """The conversation was compacted: a new branch of the ledger goes on from a summary."""

    kind: Literal["rebuilt"] = "rebuilt"
    tokens_before: NonNegativeInt
    tokens_after: NonNegativeInt
    summary: str


class Forked(_Record):
    """This session begins with a copy of another's steps."""

    kind: Literal["forked"] = "forked"
    parent_session_id: str
    parent_step: NonNegativeInt


class LimitReached(_Record):
    """Turns, tokens, seconds or the context were used up, or nothing came of it any more."""

    kind: Literal["limit_reached"] = "limit_reached"
    reason: str


class Failed(_Record):
    """A fault ended the run."""

    kind: Literal["failed"] = "failed"
    error: str
    """Its class."""
    message: str


class Finished(_Record):
    """The run ended in order."""

    kind: Literal["finished"] = "finished"
    status: str
    summary: str = ""
    verified: bool = False


Event = Annotated[
    SessionStarted
    | UserMessage
    | AssistantTurn
    | Decided
    | CallStarted
    | CallFinished
    | SnapshotTaken
    | Notice
    | Rebuilt
    | Forked
    | LimitReached
    | Failed
    | Finished,
    Field(discriminator="kind"),
]
"""Everything a trajectory tells of, tagged by `kind`."""


class Entry(_Record):
    """One line."""

    number: NonNegativeInt
    """Counts the lines of the session, resumed or not, from 0 without gaps."""
    step: NonNegativeInt
    """Turns of the model begun so far."""
    time: AwareDatetime
    event: Event

    def to_line(self) -> bytes:
        """As it stands in the file, line feed included."""
        # Not pydantic's own writer: tool output and file names may hold lone surrogates, which it refuses.
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":")).encode("ascii") + b"\n"


@dataclass(frozen=True)
class Trajectory:
    """A session as read from its file."""

    entries: tuple[Entry, ...]
    torn_bytes: int = 0
    """Length of a last line that was never finished."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def steps(self) -> dict[int, tuple[Entry, ...]]:
        """The entries of each step, in order."""
        found: dict[int, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.step, []).append(entry)
        return {step: tuple(entries) for step, entries in sorted(found.items())}


def read(path: Path) -> Trajectory:
    """Read a trajectory, that of a killed process too. A file that is not there is an empty one.

    Raises:
        SessionDamaged: a line other than a torn last one cannot be read, or their numbers have a gap.
    """
    try:
        *lines, tail = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as fault:
        raise SessionDamaged(f"{path} cannot be read ({cause_of(fault)}); start a new session") from fault
    entries = tuple(_entry(path, number, line) for number, line in enumerate(lines))
    return Trajectory(entries, len(tail))


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry = Entry.model_validate(json.loads(line))
    except (ValidationError, ValueError) as error:
        raise SessionDamaged(
            f"{path}, line {number + 1} cannot be read ({cause_of(error)}); start a new session"
        ) from error
    if entry.number != number:
        raise SessionDamaged(f"{path}, line {number + 1} has the number {entry.number}; start a new session")
    return entry


class TrajectoryWriter:
    """Appends to a trajectory, new or old. One process and one thread at a time."""

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open the file, and cut off a torn last line.

        Raises:
            SessionDamaged: what is there cannot be read.
            OSError: the file cannot be written.
        """
        before = read(path)
        self._now = now
        self._number = len(before)
        self._step = before.entries[-1].step if before.entries else 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if before.torn_bytes:
            os.ftruncate(self._file, os.fstat(self._file).st_size - before.torn_bytes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written, by this writer or one before it."""
        return self._number == 0

    def append(self, event: Event, *, step: int) -> Entry:
        """Write a line; it outlives this process when this returns, and the machine after the next step's first line.

        Raises:
            OSError: the disk is full; what was written of the line is taken back.
        """
        entry = Entry(number=self._number, step=step, time=self._now(), event=event)
        if step != self._step:
            os.fsync(self._file)
        self._write(entry.to_line())
        self._number, self._step = self._number + 1, step
        return entry

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def close(self) -> None:
        """Force what was written to the disk. May be called twice."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
