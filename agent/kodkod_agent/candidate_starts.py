"""How candidates begin.

A model that is left to itself draws with other seeds. For a guided one the most probable pairs of a view and an edit
under it are searched for: they are all different, and the best come first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from kodkod_agent.config import AgentConfig
from kodkod_agent.guidance import Guide, WorkTreeFiles
from kodkod_agent.proposals import ScoredTurn, next_turns
from kodkod_agent.session import SessionSetup
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.messages import ToolCall, ToolMessage
from kodkod_tools import registry
from kodkod_tools.base import ToolContext, ToolResult

_SEED_STRIDE = 1_000_003
"""Between the seeds of two candidates: further apart than a run has turns."""
_MAX_VIEWS = 4
"""Under which edits are searched for."""
_DRAW_TEMPERATURE = 0.8
"""For runs that are greedy otherwise; they would all be the same."""


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of one candidate."""

    config: AgentConfig
    turns: tuple[tuple[int, ...], ...] = ()
    """Ids of its first turns; the model writes those that follow."""
    logprob: float | None = None
    """Of these turns together."""


@dataclass(frozen=True, slots=True)
class Junction:
    """Where candidates leave the run."""

    ledger: TokenLedger
    """The conversation up to there; not for changing."""
    setup: SessionSetup
    """Of the run."""
    tools: ToolContext
    """On a copy of the work tree, as it was there."""
    tried: tuple[ToolCall, ...] = ()
    """The calls the run itself made from there on."""


Begin = Callable[[Junction, int], Awaitable[Sequence[Start]]]
"""Finds so many ways to go on, or fewer; the most promising first."""


async def draw(junction: Junction, count: int) -> Sequence[Start]:
    """The same model, with other seeds; at a temperature, if it has none."""
    config = junction.setup.config
    temperature = config.temperature or _DRAW_TEMPERATURE
    seeds = (config.seed + number * _SEED_STRIDE for number in range(1, count + 1))
    return [Start(config.model_copy(update={"temperature": temperature, "seed": seed})) for seed in seeds]


async def most_probable(junction: Junction, count: int) -> Sequence[Start]:
    """Views and edits under them, by their probability together; each changed line once, and none that was tried.

    Where the search finds fewer, which it does for a model that is sure of nothing, the rest is drawn.

    Raises:
        EngineError: the engine failed.
    """
    setup, files = junction.setup, WorkTreeFiles(junction.tools)
    guide = Guide(setup.tokenizer, files)
    seen = {_changed(call, files) for call in junction.tried if call.name == "edit"}
    found: list[Start] = []
    for view in await _turns(junction.ledger, "view", guide, setup, _MAX_VIEWS):
        if len(found) >= count and view.logprob < (found[count - 1].logprob or 0.0):
            break  # whatever is under it is less probable still
        under = await _seen(junction.ledger, view, junction.tools)
        for edit in await _turns(under, "edit", guide, setup, count + len(junction.tried)):
            change = _changed(_call_of(under, edit), files)
            if change not in seen:
                seen.add(change)
                turns = (view.token_ids, edit.token_ids)
                found.append(Start(setup.config, turns, view.logprob + edit.logprob))
        found.sort(key=lambda start: -(start.logprob or 0.0))
    return [*found[:count], *await draw(junction, count - len(found))]


async def _turns(
    ledger: TokenLedger, name: str, guide: Guide, setup: SessionSetup, num_turns: int
) -> Sequence[ScoredTurn]:
    """The most probable turns that call this tool."""
    patterns = await asyncio.to_thread(guide.patterns, ledger.view())
    wanted = [pattern for pattern in patterns if pattern.name == name]
    if not wanted:
        return ()
    return await next_turns(setup.engine, ledger, CallConstraint(setup.tokenizer, wanted), num_turns)


def _written(ledger: TokenLedger, turn: ScoredTurn) -> tuple[TokenLedger, Sequence[ToolCall]]:
    draft = ledger.fork(len(ledger))
    draft.begin_turn()
    draft.append_generated(turn.token_ids)
    return draft, draft.end_turn().calls


def _call_of(ledger: TokenLedger, turn: ScoredTurn) -> ToolCall:
    return _written(ledger, turn)[1][0]


async def _seen(ledger: TokenLedger, turn: ScoredTurn, tools: ToolContext) -> TokenLedger:
    """The conversation with a turn that only looks, and what it saw."""
    draft, calls = _written(ledger, turn)
    for call in calls:
        async with aclosing(registry.run_call(call, tools)) as items:
            async for item in items:
                if isinstance(item, ToolResult):
                    draft.append_tool_results([ToolMessage(call_id=call.id, text=item.for_model)])
    return draft


def _changed(edit: ToolCall, files: WorkTreeFiles) -> tuple[str, str, str]:
    """Path, line, and what the line becomes: two edits may write the same."""
    path, line, old, new = (str(edit.arguments.get(name, "")) for name in ("path", "line", "old", "new"))
    lines = (files.text(path) or "").split("\n")
    at = int(line) - 1 if line.isdigit() else -1
    before = lines[at] if 0 <= at < len(lines) else old
    return path, line, before.replace(old, new)
