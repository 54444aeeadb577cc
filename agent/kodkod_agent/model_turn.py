"""One turn of the model: ids out of the ledger, ids into the ledger, and what they say as events on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from kodkod_agent import events
from kodkod_engine.api import (
    Constraint,
    Doubt,
    Engine,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenChunk,
    Usage,
)
from kodkod_engine.chat import events as parsed
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.errors import EngineError
from kodkod_engine.messages import AssistantMessage

Emit = Callable[[events.Event], None]
"""Tells the face; never blocks."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that has ended."""

    message: AssistantMessage
    usage: Usage
    finish_reason: FinishReason
    stream_id: str | None
    """Of the engine; None for a turn it was not asked for."""
    doubt: Doubt | None = None
    """The first disagreement between the model and its constraint."""


async def run_turn(
    engine: Engine,
    ledger: TokenLedger,
    sampling: SamplingParams,
    emit: Emit,
    *,
    parent_id: str | None = None,
    constraint: Constraint | None = None,
    draft_sources: tuple[tuple[int, ...], ...] = (),
) -> Turn:
    """Let the model write one turn. What it writes is in the ledger to the very id, also when the task is cancelled.

    Args:
        engine: the model.
        ledger: the conversation; no turn is open.
        sampling: how it is to choose.
        emit: told of what it writes while it writes.
        parent_id: the stream of the turn before, if there is one.
        constraint: what the turn may be; None leaves it open.
        draft_sources: ids that the turn may repeat.

    Raises:
        EngineError: the engine failed, or was closed meanwhile.
    """
    ledger.begin_turn()
    parser = ledger.parser()
    request = GenerationRequest(ledger.token_ids, sampling, constraint, parent_id, draft_sources)
    stream = engine.generate(request)
    last = TokenChunk()
    doubt: Doubt | None = None
    try:
        async for last in stream:
            doubt = doubt or next(iter(last.doubts), None)
            if last.token_ids:
                ledger.append_generated(last.token_ids)
            _tell(parser.push(last.token_ids), emit)
    except asyncio.CancelledError:
        stream.cancel()
        raise
    if last.finish_reason in (None, FinishReason.ERROR, FinishReason.CANCELLED) or last.usage is None:
        raise EngineError(last.error or "the engine ended the turn early; load it again")
    _tell(parser.finish(), emit)
    return Turn(ledger.end_turn(), last.usage, last.finish_reason, stream.id, doubt)


def take_turn(ledger: TokenLedger, token_ids: Sequence[int], emit: Emit, usage: Usage | None = None) -> Turn:
    """Put a turn that was thought of elsewhere into the ledger, as if the model had just written it."""
    ledger.begin_turn()
    parser = ledger.parser()
    ledger.append_generated(token_ids)
    _tell(parser.push(token_ids), emit)
    _tell(parser.finish(), emit)
    return Turn(ledger.end_turn(), usage or Usage(), FinishReason.STOP, stream_id=None)


def _tell(found: list[parsed.ParserEvent], emit: Emit) -> None:
    for event in found:
        emit(_told(event))


def _told(event: parsed.ParserEvent) -> events.Event:
    match event:
        case parsed.TextDelta(text):
            return events.TextDelta(text)
        case parsed.ReasoningDelta(text):
            return events.ReasoningDelta(text)
        case parsed.CallStarted(call_id, name):
            return events.CallStarted(call_id, name)
        case parsed.ArgumentDelta(call_id, key, text):
            return events.ArgumentDelta(call_id, key, text)
        case parsed.CallFinished(call):
            return events.CallWritten(call)
        case _:
            assert_never(event)
