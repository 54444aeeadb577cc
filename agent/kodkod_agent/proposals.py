"""The most probable turns a model could write, without having it write any: best-first search over a constraint.

    A                     each node is the beginning of a turn; where the constraint leaves one id alone, that id
    ├── 0.7 ── B           is taken without asking the model
    │          ├── 0.6    the open node with the highest probability is opened next, by a request for one token
    │          └── 0.4    with the log-probabilities of all that is allowed
    └── 0.3 ── C

A turn can only lose probability as it grows. So a complete turn at the head of the queue is the most probable of all
that are left.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from kodkod_engine.api import Engine, FinishReason, GenerationRequest, SamplingParams, Usage, collect
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.errors import EngineError

_LEAST_MASS = 1e-12
"""For the logarithm of what a model holds impossible."""


@dataclass(frozen=True, slots=True)
class ScoredTurn:
    """A turn that could be the next."""

    token_ids: tuple[int, ...]
    """From the first id after the assistant tag to EOS."""
    logprob: float
    """Natural; of the choices the constraint left, each renormalised over what was allowed. From `free_logprob`: as if
    nothing had been ruled out."""
    usage: Usage = field(default=Usage(), compare=False)
    """What reading the prompt cost, and the tokens of this turn; not those of the others that were looked at."""


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """How far the search goes."""

    expansions: int = 400
    """Requests of one token."""
    at_once: int = 8
    """Requests in flight; the engine computes them in one step."""
    branches: int = 16
    """Most probable ids that are followed from each node."""
    turn_tokens: int = 256
    """Longer turns are given up."""


async def next_turns(
    engine: Engine,
    ledger: TokenLedger,
    constraint: CallConstraint,
    num_turns: int,
    limits: SearchLimits | None = None,
    *,
    parent_id: str | None = None,
) -> list[ScoredTurn]:
    """The most probable turns to come next in a conversation, which stays as it is. See `most_probable_turns`."""
    draft = ledger.fork(len(ledger))
    draft.begin_turn()
    return await most_probable_turns(engine, draft.token_ids, constraint, num_turns, limits, parent_id=parent_id)


async def most_probable_turns(
    engine: Engine,
    prompt_ids: Sequence[int],
    constraint: CallConstraint,
    num_turns: int,
    limits: SearchLimits | None = None,
    *,
    parent_id: str | None = None,
) -> list[ScoredTurn]:
    """Complete turns under a constraint, the most probable first.

    Args:
        engine: the model.
        prompt_ids: the conversation, with the tag that asks for a turn.
        constraint: what a turn may be.
        num_turns: how many; fewer are found when the limits are met or there are no more.
        limits: how far to look.
        parent_id: the stream the prompt continues, if it is known.

    Raises:
        EngineError: the engine failed, or the prompt is too long.
    """
    search = _Search(engine, tuple(prompt_ids), constraint, limits or SearchLimits(), parent_id)
    return await search.run(num_turns)


async def free_logprob(
    engine: Engine, prompt_ids: Sequence[int], turn_ids: Sequence[int], *, parent_id: str | None = None
) -> ScoredTurn:
    """A turn that is known, with the log-probability that the model gives it where nothing is ruled out.

    Args:
        engine: the model.
        prompt_ids: the conversation, with the tag that asks for a turn.
        turn_ids: the turn.
        parent_id: the stream the prompt continues, if it is known.

    Raises:
        EngineError: the engine failed, or the prompt is too long.
    """
    turn = tuple(turn_ids)
    # What the model gives to all that is allowed is what it gives to the one id that is.
    sampling = SamplingParams(max_tokens=len(turn), doubt_below=1.0, ignore_eos=True)
    request = GenerationRequest(tuple(prompt_ids), sampling, _Given(turn), parent_id)
    answer = await collect(engine.generate(request))
    if answer.finish_reason in (FinishReason.ERROR, FinishReason.CANCELLED):
        raise EngineError(answer.error or "the engine was closed while it read a turn; load it again")
    logprob = sum(math.log(max(doubt.allowed_mass, _LEAST_MASS)) for doubt in answer.doubts)
    return ScoredTurn(turn, logprob, answer.usage)


@dataclass(frozen=True, slots=True)
class _Given:
    """Allows one turn. See `api.Constraint`."""

    ids: tuple[int, ...]

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int]:
        return self.ids[len(generated_ids) : len(generated_ids) + 1]


@dataclass(frozen=True, slots=True, order=True)
class _Node:
    """The beginning of a turn, in the order in which they are looked at."""

    cost: float
    """Minus the log-probability."""
    number: int
    """Of equal ones the older comes first."""
    ids: tuple[int, ...] = field(compare=False)
    is_complete: bool = field(compare=False)


@dataclass(frozen=True, slots=True)
class _After:
    """A constraint seen from behind some ids. See `api.Constraint`."""

    constraint: CallConstraint
    ids: tuple[int, ...]

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int]:
        return self.constraint.allowed_ids((*self.ids, *generated_ids))


class _Search:
    """One search, from its start to its end."""

    def __init__(
        self,
        engine: Engine,
        prompt_ids: tuple[int, ...],
        constraint: CallConstraint,
        limits: SearchLimits,
        parent_id: str | None,
    ) -> None:
        self._engine = engine
        self._prompt_ids = prompt_ids
        self._constraint = constraint
        self._limits = limits
        self._parent_id = parent_id
        self._queue: list[_Node] = []
        self._numbers = count()
        self._left = limits.expansions
        self._prompt_usage: Usage | None = None
        room = engine.max_context_tokens - len(prompt_ids) - 1
        self._most_tokens = min(limits.turn_tokens, room)

    async def run(self, num_turns: int) -> list[ScoredTurn]:
        found: list[ScoredTurn] = []
        self._add((), 0.0)
        while self._queue and len(found) < num_turns:
            if self._queue[0].is_complete:
                best = heapq.heappop(self._queue)
                read = replace(self._prompt_usage or Usage(), generated_tokens=len(best.ids))
                found.append(ScoredTurn(best.ids, -best.cost, read))
            elif not (opened := self._take_open()):
                self._queue = sorted(node for node in self._queue if node.is_complete)
            else:
                await asyncio.gather(*(self._expand(node) for node in opened))
        return found

    def _take_open(self) -> list[_Node]:
        """The best open nodes, as many as may be looked at in one step; none when the limit is met."""
        most = min(self._limits.at_once, self._left)
        opened: list[_Node] = []
        kept: list[_Node] = []
        while self._queue and len(opened) < most:
            node = heapq.heappop(self._queue)
            (kept if node.is_complete else opened).append(node)
        for node in kept:
            heapq.heappush(self._queue, node)
        self._left -= len(opened)
        return opened

    async def _expand(self, node: _Node) -> None:
        sampling = SamplingParams(max_tokens=1, logprobs=self._limits.branches)
        request = GenerationRequest(
            (*self._prompt_ids, *node.ids), sampling, _After(self._constraint, node.ids), self._parent_id
        )
        answer = await collect(self._engine.generate(request))
        if answer.finish_reason in (FinishReason.ERROR, FinishReason.CANCELLED):
            raise EngineError(answer.error or "the engine was closed in the middle of a search; load it again")
        self._prompt_usage = self._prompt_usage or answer.usage
        for token_id, logprob in answer.logprobs[0].top:
            self._add((*node.ids, token_id), node.cost - logprob)

    def _add(self, ids: tuple[int, ...], cost: float) -> None:
        """Go on through what is forced, and queue the place where there is a choice or the turn ends."""
        while not (is_complete := ids[-1:] == (self._constraint.eos_id,)):
            allowed = self._constraint.allowed_ids(ids)
            if len(allowed) != 1 or len(ids) >= self._most_tokens:
                break
            ids = (*ids, *allowed)
        if is_complete or len(ids) < self._most_tokens:
            heapq.heappush(self._queue, _Node(cost, next(self._numbers), ids, is_complete))
