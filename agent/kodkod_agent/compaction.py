"""A conversation that has grown long goes on from a summary that the model writes of it: when the context is nearly
full, or when the person asks for that.
"""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from kodkod_agent import events, trajectory
from kodkod_agent.context import Budget, fit_tokens, prompt
from kodkod_agent.errors import ContextFull
from kodkod_agent.model_turn import run_turn
from kodkod_agent.resources import Resources
from kodkod_agent.state import AgentState
from kodkod_agent.telling import show_instructions, tell_facts, tell_skills
from kodkod_engine.api import SamplingParams
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, ToolCall, UserMessage
from kodkod_tools import registry
from kodkod_tools.base import ToolContext, ToolResult

_FILE_TOOLS = frozenset({"view", "edit", "write"})
_MAX_OPEN_FILES = 3
_MAX_CALLS_NAMED = 40


async def rebuild(state: AgentState, res: Resources) -> AgentState:
    """Shorten the conversation of a run that goes on.

    Raises:
        ContextFull: it was shortened too often, or cannot be made short enough.
        EngineError: the engine failed.
    """
    if state["rebuilds"] >= res.config.max_rebuilds:
        raise ContextFull(
            f"in this run it was shortened {state['rebuilds']} times, and it is too long again; say what comes next"
        )
    # The model writes a summary and reads it: on a processor that takes minutes.
    res.emit(beginning(res))
    update, told = go_on_from(*await shorten(res), state, res)
    res.emit(told)
    await tell_facts(state["step"], res)
    tell_plan(state, res)
    return update | AgentState(rebuilds=state["rebuilds"] + 1)


def beginning(res: Resources) -> events.Notice:
    """Said before, for it takes its time."""
    text = f"the conversation has {len(res.ledger):,} of {res.budget.context:,} tokens and is being shortened"
    return events.Notice(text)


def go_on_from(
    ledger: TokenLedger, summary: str, state: AgentState, res: Resources
) -> tuple[AgentState, events.ContextRebuilt]:
    """Make a shortened conversation the session's, and tell again what holds for all of it."""
    step, told = state["step"], events.ContextRebuilt(len(res.ledger), len(ledger), summary)
    rebuilt = trajectory.Rebuilt(tokens_before=told.tokens_before, tokens_after=told.tokens_after, summary=summary)
    res.record(rebuilt, step)
    res.ledger, res.stream_id = ledger, None
    skills = tell_skills("", step, res)
    return skills | AgentState(instructions=show_instructions(["."], [], step, res)), told


def tell_plan(state: AgentState, res: Resources) -> None:
    """That nothing may be changed, where the model knew that before."""
    if state["plan_only"]:
        res.tell_model(prompt("plan"), state["step"])


async def shorten(res: Resources, focus: str = "") -> tuple[TokenLedger, str]:
    """A new branch that fits: system text and tools, what the person said, a summary by the model, the files at work.

    Args:
        focus: what the person wants kept above all, in their words.

    Returns:
        The branch and the summary. The session's own conversation is as it was.

    Raises:
        ContextFull: not even this is short enough.
        EngineError: the engine failed.
    """
    ledger, tokenizer, budget = res.ledger, res.tokenizer, res.budget
    summary = await _summarise(res, focus)
    rebuilt = ledger.rebuild([UserMessage(text=text) for text in _said(ledger, tokenizer, budget.rebuilt // 4)])
    rebuilt.append_notice(prompt("summary", summary=fit_tokens(tokenizer, summary, budget.rebuilt // 4)))
    if len(rebuilt) > budget.rebuilt or budget.is_near_full(rebuilt):
        raise ContextFull(
            f"the task and its summary take {len(rebuilt):,} of {budget.context:,} tokens of context; "
            "use a model with a larger context, or split the task"
        )
    for path in open_files(ledger):
        await _show_again(rebuilt, path, tokenizer, res.tools, budget)
    return rebuilt, summary


async def _summarise(res: Resources, focus: str) -> str:
    budget, ask = res.budget, prompt("compact")
    if focus:
        ask += "\n\n" + prompt("focus", focus=fit_tokens(res.tokenizer, focus, budget.summary // 4))
    draft = res.ledger.fork(_cut_that_fits(res.ledger, budget.context - 3 * budget.summary // 2))
    draft.append_notice(ask)
    room = budget.context - len(draft) - 1
    if room < 1:
        return _calls_made(res.ledger)
    sampling = SamplingParams(max_tokens=min(budget.summary, room), seed=res.config.seed)
    turn = await run_turn(res.engine, draft, sampling, lambda _: None)
    return turn.message.text.strip() or _calls_made(res.ledger)


def _cut_that_fits(ledger: TokenLedger, max_tokens: int) -> int:
    """The end of the last entry that leaves at most `max_tokens`; never inside a turn and its results."""
    if len(ledger) <= max_tokens and not ledger.pending_calls:
        return len(ledger)
    closed = [
        span.end
        for span, after in zip(ledger.spans, [*ledger.spans[1:], None], strict=True)
        if not (span.origin is Origin.PROMPT or span.origin.is_written or (after and after.origin is Origin.CLOSING))
    ]
    return max((end for end in closed if end <= max_tokens), default=closed[0])


def _said(ledger: TokenLedger, tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    """What the person said, the task first and then the latest that fits."""
    spans = [span for span in ledger.spans if span.origin is Origin.USER]
    texts = [tokenizer.decode(ledger.token_ids[span.start + 1 : span.end], skip_special=False) for span in spans]
    if not texts:
        return []
    kept = [fit_tokens(tokenizer, texts[0], max_tokens)]
    left = max_tokens - len(tokenizer.encode_text(kept[0]))
    for text in reversed(texts[1:]):
        left -= len(tokenizer.encode_text(text))
        if left < 0:
            break
        kept.insert(1, text)
    return kept


def _calls_made(ledger: TokenLedger) -> str:
    """A summary for a model that wrote none: its calls, the latest last."""
    calls = [_named(call) for call in _calls(ledger)]
    return "Calls so far:\n" + "\n".join(f"- {call}" for call in calls[-_MAX_CALLS_NAMED:])


def _named(call: ToolCall) -> str:
    given = ", ".join(f"{key}={str(value)[:60]!r}" for key, value in call.arguments.items())
    return f"{call.name}({given})"


def _calls(ledger: TokenLedger) -> list[ToolCall]:
    return [call for message in ledger.view() if isinstance(message, AssistantMessage) for call in message.calls]


def open_files(ledger: TokenLedger) -> list[str]:
    """Paths of the files that calls last named, the latest first."""
    named = [call.arguments.get("path") for call in reversed(_calls(ledger)) if call.name in _FILE_TOOLS]
    return list(dict.fromkeys(path for path in named if isinstance(path, str)))[:_MAX_OPEN_FILES]


async def _show_again(ledger: TokenLedger, path: str, tokenizer: Tokenizer, tools: ToolContext, budget: Budget) -> None:
    """Append a file as it is now, when it is there and fits."""
    result = await _viewed(path, tools)
    room = min(budget.result, budget.rebuilt - len(ledger)) // 2
    heading = f"{Path(path)} as it is now:\n"
    if result is None or result.error is not None or room < 2 * len(tokenizer.encode_text(heading)):
        return
    ledger.append_notice(fit_tokens(tokenizer, heading + result.for_model, room))


async def _viewed(path: str, tools: ToolContext) -> ToolResult | None:
    call = ToolCall(id="", name="view", arguments={"path": path})
    async with aclosing(registry.run_call(call, tools)) as items:
        async for item in items:
            if isinstance(item, ToolResult):
                return item
    return None
