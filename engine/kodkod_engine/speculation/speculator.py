"""Drafts for each step: asks the drafters, weighs what they say against what a step costs, and counts what came of it.

Learnt on the way and shared by all streams: what a step of n tokens costs (`costs`), what a drafter's confidence is
worth (`calibration`), what to expect of one that computes (`forecast`), and what may still be lost (`allowance`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

from kodkod_engine.api import DraftUsage, GenerationRequest, Speculation
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.core.sequence import Sequence as TokenSequence
from kodkod_engine.speculation.asking import ask
from kodkod_engine.speculation.calibration import Calibration, Floats
from kodkod_engine.speculation.choice import Lengths, best_lengths
from kodkod_engine.speculation.costs import OUTLIER, CostTable
from kodkod_engine.speculation.drafter import MAX_DRAFT_TOKENS, Drafter
from kodkod_engine.speculation.forecast import MAX_TOKENS, Forecast
from kodkod_engine.speculation.means import Brought, Kind, Means, num_bought
from kodkod_engine.speculation.proposal import NO_PROPOSAL, Proposal, Segment
from kodkod_engine.speculation.rest import Rest
from kodkod_engine.speculation.step_times import StepTimes
from kodkod_engine.speculation.stream import COPYING, FORCED, Asked, Planned, Stream

logger = logging.getLogger(__name__)

Reserve = Callable[[TokenSequence, int], bool]
"""Makes slots for drafts; False when there is no room."""

FRESHNESS = 0.1
"""Weight of a new time of looking up against what is known."""

MOST_LOOKING = 4.0
"""It is never thought to take more than the plain step's part, nor than so many times what it took last."""

PLAIN = Planned()
"""A step about which nothing was decided."""


