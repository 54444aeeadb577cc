"""Which drafters to ask in a step, and how much of what they say to verify, within what may be lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kodkod_engine.core.sequence import Sequence as TokenSequence
from kodkod_engine.speculation.asking import ask
from kodkod_engine.speculation.calibration import Floats
from kodkod_engine.speculation.choice import Lengths, best_lengths
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.drafter import MAX_DRAFT_TOKENS, Drafter
from kodkod_engine.speculation.forecast import MAX_TOKENS, Forecast
from kodkod_engine.speculation.looking import LookingTime
from kodkod_engine.speculation.means import Kind, Means, num_bought
from kodkod_engine.speculation.proposal import NO_PROPOSAL, Proposal, Segment
from kodkod_engine.speculation.stream import COPYING, FORCED, LOOKED_UP, Asked, Planned

Reserve = Callable[[TokenSequence, int], bool]
"""Makes slots for drafts; False when there is no room."""


class DraftPlanner:
    """The drafters of an engine, and what is learnt of asking each.

    Two kinds, and each is asked only where it can be afforded: those that look up (what is forced, then a copy of what
    followed that), and those that compute.
    """

    def __init__(
        self,
        drafters: Mapping[str, Drafter],
        costs: CostTable,
        means: Means,
        *,
        vocab_size: int,
        always: bool,
        clock: Callable[[], float],
    ) -> None:
        """As of `Speculator`."""
        self._drafters = drafters
        self._means = means
        self._vocab_size = vocab_size
        self._always = always
        self._clock = clock
        self._looking = LookingTime(pace=lambda: costs.pace)
        self._forecasts = {name: Forecast(pace=lambda: costs.pace) for name in drafters if name not in LOOKED_UP}
        self._computed_for: dict[str, frozenset[str]] = {}
        """Of each drafter that computes, the streams it was asked for in the last step."""

    # --- whether to ask -----------------------------------------------------------------------------------------------

    def has_means(self, planned: Planned, asked: list[Asked], first_s: Sequence[float]) -> bool:
        """Whether anything can be risked at all, and promises anything.

        Args:
            planned: the step.
            asked: those in it that have room for a draft.
            first_s: seconds of the step with 0, 1, 2, ... drafted tokens, as many as a computed draft has.
        """
        looking = [one for one in asked if one.wait_tokens == 0]
        if looking and planned.is_prefill:
            return True  # to have the prompt read while it is computed
        if looking and self._means.risk_s(Kind.COPIED, looking, first_s[0]) >= self.least_risk_s(first_s):
            return True
        return any(FORCED in one.stream.drafters for one in asked) or self._may_compute(asked, first_s)

    def least_risk_s(self, first_s: Sequence[float]) -> float:
        """To look for a copy, and verify one token of it; the argument as in `has_means`."""
        return self._looking.seconds(first_s[0]) + first_s[1] - first_s[0]

    def pass_over(self, num_steps: int) -> None:
        """So many steps went by in which nobody was asked."""
        for forecast in self._forecasts.values():
            forecast.pass_over(num_steps)

    def _may_compute(self, asked: list[Asked], first_s: Sequence[float]) -> bool:
        risk_s = self._means.risk_s(Kind.COMPUTED, asked, first_s[0])
        return any(
            forecast.risk_s(first_s) <= risk_s and not forecast.is_idle(first_s)
            for name, forecast in self._forecasts.items()
            if any(name in one.stream.drafters for one in asked)
        )

    # --- what to verify -----------------------------------------------------------------------------------------------

    def proposals(self, planned: Planned, asked: list[Asked], step_s: Floats, reserve: Reserve) -> dict[str, Proposal]:
        """What is worth verifying of what the drafters say, by request id.

        Args:
            planned: the step; what asking took is added to it.
            asked: as in `has_means`; their guesses are made.
            step_s: seconds of the step with 0, 1, 2, ... drafted tokens.
            reserve: see `Reserve`.
        """
        started = self._clock()
        self._look_up(FORCED, planned, asked, MAX_DRAFT_TOKENS)
        num_forced = sum(one.proposal.num_tokens(FORCED) for one in asked)
        looking = [one for one in asked if self._always or one.wait_tokens == 0]
        plain_s = float(step_s[0])
        risk_s = self._means.risk_s(Kind.COPIED, looking, plain_s) - self._looking.seconds(plain_s)
        num_copied = num_bought(step_s, num_forced, risk_s)
        if looking and (num_copied > 0 or planned.is_prefill):
            self._look_up(COPYING, planned, looking, max(num_copied, 1))
            if not planned.is_prefill:  # before an answer begins, its whole prompt is read
                self._looking.learn(self._clock() - started)
        num_computed = self._compute_promising(planned, asked, step_s, reserve)
        num_verified = num_forced + max(num_copied, num_computed)
        proposals = _cut_to_worth(asked, step_s[: num_verified + 1], planned.num_choosing, reserve)
        for one in looking if num_copied > 0 else ():
            one.stream.looked_at = one.entry.sequence.num_tokens
            one.stream.vain_looks += one.request_id not in proposals
        return proposals

    def learn_accepted(self, segment: Segment, num_accepted: int) -> None:
        """So many tokens of a part of a draft were right."""
        if segment.drafter in self._forecasts:
            self._forecasts[segment.drafter].learn_accepted(len(segment.draft.token_ids), num_accepted)

    def _look_up(self, name: str, planned: Planned, asked: list[Asked], most: int) -> None:
        """Ask one that knows without computing, for what goes on from the guess so far."""
        able = [one for one in asked if name in one.stream.drafters and one.room > len(one.proposal.token_ids)]
        if not able:
            return
        limits = [min(most, one.stream.max_copy) if name == COPYING else most for one in able]
        tasks = [one.task(limit, goes_on=True) for one, limit in zip(able, limits, strict=True)]
        for one, draft in zip(able, ask(self._drafters[name], tasks, planned.streams, self._vocab_size), strict=True):
            if draft.token_ids:
                one.proposal = Proposal((*one.proposal.segments, Segment(name, draft)))

    def _compute_promising(self, planned: Planned, asked: list[Asked], step_s: Floats, reserve: Reserve) -> int:
        """Drafters that compute are asked where they promise more than what there is, if that can be risked.

        Returns:
            The most tokens of theirs that may be verified.
        """
        most = 0
        for name, forecast in self._forecasts.items():
            before, self._computed_for[name] = self._computed_for.get(name, frozenset()), frozenset()
            wanted = self._wanted(name, asked, step_s, reserve)
            if wanted:
                self._computed_for[name] = frozenset(one.request_id for one in wanted)
                self._compute(name, planned, wanted, step_s, catches_up=not self._computed_for[name] <= before)
                most = max(most, forecast.max_tokens * len(wanted))
        return most

    def _wanted(self, name: str, asked: list[Asked], step_s: Floats, reserve: Reserve) -> list[Asked]:
        """For whom one that computes is to be asked; slots for its drafts are reserved."""
        forecast = self._forecasts[name]
        able = [one for one in asked if name in one.stream.drafters and not one.proposal.num_tokens(FORCED)]
        if not able:
            return []
        # A token more for each of them: side by side, every stream's draft makes the step of all longer.
        first_s = step_s[: MAX_TOKENS * len(able) + 1 : len(able)].tolist()
        if forecast.risk_s(first_s) > self._means.risk_s(Kind.COMPUTED, able, first_s[0]):
            forecast.pass_over(1)
            return []
        return [
            one
            for one in able
            if forecast.is_worth_asking(first_s, _rate(one, step_s))
            and reserve(one.entry.sequence, min(one.room, forecast.max_tokens))
        ]

    def _compute(self, name: str, planned: Planned, wanted: list[Asked], step_s: Floats, *, catches_up: bool) -> None:
        forecast, started = self._forecasts[name], self._clock()
        tasks = [one.task(forecast.max_tokens, goes_on=False) for one in wanted]
        drafts = ask(self._drafters[name], tasks, planned.streams, self._vocab_size)
        seconds = self._clock() - started
        if any(draft.token_ids for draft in drafts):
            forecast.learn_cost(seconds, catches_up=catches_up)
        planned.computing_s += seconds
        planned.computed_for += tuple(one.request_id for one in wanted)
        for one, draft in zip(wanted, drafts, strict=True):
            # The time of drafting is spent; from here on only what a step brings counts.
            other = Proposal((Segment(name, draft),)) if draft.token_ids else NO_PROPOSAL
            if _rate(Asked(one.entry, one.stream, one.room, other), step_s) > _rate(one, step_s):
                one.proposal = other


def _rate(one: Asked, step_s: Floats) -> float:
    """Tokens per second of one sequence, with the best length."""
    return _lengths([one], step_s, 0).tokens_per_s if one.proposal.segments else 1 / float(step_s[0])


def _cut_to_worth(asked: list[Asked], step_s: Floats, num_choosing: int, reserve: Reserve) -> dict[str, Proposal]:
    drafted = [one for one in asked if one.proposal.segments]
    if not drafted:
        return {}
    lengths = _lengths(drafted, step_s, num_choosing - len(drafted))
    proposals: dict[str, Proposal] = {}
    for one, num_tokens in zip(drafted, lengths.num_tokens, strict=True):
        if num_tokens and reserve(one.entry.sequence, num_tokens):
            proposals[one.request_id] = one.proposal.cut(num_tokens)
    return proposals


def _lengths(drafted: Sequence[Asked], step_s: Floats, num_others: int) -> Lengths:
    return best_lengths([one.probabilities() for one in drafted], step_s, num_others=num_others)
