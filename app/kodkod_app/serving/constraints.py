"""What an answer may be, by the tools and the format a request asks for. See `api.Constraint`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kodkod_agent.schema_grammar import schema_pattern
from kodkod_app.serving.faults import bad
from kodkod_app.serving.requests import ChatRequest, JsonFormat, NamedTool, SchemaFormat
from kodkod_engine.api import Constraint
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.automaton import Place, State, Trails
from kodkod_engine.constraints.json_values import JsonValue
from kodkod_engine.constraints.token_mask import TokenMask, with_id
from kodkod_engine.constraints.turn_constraint import TurnConstraint
from kodkod_engine.messages import ToolSpec


@dataclass(frozen=True, slots=True)
class BeginsWith:
    """First one token, then what another constraint says."""

    token_id: int
    inner: Constraint

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int] | None:
        """See `Constraint`."""
        return self.inner.allowed_ids(generated_ids) if generated_ids else (self.token_id,)


@dataclass(frozen=True, slots=True)
class EndsAfter:
    """What another constraint says, until a token comes behind which there is no choice."""

    token_id: int
    ending: tuple[int, ...]
    """What comes behind it, to the end of the turn."""
    inner: Constraint

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int] | None:
        """See `Constraint`."""
        if self.token_id not in generated_ids:
            return self.inner.allowed_ids(generated_ids)
        place = len(generated_ids) - generated_ids.index(self.token_id) - 1
        return self.ending[place : place + 1]


@dataclass(frozen=True, slots=True)
class Anything:
    """Any of some tokens, each time."""

    allowed: TokenMask

    def allowed_ids(self, generated_ids: Sequence[int]) -> TokenMask:
        """See `Constraint`."""
        del generated_ids
        return self.allowed


@lru_cache(maxsize=4)
def _all_but(token_id: int, vocab_size: int) -> TokenMask:
    return TokenMask.of((other for other in range(vocab_size) if other != token_id), vocab_size)


class JsonAnswer:
    """One JSON value by a schema, then the end of the turn."""

    def __init__(self, tokenizer: Tokenizer, schema: dict[str, Any]) -> None:
        """Compile.

        Raises:
            ValueError: the schema cannot be held to.
        """
        start = State([_InValue(JsonValue(tokenizer, schema).start(), tokenizer.eos_id)])
        if not start.allowed:
            raise ValueError("no JSON is as the schema wants it")
        self._trails = Trails(start)

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int] | None:
        """See `Constraint`."""
        return self._trails.state(generated_ids).allowed


@dataclass(frozen=True, slots=True)
class _InValue:
    """See `Place`."""

    state: ValueState
    eos_id: int

    def allowed(self) -> Collection[int]:
        return with_id(self.state.allowed, self.eos_id) if self.state.may_end else self.state.allowed

    def after(self, token_id: int) -> Iterable[Place]:
        return [] if token_id == self.eos_id else [_InValue(self.state.after(token_id), self.eos_id)]


def constraint_for(request: ChatRequest, specs: Sequence[ToolSpec], tokenizer: Tokenizer) -> Constraint | None:
    """What the answers to a request may be; None where that is left open.

    Raises:
        ApiFault: a tool that is not declared must be called, or the format cannot be held to.
    """
    if isinstance(request.response_format, JsonFormat | SchemaFormat):
        return _format(request, request.response_format, tokenizer)
    choice = request.tool_choice or "auto"
    if not specs:
        if choice in ("none", "auto"):
            return None
        raise bad("tool_choice: there are no tools to choose from", "tool_choice")
    call_id = tokenizer.special.id_of(Tag.TOOL_CALL)
    if choice == "none":
        return None if call_id is None else Anything(_all_but(call_id, tokenizer.vocab_size))
    return _calls(request, _callable(choice, specs), tokenizer, must=choice != "auto")


def _format(request: ChatRequest, wanted: JsonFormat | SchemaFormat, tokenizer: Tokenizer) -> Constraint:
    if request.tools:
        raise bad("response_format: goes without tools; leave one of them out", "response_format")
    schema = wanted.json_schema.schema_ if isinstance(wanted, SchemaFormat) else {"type": "object"}
    try:
        return JsonAnswer(tokenizer, schema)
    except ValueError as fault:
        raise bad(f"response_format: {fault}", "response_format") from fault


def _callable(choice: str | NamedTool, specs: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
    if not isinstance(choice, NamedTool):
        return specs
    found = [spec for spec in specs if spec.name == choice.function.name]
    if not found:
        raise bad(f"tool_choice: there is no tool {choice.function.name!r}", "tool_choice")
    return found


def _calls(request: ChatRequest, specs: Sequence[ToolSpec], tokenizer: Tokenizer, *, must: bool) -> Constraint | None:
    patterns = [schema_pattern(tokenizer, spec) for spec in specs]
    try:
        turn: Constraint = TurnConstraint(tokenizer, lambda _: patterns)
    except ValueError as fault:
        if must:
            raise bad(f"tool_choice: {fault}", "tool_choice") from fault
        return None  # the vocabulary lacks the tags: calls are read as they come
    call_id, end_id = (tokenizer.special.ids[tag] for tag in (Tag.TOOL_CALL, Tag.TOOL_CALL_END))
    if request.parallel_tool_calls is False or isinstance(request.tool_choice, NamedTool):
        turn = EndsAfter(end_id, (*tokenizer.encode_text("\n"), tokenizer.eos_id), turn)
    return BeginsWith(call_id, turn) if must else turn
