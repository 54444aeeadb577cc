"""What a session says while it works: one closed union of frozen dataclasses. Faces match over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from kodkod_agent.report import CandidateReport, RunReport
from kodkod_engine.api import Usage
from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import Channel
from kodkod_tools.base import ErrorCode, FileDiff


@dataclass(frozen=True, slots=True)
class RunStarted:
    """First event of every run."""

    session_id: str
    resumed: bool
    """It goes on where an earlier process left it."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The model is asked for a turn."""

    step: int
    context_tokens: int
    """Of the prompt."""
    max_context_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's prose."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model is writing a call."""

    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentDelta:
    """More of one argument, as the model writes it."""

    call_id: str
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class CallWritten:
    """The call is complete, or cut off: see `ToolCall.fault`. Nothing has been done yet."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class CallOutput:
    """Output of a running call."""

    call_id: str
    text: str
    channel: Channel


@dataclass(frozen=True, slots=True)
class CallFinished:
    """What came of a call: one for every `CallWritten` whose turn was not interrupted."""

    call_id: str
    name: str
    for_model: str
    for_person: str | FileDiff = ""
    error: ErrorCode | None = None
    refused: bool = False
    """It was not run: permissions or the person were against it."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """One call that needs a person's word."""

    call: ToolCall
    reason: str


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """The run waits for `Session.answer`, with one `Approval` per request."""

    requests: tuple[ApprovalRequest, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """A fact for the person; what the model was told too is in the conversation."""

    text: str


@dataclass(frozen=True, slots=True)
class UsageReported:
    """What a turn cost."""

    step: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class ModelDoubted:
    """In its last turn the model wanted to write something else than calls may be."""

    step: int
    doubted_tokens: int
    constrained_tokens: int
    lowest_allowed_mass: float
    """The least probability it gave to all that was allowed."""
    wanted: str
    """The text of the token it wanted, where it first disagreed."""
    taken: str
    """And of the one that was taken."""


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """The work tree was recorded."""

    step: int
    snapshot: str


@dataclass(frozen=True, slots=True)
class ContextRebuilt:
    """The conversation was compacted: the system text, the task, a summary and the files at work go on."""

    tokens_before: int
    tokens_after: int
    summary: str


@dataclass(frozen=True, slots=True)
class TestsRan:
    """A check by the agent itself, before the first turn or before the end."""

    __test__ = False

    before: bool
    facts: Mapping[str, JsonValue]
    text: str


@dataclass(frozen=True, slots=True)
class CandidateEnded:
    """A candidate came to its end in its own copy of the work tree."""

    report: CandidateReport


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The model's turn is over and its calls are done."""

    step: int


@dataclass(frozen=True, slots=True)
class RunInterrupted:
    """The run was cancelled, and nothing works any more. What it changed is not known yet: `RunEnded` follows."""

    reason: str
    """One line."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Last event of every run."""

    report: RunReport


Event = (
    RunStarted
    | TurnStarted
    | TextDelta
    | ReasoningDelta
    | CallStarted
    | ArgumentDelta
    | CallWritten
    | CallOutput
    | CallFinished
    | ApprovalAsked
    | Notice
    | UsageReported
    | ModelDoubted
    | SnapshotTaken
    | ContextRebuilt
    | TestsRan
    | CandidateEnded
    | TurnEnded
    | RunInterrupted
    | RunEnded
)
"""In the order in which things happen."""
