"""Decoding without a model: what steps and drafts cost and what is accepted are given, and so is the time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kodkod_engine.api import GenerationRequest, Speculation
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.core.sequence import Sequence as TokenSequence
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.drafter import Draft, DraftTask
from kodkod_engine.speculation.speculator import Speculator
from kodkod_engine.speculation.step_times import StepTimes

PROMPT_TOKENS = 64


@dataclass
class Clock:
    """Seconds that pass when something is said to take them."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class PacedDrafter:
    """Drafts with one confidence, in a given time."""

    clock: Clock
    name: str
    confidence: float
    draft_s: float
    catch_up_s: float = 0.0
    """More, where it was not asked in the step before."""
    num_asked: int = 0
    _last_tokens: int = 0

    def draft(self, tasks: Sequence[DraftTask]) -> list[Draft]:
        self.num_asked += 1
        num_tokens = tasks[0].sequence.num_tokens
        self.clock.now += self.draft_s + (self.catch_up_s if num_tokens > self._last_tokens + 8 else 0.0)
        self._last_tokens = num_tokens
        return [Draft((1,) * task.max_tokens, (self.confidence,) * task.max_tokens) for task in tasks]

    def end(self, request_id: str) -> None:
        self._last_tokens = 0


@dataclass
class Machine:
    """A speculator on a machine whose steps take `step_s(tokens)`."""

    step_s: Callable[[int], float]
    drafters: list[PacedDrafter]
    clock: Clock
    interruptions: float = 0.0
    """Share of steps that something else makes ten times as long."""
    sources: tuple[tuple[int, ...], ...] = ()
    """What each request names as sources of copies."""
    draws: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        costs = CostTable()
        self.speculator = Speculator(self.drafters, costs, default=Speculation.AUTO, vocab_size=10, clock=self.clock)
        costs.measure(self.step_s, PROMPT_TOKENS, limit_s=60.0)
        self._num_streams = 0

    def decode(self, num_tokens: int, acceptance: dict[str, float], batch: int = 1) -> tuple[float, float]:
        """Answers side by side, each of so many tokens.

        Args:
            num_tokens: of each.
            acceptance: of a drafted token if those before it are right, by drafter.
            batch: how many.

        Returns:
            Seconds they took, interruptions left out, and seconds that plain steps would have taken.
        """
        streams = [self._begin(num_tokens) for _ in range(batch)]
        taken = plain = 0.0
        while live := [one for one in streams if one.num_tokens < one.max_total_tokens]:
            before = sum(one.num_tokens for one in live)
            taken += self._step(live, acceptance)
            plain += (sum(one.num_tokens for one in live) - before) * self.step_s(len(live)) / len(live)
        for one in streams:
            self.speculator.end(one.id)
        return taken, plain

    def prefill(self) -> dict[str, object]:
        """What is drafted for the step that computes a prompt."""
        sequence = self._begin(10)
        entries = [StepEntry(sequence, 0, sequence.num_tokens, samples=True)]
        return dict(self.speculator.propose(entries, 512, lambda _sequence, _num_tokens: True))

    def _begin(self, num_tokens: int) -> TokenSequence:
        self._num_streams += 1
        name = f"stream-{self._num_streams}"
        request = GenerationRequest((1,) * PROMPT_TOKENS, draft_sources=self.sources)
        self.speculator.begin(name, request, frozenset())
        return TokenSequence(name, [1] * PROMPT_TOKENS, PROMPT_TOKENS, PROMPT_TOKENS + num_tokens)

    def _step(self, live: list[TokenSequence], acceptance: dict[str, float]) -> float:
        begun = self.clock.now
        entries = [StepEntry(one, one.num_tokens - 1, 1, samples=True) for one in live]
        proposals = self.speculator.propose(entries, 512, lambda _sequence, _num_tokens: True)
        drafted = sum(len(proposal.token_ids) for proposal in proposals.values())
        self.clock.now += self.step_s(len(live) + drafted)
        taken = self.clock.now - begun
        emitted = {one.id: 1 for one in live}
        for one in live:
            if proposal := proposals.get(one.id):
                chances = [acceptance[part.drafter] for part in proposal.segments for _ in part.draft.token_ids]
                accepted = next((n for n, p in enumerate(chances) if self.draws.random() >= p), len(chances))
                emitted[one.id] += accepted
                self.speculator.verified(one.id, proposal, accepted, accepted)
        for one in live:
            self.speculator.emitted(one.id, emitted[one.id], 0.0)
            one.token_ids.extend([1] * emitted[one.id])
        if self.draws.random() < self.interruptions:
            self.clock.now += 9 * taken
        context = max(one.num_tokens for one in live)
        self.speculator.took(StepTimes(len(live) + drafted, context, emitted, self.clock.now - begun))
        return taken
