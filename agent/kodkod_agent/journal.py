"""The session's record of what it was about to do and what it did: JSON lines, written before and after every act.

It serves two ends: a killed run goes on without doing anything twice (`calls.py`), and a fork or a rewind finds the
conversation and the files of any step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, TypeAdapter, ValidationError

from kodkod_agent.errors import SessionDamaged, cause_of
from kodkod_agent.state import Status
from kodkod_tools.base import ErrorCode


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(_Record):
    """How a call ended."""

    call_id: str
    name: str
    for_model: str
    error: ErrorCode | None = None
    refused: bool = False
    """It was not run: permissions or the person were against it."""
    log_path: str | None = None
    """The file that holds the whole output, where `for_model` is not all of it."""
    changed_paths: tuple[str, ...] = ()
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def is_malformed(self) -> bool:
        """The model did not manage to call a tool at all."""
        return self.error in (ErrorCode.MALFORMED_CALL, ErrorCode.UNKNOWN_TOOL)


class IntentRecord(_Record):
    """A call that may change something is about to be done."""

    kind: Literal["intent"] = "intent"
    key: str
    """Branch and call: unique in the session."""
    step: NonNegativeInt
    """Turns of the model so far, the one that made the call included."""
    snapshot: str
    """The work tree before it."""


class OutcomeRecord(_Record):
    """A call was done, or refused."""

    kind: Literal["outcome"] = "outcome"
    key: str
    outcome: Outcome


class StepRecord(_Record):
    """The conversation after so many turns, their calls done."""

    kind: Literal["step"] = "step"
    step: NonNegativeInt
    ledger_mark: NonNegativeInt
    state: dict[str, Any]
    """The graph's state."""


class SnapshotRecord(_Record):
    """The work tree as it was after this many turns."""

    kind: Literal["snapshot"] = "snapshot"
    step: NonNegativeInt
    snapshot: str


class RewindRecord(_Record):
    """The session went back to a step; what came after it counts no more. Earlier versions wrote it."""

    kind: Literal["rewind"] = "rewind"
    step: NonNegativeInt


class MoveRecord(_Record):
    """The session goes to a step: its own, to go back, or another session's, to begin there. What comes after it counts
    no more. Done when the step's record follows.
    """

    kind: Literal["move"] = "move"
    to: StepRecord
    """In this session's ledger."""
    snapshot: str | None
    """The files there; None when they are those at hand."""


class StayRecord(_Record):
    """The session does not go where the record before said: that failed, and all is as it was."""

    kind: Literal["stay"] = "stay"


Record = IntentRecord | OutcomeRecord | StepRecord | SnapshotRecord | RewindRecord | MoveRecord | StayRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class Journal:
    """One session's journal: appended to, and read whole when the session is opened."""

    def __init__(self, path: Path) -> None:
        """Open a journal, new or old.

        Raises:
            SessionDamaged: a line other than the last cannot be read.
        """
        self._path = path
        self._intents: dict[str, IntentRecord] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._steps: dict[int, StepRecord] = {}
        self._rests: dict[int, StepRecord] = {}
        """The same before anything was said after them, where a run ended or one was gone to."""
        self._snapshots: list[tuple[int, str]] = []
        """(turns before it, snapshot) in the order they were taken."""
        self.move: MoveRecord | None = None
        """Begun, and not done as far as is known."""
        self._left = (self._steps, self._rests, self._snapshots)
        """As they were before it."""
        whole = _whole_lines(path)
        self._size = len(whole)
        for record in _records(path, whole):
            self._index(record)

    def add(self, record: Record) -> None:
        """Write a record; it is on its way to the disk when this returns. For the one who holds the session alone."""
        # Not pydantic's own writer: tool output may hold lone surrogates, which it refuses.
        line = json.dumps(record.model_dump(mode="json")).encode("ascii") + b"\n"
        with self._path.open("ab") as file:
            # Only now, for who reads along must change nothing: what a kill or a full disk left torn is cut off.
            file.truncate(self._size)
            file.write(line)
        self._size += len(line)
        self._index(record)

    def intent(self, key: str) -> IntentRecord | None:
        """What was about to be done under this key."""
        return self._intents.get(key)

    def outcome(self, key: str) -> Outcome | None:
        """How the call of this key ended; None when it did not, as far as is known."""
        return self._outcomes.get(key)

    @property
    def steps(self) -> list[StepRecord]:
        """The steps one can go back to, in order."""
        return [self._steps[step] for step in sorted(self._steps)]

    def step(self, step: int) -> StepRecord | None:
        """One of them, with what was said after it."""
        return self._steps.get(step)

    def rest(self, step: int) -> StepRecord | None:
        """One of them, as it was before anything was said after it."""
        return self._rests.get(step) or self._steps.get(step)

    def snapshot_after(self, step: int) -> str | None:
        """The files as they were after so many turns: the first record of the tree that follows.

        Turns that only looked have no snapshot of their own. None when the tree was not recorded since: the files are
        those that are there.
        """
        return next((snapshot for turns, snapshot in self._snapshots if turns >= step), None)

    def _index(self, record: Record) -> None:
        match record:
            case IntentRecord():
                self._intents[record.key] = record
                self._snapshots.append((record.step - 1, record.snapshot))
            case OutcomeRecord():
                self._outcomes[record.key] = record.outcome
            case StepRecord():
                self._steps[record.step] = record
                if self.move is not None:
                    self._rests[record.step] = record
                elif record.step == 0 or record.state.get("status") != Status.RUNNING:
                    self._rests.setdefault(record.step, record)
                self.move = None
            case SnapshotRecord():
                self._snapshots.append((record.step, record.snapshot))
            case RewindRecord():
                self._forget_after(record.step)
            case MoveRecord():
                self._left = (self._steps, self._rests, self._snapshots)
                self._forget_after(record.to.step)
                self.move = record
            case StayRecord():
                self._steps, self._rests, self._snapshots = self._left
                self.move = None

    def _forget_after(self, step: int) -> None:
        self._steps = {number: record for number, record in self._steps.items() if number <= step}
        self._rests = {number: record for number, record in self._rests.items() if number <= step}
        self._snapshots = [(turns, snapshot) for turns, snapshot in self._snapshots if turns < step]


def _whole_lines(path: Path) -> bytes:
    """The last line may have been torn by a kill, or is being written: then it tells of nothing that was done."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as fault:
        raise _damaged(path, fault) from fault
    return data[: data.rfind(b"\n") + 1]


def _records(path: Path, lines: bytes) -> Iterator[Record]:
    try:
        for line in lines.split(b"\n")[:-1]:
            yield _RECORD.validate_python(json.loads(line))
    except (ValidationError, ValueError) as fault:
        raise _damaged(path, fault) from fault


def _damaged(path: Path, fault: Exception) -> SessionDamaged:
    return SessionDamaged(f"{path} cannot be read ({cause_of(fault)}); start a new session")
