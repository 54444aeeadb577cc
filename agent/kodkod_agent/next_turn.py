"""The model's next turn: one that was given, the most probable as a whole, or written token by token; and what is told
of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kodkod_agent import events, trajectory
from kodkod_agent.draft_sources import draft_sources
from kodkod_agent.limits import remaining
from kodkod_agent.model_turn import Turn, run_turn, take_turn
from kodkod_agent.proposals import next_turns
from kodkod_agent.resources import Resources
from kodkod_agent.state import AgentState
from kodkod_agent.ways import Ways
from kodkod_engine.api import FinishReason, SamplingParams
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.constraints.call_constraint import CallConstraint


async def next_turn(state: AgentState, res: Resources) -> Turn:
    """Have the turn behind this state made and told of; what it says is in the ledger.

    Raises:
        EngineError: the engine failed, or was closed meanwhile.
    """
    step = state["step"] + 1
    left = remaining(res.config, state, res.stopwatch.seconds)
    res.emit(events.TurnStarted(step, len(res.ledger) + 1, res.budget.context))
    sampling = SamplingParams(
        temperature=res.config.temperature,
        top_p=res.config.top_p,
        seed=res.config.seed + step,
        doubt_below=res.config.doubt_below,
        max_tokens=res.budget.turn_tokens(res.ledger, left.tokens),
    )
    messages = res.ledger.view()
    with res.spans.turn(sampling, messages) as span:
        turn = await _made(sampling, res)
        span.written(turn)
    res.stream_id = turn.stream_id
    res.emit(events.UsageReported(step, turn.usage))
    _tell_doubt(step, turn, res)
    _tell_cut(turn, res)
    res.record(_told(turn, res), step)
    return turn


async def _made(sampling: SamplingParams, res: Resources) -> Turn:
    """One that was given, the most probable as a whole, or as the model writes it token by token."""
    if res.given_turns:
        return take_turn(res.ledger, res.given_turns.pop(0), res.emit)
    is_searched = res.searched and sampling.temperature == 0
    if is_searched and res.guide is not None and res.guide.ranker is not None:
        ways = await Ways(res.engine, res.guide, res.tools).best(res.ledger, 1, parent_id=res.stream_id)
        if ways:
            first, *others = ways[0].turns
            res.given_turns = [turn.token_ids for turn in others]
            return take_turn(res.ledger, first.token_ids, res.emit, first.usage)
    constraint = await res.constraint()
    if isinstance(constraint, CallConstraint) and is_searched:
        found = await next_turns(res.engine, res.ledger, constraint, 1, parent_id=res.stream_id)
        if found:
            return take_turn(res.ledger, found[0].token_ids, res.emit, found[0].usage)
    sources = await asyncio.to_thread(draft_sources, res.ledger.view(), res.tools, res.tokenizer)
    begin = len(res.ledger) + 1  # behind the tag that asks for a turn
    turn = await run_turn(
        res.engine,
        res.ledger,
        sampling,
        res.emit,
        parent_id=res.stream_id,
        constraint=constraint,
        draft_sources=sources,
    )
    if (loosened_by := getattr(constraint, "loosened_by", None)) is not None:
        _tell_loosened(await asyncio.to_thread(loosened_by, res.ledger.token_ids[begin:]), res)
    return turn


def _tell_loosened(lines: Sequence[str], res: Resources) -> None:
    for line in lines:
        res.doubts.loosened[line] = None
        res.emit(events.Notice(f"a call was not held to all it should be: {line}"))


def _tell_doubt(step: int, turn: Turn, res: Resources) -> None:
    """Say where the model wanted something else than its constraint allows."""
    usage = turn.usage
    res.doubts.constrained_tokens += usage.constrained_tokens
    res.doubts.doubted_tokens += usage.doubted_tokens
    if turn.doubt is not None:
        texts = (
            res.tokenizer.decode([each], skip_special=False) for each in (turn.doubt.wanted_id, turn.doubt.token_id)
        )
        counts = (usage.doubted_tokens, usage.constrained_tokens, usage.lowest_allowed_mass)
        res.emit(events.ModelDoubted(step, *counts, *texts))


def _tell_cut(turn: Turn, res: Resources) -> None:
    """An answer that ends in the middle looks like a whole one. Who works on their own is asked to go on anyway."""
    if res.config.attended and turn.finish_reason is FinishReason.LENGTH and not turn.message.calls:
        count = turn.usage.generated_tokens
        res.emit(events.Notice(f"the answer was cut off after {count:,} tokens; ask for the rest"))


def _told(turn: Turn, res: Resources) -> trajectory.AssistantTurn:
    start = next(span.end for span in reversed(res.ledger.spans) if span.origin is Origin.PROMPT)
    return trajectory.AssistantTurn(
        text=turn.message.text,
        reasoning=turn.message.reasoning,
        calls=turn.message.calls,
        finish_reason=turn.finish_reason,
        usage=turn.usage,
        context_tokens=start,
        max_context_tokens=res.budget.context,
        token_ids=res.ledger.token_ids[start:],
    )
