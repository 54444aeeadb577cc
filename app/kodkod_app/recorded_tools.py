"""Tools of other programs in a replay: they answer what was recorded, and no program is asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict

from kodkod_agent.trajectory import CallFinished
from kodkod_app.session_story import StoryStep
from kodkod_engine.chat.ledger_state import Declaration
from kodkod_engine.messages import ToolSpec
from kodkod_tools.base import Arguments, Effect, ErrorCode, ToolContext, ToolResult, ToolStream
from kodkod_tools.mcp.names import PREFIX

_NOT_RUN = (ErrorCode.MALFORMED_CALL, ErrorCode.UNKNOWN_TOOL)


class AnyArguments(Arguments):
    """They were checked when they were recorded."""

    model_config = ConfigDict(frozen=True, extra="allow")


class RecordedTool:
    """See `ForeignTool`."""

    effect = Effect.EXTERNAL
    arguments: type[Any] = AnyArguments
    server = "recorded"
    fingerprint = "recorded"

    def __init__(self, spec: ToolSpec, answers: deque[ToolResult]) -> None:
        self.spec = spec
        self._answers = answers

    async def run(self, arguments: AnyArguments, context: ToolContext) -> ToolStream:
        """The next of the recorded answers."""
        del arguments, context
        yield self._answers.popleft() if self._answers else ToolResult("nothing was recorded", error=ErrorCode.FAILED)


class RecordedTools(dict[str, RecordedTool]):
    """By full name, as the recording goes on."""

    def __init__(self, declarations: Iterable[Declaration], steps: Iterable[StoryStep]) -> None:
        super().__init__()
        self._answers = deque(
            ToolResult(_own_words(outcome, step), error=outcome.error)
            for step in steps
            for outcome in step.outcomes.values()
            if outcome.name.startswith(PREFIX) and not outcome.refused and outcome.error not in _NOT_RUN
        )
        for declaration in declarations:
            self.declare(declaration)

    def declare(self, declaration: Declaration) -> None:
        """Go on behind a declaration. What was withdrawn stays, for calls that were written before."""
        self.update((spec.name, RecordedTool(spec, self._answers)) for spec in declaration.tools)


def _own_words(outcome: CallFinished, step: StoryStep) -> str:
    """The tool's, without the line that says what a person changed: it is put before them again."""
    return outcome.for_model.partition("\n")[2] if outcome.call_id in step.changed else outcome.for_model
