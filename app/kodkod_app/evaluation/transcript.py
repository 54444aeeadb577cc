"""What was said and done in one trial: what checks look at, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kodkod_engine.api import Usage
from kodkod_engine.messages import ToolCall


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made."""

    name: str
    arguments: Mapping[str, Any]
    result: str
    by_user: bool = False
    fault: str | None = None
    """The model wrote it such that it cannot be read."""


@dataclass(slots=True)
class Transcript:
    """Grows with the trial."""

    said: list[tuple[str, str]] = field(default_factory=list)
    """(`agent` or `user`, text)."""
    calls: list[Made] = field(default_factory=list)
    first_calls: tuple[ToolCall, ...] = ()
    """Of the agent's first turn, as it wrote them."""
    turns: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    exit_status: str = "ended"
    """`ended`, or the limit or fault that ended it."""

    def count(self, usage: Usage) -> None:
        """Take in what a turn cost."""
        self.turns += 1
        self.prompt_tokens += usage.prompt_tokens
        self.reused_tokens += usage.reused_tokens
        self.generated_tokens += usage.generated_tokens

    @property
    def answers(self) -> list[str]:
        """What the agent said, without turns that say nothing."""
        return [text for who, text in self.said if who == "agent" and text.strip()]

    @property
    def malformed_calls(self) -> int:
        """Calls of the agent that could not be read."""
        return sum(call.fault is not None for call in self.calls)

    def to_json(self) -> str:
        """For the folder of the evaluation."""
        plain = asdict(self) | {"first_calls": [call.model_dump(mode="json") for call in self.first_calls]}
        return json.dumps(plain, indent=1, default=str) + "\n"
