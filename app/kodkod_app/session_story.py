"""What is told of a session: its steps as they count now, each with what came of its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kodkod_agent import trajectory as t
from kodkod_agent.errors import SessionDamaged, SessionNotFound
from kodkod_agent.journal import Journal, StepRecord
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.session_folder import SessionFolder, SessionInfo
from kodkod_engine.messages import Message, ToolCall, UserMessage


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a session stands."""

    num_steps: int
    status: str
    """A `Status`; `new` when nothing was said yet, `unfinished` while a run goes on or after it was cut short."""
    reason: str
    tests_before: dict[str, Any] = field(default_factory=dict)
    tests_after: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class StoryStep:
    """One turn of the model and what came of it."""

    number: int
    time: datetime
    turn: t.AssistantTurn
    said: list[str] = field(default_factory=list)
    """What the person said before it."""
    outcomes: dict[str, t.CallFinished] = field(default_factory=dict)
    """By call id; a call that was cut short has none."""
    changed: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    """By call id: the arguments a person put in place of the model's."""
    shortened: list[t.Rebuilt] = field(default_factory=list)
    """What became of the conversation after it, where it goes on from a summary."""

    def outcome(self, call: ToolCall) -> str:
        """One word."""
        finished = self.outcomes.get(call.id)
        if finished is None:
            return "cut short"
        if finished.refused:
            return "refused"
        return "ok" if finished.error is None else str(finished.error)


@dataclass(frozen=True, slots=True)
class Story:
    """A session's steps, those thrown away by a rewind left out."""

    info: SessionInfo
    ending: Ending
    model: str
    """Name of the checkpoint; empty when it was not written down."""
    steps: tuple[StoryStep, ...]


def ending_of(folder: SessionFolder) -> Ending:
    """Where a session stands, from its journal.

    Raises:
        SessionDamaged: the journal cannot be read.
    """
    steps = Journal(folder.journal).steps
    if not steps:
        return Ending(0, "new", "")
    return _ending(steps[-1])


def _ending(last: StepRecord) -> Ending:
    state = last.state
    status = str(state.get("status", ""))
    return Ending(
        num_steps=last.step,
        status="unfinished" if status == "running" else status,
        reason=str(state.get("reason", "")),
        tests_before=dict(state.get("tests_before") or {}),
        tests_after=dict(state.get("tests_after") or {}),
    )


def read_story(folder: SessionFolder) -> Story:
    """Everything that is told of a session.

    Raises:
        SessionDamaged: one of its files cannot be read.
    """
    ending, told = ending_of(folder), t.read(folder.trajectory)
    started = [entry.event for entry in told if isinstance(entry.event, t.SessionStarted)]
    model = next((event.model for event in started if event.model), "")
    steps = tuple(step for step in _steps(told) if step.number <= ending.num_steps)
    _forget_undone(steps, lambda: _num_shortened(folder) - _num_shortened(folder, at_fork=True))
    return Story(folder.info, ending, model, steps)


def _num_shortened(folder: SessionFolder, *, at_fork: bool = False) -> int:
    """How often its conversation was shortened, and not gone back behind: as it stands, or when it left another."""
    journal, point = Journal(folder.journal), folder.info.forked_from
    last = journal.steps[-1] if journal.steps else None
    record = last if not at_fork else journal.rest(point.step) if point else None
    return len(LedgerLog(folder.ledger).before_rebuilds(record.ledger_mark)) if record else 0


def _forget_undone(steps: Sequence[StoryStep], number: Callable[[], int]) -> None:
    """Keep what is told of the last so many times that the conversation was shortened."""
    told = [(step, rebuilt) for step in steps for rebuilt in step.shortened]
    if told:
        for step, rebuilt in told[: max(0, len(told) - number())]:
            step.shortened.remove(rebuilt)


def whole_steps(folder: SessionFolder) -> tuple[StoryStep, ...]:
    """A session's steps, those it began with among them: up to where it was forked they are in another's folder.

    Raises:
        SessionDamaged: its own files cannot be read. Of sessions that are gone or cannot be read nothing is told.
    """
    own, inherited = read_story(folder).steps, list[StoryStep]()
    for step, told in _before_forks(folder):
        inherited = [*(one for one in _steps(told) if one.number <= step), *inherited]
    _forget_undone(inherited, lambda: _num_shortened(folder, at_fork=True))
    return (*inherited, *own)


def _before_forks(folder: SessionFolder) -> Iterator[tuple[int, list[t.Entry]]]:
    """What was told in the sessions it was forked from, the nearest first, and up to which step it counts."""
    child, seen = folder.info, {folder.path.name}
    while (point := child.forked_from) is not None and point.session_id not in seen:
        seen.add(point.session_id)
        try:
            parent = SessionFolder.find(folder.path.parent, point.session_id)
            # What the parent did after the fork, be it in place of those steps, is none of this session's.
            told = [entry for entry in t.read(parent.trajectory) if entry.time <= child.created_at]
            child = parent.info
        except (SessionNotFound, SessionDamaged):
            return
        yield point.step, told


def unanswered(folder: SessionFolder, conversation: Callable[[], Sequence[Message]]) -> list[str]:
    """What the person said last, where no turn of the model follows: the run ended while the first was being written.

    Args:
        folder: the session's.
        conversation: reads it as it counts now. What a rewind took out of it is written down still.

    Raises:
        SessionDamaged: the trajectory cannot be read.
    """
    told = list(t.read(folder.trajectory))
    for step, before in _before_forks(folder):
        told = [*(entry for entry in before if entry.step <= step), *told]
    said: list[str] = []
    for entry in told:
        match entry.event:
            case t.UserMessage(text=text):
                said.append(text)
            case t.AssistantTurn():
                said = []
    if not said:
        return []
    heard = {message.text for message in conversation() if isinstance(message, UserMessage)}
    return [text for text in said if text in heard]


def said_before_last_turn(folder: SessionFolder) -> list[str]:
    """What the session's last turn answers, be it that its calls are not done.

    Raises:
        SessionDamaged: the trajectory cannot be read.
    """
    steps = _steps(t.read(folder.trajectory))
    return steps[-1].said if steps else []


def _steps(entries: Iterable[t.Entry]) -> list[StoryStep]:
    """A turn with a number that was there before takes the place of that one and of all after it."""
    steps: list[StoryStep] = []
    said: list[str] = []
    for entry in entries:
        match entry.event:
            case t.UserMessage(text=text):
                said.append(text)
            case t.AssistantTurn() as turn:
                steps = [step for step in steps if step.number < entry.step]
                steps.append(StoryStep(entry.step, entry.time, turn, said))
                said = []
            case t.Rebuilt() as rebuilt if steps:
                steps[-1].shortened.append(rebuilt)
            case t.Decided(call_id=call_id, arguments=dict() as arguments) if steps:
                steps[-1].changed[call_id] = arguments
            case t.CallFinished() as finished if steps:
                steps[-1].outcomes[finished.call_id] = finished
            case _:
                pass
    return steps


def sessions_in(root: Path) -> list[SessionFolder]:
    """The folders of all sessions, the latest first, damaged ones too."""
    return [SessionFolder(path.parent) for path in sorted(root.glob("*/session.json"), reverse=True)]