class Speculator:
    """Belongs to the engine thread."""

    def __init__(
        self,
        drafters: Sequence[Drafter],
        costs: CostTable,
        *,
        default: Speculation,
        vocab_size: int,
        always: bool = False,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`always`: whatever it costs. `clock`: seconds, from any beginning; those in which this thread runs."""
        self.costs = costs
        self._drafters = {drafter.name: drafter for drafter in drafters}
        self._default = default
        self._vocab_size = vocab_size
        self._always = always
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._calibrations = {name: Calibration() for name in self._drafters}
        self._forecasts = {
            name: Forecast(pace=lambda: costs.pace) for name in self._drafters if name not in (FORCED, COPYING)
        }
        self._computed_for: dict[str, frozenset[str]] = {}
        """Of each drafter that computes, the streams it was asked for in the last step."""
        self._means = Means(is_open_ended=always)
        self._usual_looking_s = 0.0
        self._resting = Rest()
        self._planned = PLAIN

    # --- streams ------------------------------------------------------------------------------------------------------

    def begin(self, request_id: str, request: GenerationRequest, stop_ids: frozenset[int]) -> None:
        """A request has come."""
        mode = request.speculation or self._default
        names = {
            Speculation.NONE: (),
            Speculation.AUTO: tuple(self._drafters),
        }.get(mode, (FORCED, str(mode)))
        chosen = {name: self._drafters[name] for name in names if name in self._drafters}
        if request.constraint is None:
            chosen.pop(FORCED, None)
        calibrations = {name: Calibration(self._calibrations[name]) for name in chosen}
        self._streams[request_id] = Stream(request, mode, stop_ids, chosen, calibrations)

    def end(self, request_id: str) -> tuple[tuple[DraftUsage, ...], float]:
        """A request has ended: what each drafter did for it, and the seconds plain decoding would have taken."""
        stream = self._streams.pop(request_id, None)
        if stream is None:
            return (), 0.0
        for name, drafter in self._drafters.items():
            try:
                drafter.end(request_id)
            except Exception:  # its stream is over, and nobody is there to be told
                logger.exception("the drafter %s failed at the end of a stream", name)
        names = [name for name in self._drafters if name in stream.drafted or name in stream.faults]
        return tuple(stream.usage(name) for name in names), stream.plain_s

    @property
    def wants_costs(self) -> bool:
        """Whether it is time to measure what steps cost."""
        return not self.costs.is_measured and any(stream.drafters for stream in self._streams.values())

    # --- proposals ----------------------------------------------------------------------------------------------------

    def propose(self, entries: Sequence[StepEntry], room: int, reserve: Reserve) -> Mapping[str, Proposal]:
        """Drafts for the next step, by request id. To be asked before every step.

        Args:
            entries: all of the step.
            room: tokens that may be added to it.
            reserve: see `Reserve`.
        """
        if self._resting.goes_on(entries):
            self._planned = PLAIN
            return {}
        started = self._clock()
        planned = self._planned = self._plan(entries)
        asked = [one for entry in entries if (one := self._asked(entry, room)) is not None]
        if not asked:
            return {}
        context = max(entry.start + entry.num_tokens for entry in entries)
        if not self._always and not planned.is_prefill and self.costs.is_due(planned.num_tokens, context):
            return {}  # a plain step, to compare the others with
        planned.looked_for = tuple(one.request_id for one in asked)
        first_s = [self.costs.seconds(planned.num_tokens + more, context) for more in range(min(room, MAX_TOKENS) + 1)]
        if (rested := self._resting.take_steps()) and not planned.is_prefill:
            self._means.rested(asked, rested, first_s[0])
            for forecast in self._forecasts.values():
                forecast.pass_over(rested)
        if not planned.is_prefill:
            for one in asked:
                one.stream.grant(first_s[0])
        if self._has_means(asked, first_s):
            step_s = self.costs.curve(planned.num_tokens, min(room, MAX_DRAFT_TOKENS * len(asked)), context)
            planned.drafted = self._proposals(asked, step_s, reserve)
        elif not planned.is_prefill:
            self._rest(asked, first_s)
        planned.looking_s = self._clock() - started - planned.computing_s
        return planned.drafted

    @property
    def plain_steps(self) -> float:
        """How many steps, the one last proposed for among them, are sure to have no drafts if that one has none."""
        if self._planned is PLAIN:
            return 1 + self._resting.left_steps
        return 1 if self._planned.streams else math.inf

    def _has_means(self, asked: list[Asked], first_s: Sequence[float]) -> bool:
        """Whether anything can be risked at all, and promises anything."""
        looking = [one for one in asked if one.wait_tokens == 0]
        if looking and self._planned.is_prefill:
            return True  # to have the prompt read while it is computed
        if looking and self._means.risk_s(Kind.COPIED, looking, first_s[0]) >= self._least_risk_s(first_s):
            return True
        return any(FORCED in one.stream.drafters for one in asked) or self._may_compute(asked, first_s)

    def _may_compute(self, asked: list[Asked], first_s: Sequence[float]) -> bool:
        risk_s = self._means.risk_s(Kind.COMPUTED, asked, first_s[0])
        return any(
            forecast.risk_s(first_s) <= risk_s and not forecast.is_idle(first_s)
            for name, forecast in self._forecasts.items()
            if any(name in one.stream.drafters for one in asked)
        )

    def _least_risk_s(self, first_s: Sequence[float]) -> float:
        """To look for a copy, and verify one token of it."""
        return self._looking_s(first_s[0]) + first_s[1] - first_s[0]

    def _rest(self, asked: list[Asked], first_s: Sequence[float]) -> None:
        """Leave the next steps alone, until it is time to look for a copy, and a token of it can be verified."""
        risk_s = self._least_risk_s(first_s)
        waits = [
            max(wait, self._means.steps_until(Kind.COPIED, risk_s, one, first_s[0]))
            for one in asked
            if (wait := one.wait_tokens) is not None
        ]
        self._resting.begin((one.request_id for one in asked), min(waits, default=math.inf) - 1)

    def _plan(self, entries: Sequence[StepEntry]) -> Planned:
        choosing = [entry.sequence.id for entry in entries if entry.samples]
        streams = {name: self._streams[name] for name in choosing if name in self._streams}
        num_tokens = sum(entry.num_tokens for entry in entries)
        return Planned(
            num_tokens,
            len(choosing),
            {name: stream for name, stream in streams.items() if stream.drafters},
            is_prefill=num_tokens > len(choosing),
        )

    def _asked(self, entry: StepEntry, room: int) -> Asked | None:
        sequence = entry.sequence
        stream = self._planned.streams.get(sequence.id)
        if stream is None:
            return None
        own_room = min(room, MAX_DRAFT_TOKENS, sequence.max_total_tokens - sequence.num_tokens - 1)
        return Asked(entry, stream, own_room) if own_room > 0 else None

    def _proposals(self, asked: list[Asked], step_s: Floats, reserve: Reserve) -> dict[str, Proposal]:
        started = self._clock()
        self._look_up(FORCED, asked, MAX_DRAFT_TOKENS)
        num_forced = sum(one.proposal.num_tokens(FORCED) for one in asked)
        looking = [one for one in asked if self._always or one.wait_tokens == 0]
        plain_s = float(step_s[0])
        risk_s = self._means.risk_s(Kind.COPIED, looking, plain_s) - self._looking_s(plain_s)
        num_copied = num_bought(step_s, num_forced, risk_s)
        if looking and (num_copied > 0 or self._planned.is_prefill):
            self._look_up(COPYING, looking, max(num_copied, 1))
            self._learn_looking(self._clock() - started)
        num_computed = self._compute_promising(asked, step_s, reserve)
        proposals = self._cut_to_worth(asked, step_s[: num_forced + max(num_copied, num_computed) + 1], reserve)
        for one in looking if num_copied > 0 else ():
            one.stream.looked_at = one.entry.sequence.num_tokens
            one.stream.vain_looks += one.request_id not in proposals
        return proposals

    def _look_up(self, name: str, asked: list[Asked], most: int) -> None:
        """Drafters that know without computing: what is forced, then a copy of what followed that."""
        able = [one for one in asked if name in one.stream.drafters and one.room > len(one.proposal.token_ids)]
        if not able:
            return
        limits = [min(most, one.stream.max_copy) if name == COPYING else most for one in able]
        tasks = [one.task(limit, goes_on=True) for one, limit in zip(able, limits, strict=True)]
        for one, draft in zip(able, ask(self._drafters[name], tasks, self._streams, self._vocab_size), strict=True):
            if draft.token_ids:
                one.proposal = Proposal((*one.proposal.segments, Segment(name, draft)))

    def _learn_looking(self, seconds: float) -> None:
        if not self._planned.is_prefill:  # before an answer begins, its whole prompt is read
            seconds /= self.costs.pace
            known = min(self._usual_looking_s, MOST_LOOKING * seconds) or seconds
            self._usual_looking_s = known + FRESHNESS * (min(seconds, OUTLIER * known) - known)

    def _looking_s(self, plain_s: float) -> float:
        """What looking for a copy takes at the moment. Thought too dear, it would never be done again."""
        return min(self._usual_looking_s * self.costs.pace, plain_s / MOST_LOOKING)

    def _compute_promising(self, asked: list[Asked], step_s: Floats, reserve: Reserve) -> int:
        """Drafters that compute are asked where they promise more than what there is, if that can be risked.

        Returns:
            The most tokens of theirs that may be verified.
        """
        most = 0
        for name, forecast in self._forecasts.items():
            before, self._computed_for[name] = self._computed_for.get(name, frozenset()), frozenset()
            able = [one for one in asked if name in one.stream.drafters and not one.proposal.num_tokens(FORCED)]
            if not able:
                continue
            # A token more for each of them: side by side, every stream's draft makes the step of all longer.
            first_s = step_s[: MAX_TOKENS * len(able) + 1 : len(able)].tolist()
            if forecast.risk_s(first_s) > self._means.risk_s(Kind.COMPUTED, able, first_s[0]):
                forecast.pass_over(1)
                continue
            wanted = [
                one
                for one in able
                if forecast.is_worth_asking(first_s, self._rate(one, step_s))
                and reserve(one.entry.sequence, min(one.room, forecast.max_tokens))
            ]
            if wanted:
                self._computed_for[name] = frozenset(one.request_id for one in wanted)
                self._compute(name, wanted, step_s, catches_up=not self._computed_for[name] <= before)
                most = max(most, forecast.max_tokens * len(wanted))
        return most

    def _compute(self, name: str, wanted: list[Asked], step_s: Floats, *, catches_up: bool) -> None:
        forecast, started = self._forecasts[name], self._clock()
        tasks = [one.task(forecast.max_tokens, goes_on=False) for one in wanted]
        drafts = ask(self._drafters[name], tasks, self._streams, self._vocab_size)
        seconds = self._clock() - started
        if any(draft.token_ids for draft in drafts):
            forecast.learn_cost(seconds, catches_up=catches_up)
        self._planned.computing_s += seconds
        self._planned.computed_for += tuple(one.request_id for one in wanted)
        for one, draft in zip(wanted, drafts, strict=True):
            # The time of drafting is spent; from here on only what a step brings counts.
            other = Proposal((Segment(name, draft),)) if draft.token_ids else NO_PROPOSAL
            if self._rate(Asked(one.entry, one.stream, one.room, other), step_s) > self._rate(one, step_s):
                one.proposal = other

    def _rate(self, one: Asked, step_s: Floats) -> float:
        """Tokens per second of one sequence, with the best length."""
        return self._lengths([one], step_s, 0).tokens_per_s if one.proposal.segments else 1 / float(step_s[0])

    def _cut_to_worth(self, asked: list[Asked], step_s: Floats, reserve: Reserve) -> dict[str, Proposal]:
        drafted = [one for one in asked if one.proposal.segments]
        if not drafted:
            return {}
        lengths = self._lengths(drafted, step_s, self._planned.num_choosing - len(drafted))
        proposals: dict[str, Proposal] = {}
        for one, num_tokens in zip(drafted, lengths.num_tokens, strict=True):
            if num_tokens and reserve(one.entry.sequence, num_tokens):
                proposals[one.request_id] = one.proposal.cut(num_tokens)
        return proposals

    @staticmethod
    def _lengths(drafted: Sequence[Asked], step_s: Floats, num_others: int) -> Lengths:
        return best_lengths([one.probabilities() for one in drafted], step_s, num_others=num_others)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def plain_step_s(self, num_choosing: int, context: int) -> float:
        """Seconds that a step without drafts takes, as measured in this engine."""
        return self.costs.seconds(num_choosing, context)

    def emitted(self, request_id: str, num_tokens: int, plain_step_s: float) -> None:
        """A stream got tokens that would each have taken a plain step."""
        stream = self._streams[request_id]
        # The first token of an answer belongs to the prompt's time.
        stream.plain_s += (num_tokens - stream.is_first) * plain_step_s
        stream.is_first = False

    def verified(self, request_id: str, proposal: Proposal, num_accepted: int, num_emitted: int) -> None:
        """A proposal was verified.

        Args:
            request_id: of the stream.
            proposal: what was in the step.
            num_accepted: drafted tokens that the model chose too.
            num_emitted: of these, before the answer ended.
        """
        stream = self._streams[request_id]
        left, emitted = num_accepted, num_emitted
        for segment in proposal.segments:
            length = len(segment.draft.token_ids)
            stream.count(segment, min(length, emitted))
            self._judge(stream, segment, min(length, left))
            if left < length:
                # What comes after a wrong token was not judged; it counts as drafted all the same.
                left = emitted = 0
                continue
            left, emitted = left - length, max(0, emitted - length)

    def _judge(self, stream: Stream, segment: Segment, num_accepted: int) -> None:
        stream.judge(segment, num_accepted)
        self._calibrations[segment.drafter].learn(segment.draft.confidences, num_accepted)
        if segment.drafter in self._forecasts:
            self._forecasts[segment.drafter].learn_accepted(len(segment.draft.token_ids), num_accepted)

    def took(self, step: StepTimes) -> None:
        """A step is over, the one that `propose` was last asked for."""
        planned = self._planned
        self._resting.pass_over(step.num_steps - 1)
        seconds, is_plain = step.seconds - planned.looking_s - planned.computing_s, not planned.drafted
        self.costs.learn(step.num_tokens, step.context, seconds / step.num_steps, is_plain=is_plain)
        if not planned.streams:
            return
        plain_s, more_s = self.plain_step_s(planned.num_choosing, step.context), self._more_s(step)
        self._means.settle(
            [
                self._brought(stream, name, step.emitted.get(name, 0), more_s, plain_s)
                for name, stream in planned.streams.items()
            ],
            plain_s,
        )

    def _brought(self, stream: Stream, request_id: str, num_tokens: int, more_s: float, plain_s: float) -> Brought:
        """What the step brought one stream, and what it cost it."""
        planned, token_s = self._planned, plain_s / self._planned.num_choosing
        drafted = planned.drafted.get(request_id, NO_PROPOSAL)
        brought_s = max(0, num_tokens - 1) * token_s - more_s * len(drafted.token_ids)
        looking_s, computing_s = planned.shares_s(request_id)
        gained_s = {Kind.COPIED: -looking_s, Kind.COMPUTED: -computing_s}
        is_computed = any(segment.drafter in self._forecasts for segment in drafted.segments)
        gained_s[Kind.COMPUTED if is_computed else Kind.COPIED] += brought_s
        return Brought(stream, gained_s, num_tokens * token_s)

    def _more_s(self, step: StepTimes) -> float:
        """Seconds per drafted token that the step was longer for its drafts.

        By the table, like what is gained: by the clock, each interruption of the machine would be speculation's loss.
        """
        num_drafted = step.num_tokens - self._planned.num_tokens
        if num_drafted <= 0:
            return 0.0
        step_s = self.costs.curve(self._planned.num_tokens, num_drafted, step.context)
        return float(step_s[-1] - step_s[0]) / num_drafted
