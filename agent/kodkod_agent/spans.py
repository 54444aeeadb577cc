"""What a run does, as spans for whoever watches: the run, each turn of the model, each call. Off unless asked for.

run                     invoke_agent
├── turn                chat
├── call                execute_tool
└── ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kodkod_agent.model_turn import Turn
    from kodkod_agent.report import RunReport
    from kodkod_engine.api import SamplingParams
    from kodkod_engine.messages import Message, ToolCall
    from kodkod_tools.base import ToolResult


class RunSpan(Protocol):
    """A run that is going on."""

    def ended(self, report: RunReport) -> None:
        """How it ended."""
        ...


class TurnSpan(Protocol):
    """A turn that is being written."""

    def written(self, turn: Turn) -> None:
        """It is complete."""
        ...


class CallSpan(Protocol):
    """A call that is being done."""

    def done(self, result: ToolResult) -> None:
        """What came of it."""
        ...


class Spans(Protocol):
    """Takes note of what begins and ends. A fault that leaves a span is noted in it."""

    def run(self, session_id: str) -> AbstractContextManager[RunSpan]:
        """A run; what follows belongs to it."""
        ...

    def turn(self, sampling: SamplingParams, messages: Sequence[Message]) -> AbstractContextManager[TurnSpan]:
        """A turn of the model.

        Args:
            sampling: how it is drawn.
            messages: the conversation it is written for.
        """
        ...

    def call(self, call: ToolCall) -> AbstractContextManager[CallSpan]:
        """A call that is done: neither refused nor taken over from before."""
        ...


class _Unwatched:
    """Every span at once."""

    def ended(self, report: RunReport) -> None:
        """See `RunSpan`."""

    def written(self, turn: Turn) -> None:
        """See `TurnSpan`."""

    def done(self, result: ToolResult) -> None:
        """See `CallSpan`."""


class NoSpans:
    """Nobody watches."""

    @contextmanager
    def run(self, session_id: str) -> Iterator[RunSpan]:
        """See `Spans`."""
        del session_id
        yield _Unwatched()

    @contextmanager
    def turn(self, sampling: SamplingParams, messages: Sequence[Message]) -> Iterator[TurnSpan]:
        """See `Spans`."""
        del sampling, messages
        yield _Unwatched()

    @contextmanager
    def call(self, call: ToolCall) -> Iterator[CallSpan]:
        """See `Spans`."""
        del call
        yield _Unwatched()
