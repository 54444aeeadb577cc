"""How candidates begin.

A model that is left to itself draws with other seeds. For a guided one the best pairs of a view and an edit under it
are searched for: they are all different, and the best come first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from kodkod_agent.config import AgentConfig
from kodkod_agent.guidance import Guide, WorkTreeFiles
from kodkod_agent.session import SessionSetup
from kodkod_agent.ways import Ways
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ToolContext

_SEED_STRIDE = 1_000_003
"""Between the seeds of two candidates: further apart than a run has turns."""
_DRAW_TEMPERATURE = 0.8
"""For runs that are greedy otherwise; they would all be the same."""


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of one candidate."""

    config: AgentConfig
    turns: tuple[tuple[int, ...], ...] = ()
    """Ids of its first turns; the model writes those that follow."""
    logprob: float | None = None
    """Of these turns together, as the model decodes them."""


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
    """The best ways to go on (`ways.py`); each changed line once, and none that was tried.

    Where the search finds fewer, which it does for a model that is sure of nothing, the rest is drawn.

    Raises:
        EngineError: the engine failed.
    """
    setup, files = junction.setup, WorkTreeFiles(junction.tools)
    ways = Ways(setup.engine, Guide(setup.tokenizer, files, ranker=setup.ranker), junction.tools)
    tried = {ways.changed(call) for call in junction.tried if call.name == "edit"}
    best = await ways.best(junction.ledger, count + len(tried))
    found = [
        Start(setup.config, tuple(turn.token_ids for turn in way.turns), sum(turn.logprob for turn in way.turns))
        for way in best
        if way.change not in tried
    ]
    return [*found[:count], *await draw(junction, max(0, count - len(found)))]
