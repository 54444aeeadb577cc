"""What a token ledger consists of, in the form a session file keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

from kodkod_engine.errors import EngineError
from kodkod_engine.messages import ToolSpec

BranchKind = Literal["fork", "rebuild"]


class LedgerFault(EngineError):
    """An operation the ledger cannot do as it stands, or a saved ledger that does not fit this model."""

    exit_code = 1


class Origin(StrEnum):
    """Where tokens came from."""

    TOOLS = "tools"
    """The declared tools."""
    SYSTEM = "system"
    USER = "user"
    NOTICE = "notice"
    """The program, at the tail: date, git status, budgets, mode changes."""
    LATE_TOOLS = "late_tools"
    """Tools that came, changed or went while the conversation was going on."""
    TOOL_RESULT = "tool_result"
    PROMPT = "prompt"
    """The tag that asks the model for a turn."""
    GENERATED = "generated"
    """The model."""
    FORCED = "forced"
    """The grammar: it left the model no choice."""
    RENDERED = "rendered"
    """An assistant message given at a rebuild, rendered from its parsed form."""
    CLOSING = "closing"
    """EOS after a turn the model did not end itself."""

    @property
    def is_generated(self) -> bool:
        """Decoded on this branch or its parent, choice or no choice."""
        return self in (Origin.GENERATED, Origin.FORCED)

    @property
    def is_written(self) -> bool:
        """Inside an assistant turn, between its tag and its EOS."""
        return self.is_generated or self is Origin.RENDERED


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tokens of one origin: ids[start:end]."""

    origin: Origin
    start: int
    end: int


class BranchPoint(BaseModel):
    """Where a branch left its parent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: BranchKind
    parent_id: str
    at: NonNegativeInt
    """Tokens of the parent: those kept by a fork, those it had at a rebuild."""


class Declaration(BaseModel):
    """Tools that were declared at the tail, for the turns that begin there or later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: NonNegativeInt
    """Tokens of the conversation, this declaration's own included."""
    tools: tuple[ToolSpec, ...] = ()
    """New ones, and those that are no longer as they were declared before."""
    withdrawn: tuple[str, ...] = ()
    """Names that may not be called any more."""


def tools_at(tools: Iterable[ToolSpec], declarations: Iterable[Declaration], at: int) -> tuple[ToolSpec, ...]:
    """The tools a turn knows that begins at token `at`: those of the head, and what was declared since."""
    known = {tool.name: tool for tool in tools}
    for declaration in declarations:
        if declaration.at <= at:
            known.update((tool.name, tool) for tool in declaration.tools)
            for name in declaration.withdrawn:
                known.pop(name, None)
    return tuple(known.values())


class LedgerState(BaseModel):
    """A ledger at rest; `model_dump_json` and `model_validate_json` carry it through a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    branch_id: str
    branched_from: BranchPoint | None = None
    tokenizer: str
    """Fingerprint of the tokenizer the ids belong to."""
    tools: tuple[ToolSpec, ...]
    spans: tuple[Span, ...]
    token_ids: tuple[NonNegativeInt, ...]
    declarations: tuple[Declaration, ...] = ()

    @model_validator(mode="after")
    def _spans_cover_ids(self) -> Self:
        ends = [0, *(span.end for span in self.spans)]
        whole = all(span.start == before for span, before in zip(self.spans, ends, strict=False))
        if not whole or any(low >= high for low, high in pairwise(ends)) or ends[-1] != len(self.token_ids):
            raise ValueError("the spans do not cover the token ids; the session file is damaged")
        return self
