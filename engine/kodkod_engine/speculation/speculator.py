"""Drafts for each step: asks the drafters, weighs what they say against what a step costs, and counts what came of it.

Three things are learnt on the way and shared by all streams: what a step of n tokens costs (`costs`), what a drafter's
confidence is worth (`calibration`), and what each drafter has gained or lost so far (`account`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kodkod_engine.api import DraftUsage, GenerationRequest, Speculation
from kodkod_engine.core.scheduler import StepEntry
from kodkod_engine.core.sequence import Sequence as TokenSequence
from kodkod_engine.speculation.account import Account
from kodkod_engine.speculation.calibration import Calibration, Floats
from kodkod_engine.speculation.choice import Lengths, best_lengths
from kodkod_engine.speculation.costs import OUTLIER, CostTable
from kodkod_engine.speculation.drafter import MAX_DRAFT_TOKENS, NO_DRAFT, Draft, Drafter, DraftTask
from kodkod_engine.speculation.forecast import Forecast

logger = logging.getLogger(__name__)

Reserve = Callable[[TokenSequence, int], bool]
"""Makes slots for drafts; False when there is no room."""

FIRST_DRAFT_TOKENS = 16
"""A stream's longest copy at first; twice as many after each that was accepted whole, up to `MAX_DRAFT_TOKENS`."""

FORCED = "forced"
COPYING = "suffix"


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens of one draft that one drafter said."""

    drafter: str
    draft: Draft


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafted tokens of one sequence, to be verified."""

    segments: tuple[Segment, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Of all segments."""
        return tuple(token_id for segment in self.segments for token_id in segment.draft.token_ids)

    def cut(self, num_tokens: int) -> Proposal:
        """The first tokens of it."""
        kept: list[Segment] = []
        for segment in self.segments:
            draft = _cut(segment.draft, num_tokens)
            num_tokens -= len(draft.token_ids)
            if draft.token_ids:
                kept.append(Segment(segment.drafter, draft))
        return Proposal(tuple(kept))


NO_PROPOSAL = Proposal()


@dataclass(slots=True)
class _Stream:
    """What is known of one request."""

    request: GenerationRequest
    mode: Speculation
    stop_ids: frozenset[int]
    drafters: dict[str, Drafter]
    max_copy: int = FIRST_DRAFT_TOKENS
    drafted: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    plain_s: float = 0.0
    is_first: bool = True
    """No token was emitted yet."""


@dataclass(slots=True)
class _Asked:
    """One sequence of the step that is planned, with the best guess so far."""

    entry: StepEntry
    stream: _Stream
    room: int
    proposal: Proposal = NO_PROPOSAL
    rate: float = 0.0

    def task(self, max_tokens: int) -> DraftTask:
        return DraftTask(self.entry.sequence, self.stream.request, max_tokens, self.proposal.token_ids)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a step was and what it took."""

    num_tokens: int
    context: int
    emitted: Mapping[str, int]
    """Tokens that each stream got, where it got any."""
    seconds: float
    """From the planning to the last token's emission, drafting included."""


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
    ) -> None:
        """`always`: never switch off what loses time."""
        self.costs = costs
        self._drafters = {drafter.name: drafter for drafter in drafters}
        self._default = default
        self._vocab_size = vocab_size
        self._streams: dict[str, _Stream] = {}
        self._calibrations = {name: Calibration() for name in self._drafters}
        self._forecasts = {name: Forecast() for name in self._drafters if name not in (FORCED, COPYING)}
        self._accounts = {mode: Account(is_open_ended=always) for mode in Speculation}
        self._draft_s = 0.0
        self._asked_modes: dict[str, Speculation] = {}

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
        self._streams[request_id] = _Stream(request, mode, stop_ids, chosen)

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
        usage = [
            DraftUsage(name, stream.drafted.get(name, 0), stream.accepted.get(name, 0), stream.faults.get(name))
            for name in names
        ]
        return tuple(usage), stream.plain_s

    @property
    def wants_costs(self) -> bool:
        """Whether it is time to measure what steps cost."""
        return not self.costs.is_measured and any(stream.drafters for stream in self._streams.values())

    # --- proposals ----------------------------------------------------------------------------------------------------

    def propose(self, entries: Sequence[StepEntry], room: int, reserve: Reserve) -> Mapping[str, Proposal]:
        """Drafts for the next step, by request id.

        Args:
            entries: all of the step.
            room: tokens that may be added to it.
            reserve: see `Reserve`.
        """
        self._draft_s, self._asked_modes = 0.0, {}
        started = time.perf_counter()
        asked = [one for entry in entries if (one := self._asked(entry, room)) is not None]
        open_modes = {mode for mode in {one.stream.mode for one in asked} if self._accounts[mode].is_open()}
        asked = [one for one in asked if one.stream.mode in open_modes]
        self._asked_modes = {one.entry.sequence.id: one.stream.mode for one in asked}
        if not asked:
            return {}
        num_tokens = sum(entry.num_tokens for entry in entries)
        context = max(entry.start + entry.num_tokens for entry in entries)
        step_s = self.costs.curve(num_tokens, min(room, MAX_DRAFT_TOKENS * len(asked)), context)
        self._draft_cheaply(asked)
        self._draft_dearly(asked, step_s, reserve)
        proposals = self._cut_to_worth(asked, step_s, reserve)
        self._draft_s = time.perf_counter() - started
        return proposals

    def _asked(self, entry: StepEntry, room: int) -> _Asked | None:
        sequence = entry.sequence
        stream = self._streams.get(sequence.id)
        if not entry.samples or stream is None or not stream.drafters:
            return None
        own_room = min(room, MAX_DRAFT_TOKENS, sequence.max_total_tokens - sequence.num_tokens - 1)
        return _Asked(entry, stream, own_room) if own_room > 0 else None

    def _draft_cheaply(self, asked: list[_Asked]) -> None:
        """Forced tokens, then a copy of what followed them."""
        for name in (FORCED, COPYING):
            able = [one for one in asked if name in one.stream.drafters and one.room > len(one.proposal.token_ids)]
            limits = [self._limit(name, one) for one in able]
            tasks = [one.task(limit) for one, limit in zip(able, limits, strict=True)]
            for one, draft in zip(able, self._ask(name, tasks), strict=True):
                if draft.token_ids:
                    one.proposal = Proposal((*one.proposal.segments, Segment(name, draft)))

    @staticmethod
    def _limit(name: str, one: _Asked) -> int:
        room = one.room - len(one.proposal.token_ids)
        return min(room, one.stream.max_copy) if name == COPYING else room

    def _draft_dearly(self, asked: list[_Asked], step_s: Floats, reserve: Reserve) -> None:
        """Drafters that compute are asked where they promise more than what there is."""
        for name, forecast in self._forecasts.items():
            able = [one for one in asked if name in one.stream.drafters]
            promised = forecast.tokens_per_s(step_s)
            wanted = [
                one
                for one in able
                if not _has_forced(one)
                and forecast.is_worth_asking(promised, self._rate(one, step_s))
                and reserve(one.entry.sequence, min(one.room, forecast.max_tokens))
            ]
            if not wanted:
                continue
            started = time.perf_counter()
            tasks = [
                DraftTask(one.entry.sequence, one.stream.request, min(one.room, forecast.max_tokens)) for one in wanted
            ]
            drafts = self._ask(name, tasks)
            draft_s = time.perf_counter() - started
            if any(draft.token_ids for draft in drafts):
                forecast.learn_cost(draft_s)
            for one, draft in zip(wanted, drafts, strict=True):
                self._prefer(one, Proposal((Segment(name, draft),)) if draft.token_ids else NO_PROPOSAL, step_s)

    def _prefer(self, one: _Asked, other: Proposal, step_s: Floats) -> None:
        """The time of drafting is spent; from here on only what a step brings counts."""
        rate = self._lengths([other], step_s).tokens_per_s
        if rate > self._lengths([one.proposal], step_s).tokens_per_s:
            one.proposal = other

    def _rate(self, one: _Asked, step_s: Floats) -> float:
        return self._lengths([one.proposal], step_s).tokens_per_s

    def _cut_to_worth(self, asked: list[_Asked], step_s: Floats, reserve: Reserve) -> Mapping[str, Proposal]:
        drafted = [one for one in asked if one.proposal.segments]
        if not drafted:
            return {}
        lengths = self._lengths([one.proposal for one in drafted], step_s)
        proposals: dict[str, Proposal] = {}
        for one, num_tokens in zip(drafted, lengths.num_tokens, strict=True):
            if num_tokens and reserve(one.entry.sequence, num_tokens):
                proposals[one.entry.sequence.id] = one.proposal.cut(num_tokens)
        return proposals

    def _lengths(self, proposals: Sequence[Proposal], step_s: Floats) -> Lengths:
        return best_lengths([self._probabilities(proposal) for proposal in proposals], step_s)

    def _probabilities(self, proposal: Proposal) -> Floats:
        parts = [
            np.ones(len(segment.draft.token_ids))
            if segment.drafter == FORCED
            else self._calibrations[segment.drafter].probabilities(segment.draft.confidences)
            for segment in proposal.segments
        ]
        return np.concatenate([np.zeros(0), *parts])

    # --- drafters, which may fail -------------------------------------------------------------------------------------

    def _ask(self, name: str, tasks: Sequence[DraftTask]) -> list[Draft]:
        """What a drafter says, made fit to be verified. One that fails says nothing more to the stream it failed on."""
        if not tasks:
            return []
        try:
            drafts = self._drafters[name].draft(tasks)
            return [self._checked(draft, task) for draft, task in zip(drafts, tasks, strict=True)]
        except Exception as fault:  # noqa: BLE001  # a guess may fail, an answer must not
            if len(tasks) > 1:
                return [draft for task in tasks for draft in self._ask(name, [task])]
            self._switch_off(name, tasks[0].sequence.id, fault)
            return [NO_DRAFT]

    def _checked(self, draft: Draft, task: DraftTask) -> Draft:
        draft = _cut(draft, task.max_tokens)
        if not draft.token_ids:
            return NO_DRAFT
        if min(draft.token_ids) < 0 or max(draft.token_ids) >= self._vocab_size:
            raise ValueError(f"it drafted an id outside the vocabulary of {self._vocab_size}")
        stop_ids = self._streams[task.sequence.id].stop_ids
        ends = [place for place, token_id in enumerate(draft.token_ids) if token_id in stop_ids]
        return _cut(draft, ends[0] + 1) if ends else draft

    def _switch_off(self, name: str, request_id: str, fault: Exception) -> None:
        stream = self._streams[request_id]
        stream.drafters.pop(name, None)
        cause = " ".join(f"{type(fault).__name__}: {fault}".split())
        stream.faults[name] = f"the drafter {name} failed ({cause}); it is off for this answer, which goes on without"
        logger.warning("%s: %s", request_id, stream.faults[name], exc_info=fault)

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
            name, length = segment.drafter, len(segment.draft.token_ids)
            stream.drafted[name] = stream.drafted.get(name, 0) + length
            stream.accepted[name] = stream.accepted.get(name, 0) + min(length, emitted)
            self._judge(stream, segment, min(length, left))
            if left < length:
                # What comes after a wrong token was not judged; it counts as drafted all the same.
                left = emitted = 0
                continue
            left, emitted = left - length, max(0, emitted - length)

    def _judge(self, stream: _Stream, segment: Segment, num_accepted: int) -> None:
        confidences = segment.draft.confidences
        self._calibrations[segment.drafter].learn(confidences, num_accepted)
        if segment.drafter in self._forecasts:
            self._forecasts[segment.drafter].learn_accepted(len(confidences), num_accepted)
        if segment.drafter == COPYING:
            grown = 2 * stream.max_copy if num_accepted == len(confidences) else FIRST_DRAFT_TOKENS
            if num_accepted == len(confidences) or num_accepted < len(confidences) // 2:
                stream.max_copy = min(MAX_DRAFT_TOKENS, grown)

    def took(self, step: StepTimes) -> None:
        """A step is over, the one that `propose` was last asked for."""
        seconds = step.seconds - self._draft_s
        # A step that was interrupted by something else says nothing about speculation.
        seconds = min(seconds, OUTLIER * self.costs.seconds(step.num_tokens, step.context))
        self.costs.learn(step.num_tokens, step.context, seconds)
        by_mode: dict[Speculation, list[int]] = {}
        for request_id, mode in self._asked_modes.items():
            by_mode.setdefault(mode, []).append(step.emitted.get(request_id, 0))
        for mode, counts in by_mode.items():
            gained_s = sum(counts) / len(counts) * self.plain_step_s(len(step.emitted), step.context)
            self._accounts[mode].enter(gained_s=gained_s, spent_s=seconds + self._draft_s)


def _has_forced(one: _Asked) -> bool:
    return any(segment.drafter == FORCED for segment in one.proposal.segments)


def _cut(draft: Draft, num_tokens: int) -> Draft:
    if len(draft.token_ids) <= num_tokens:
        return draft
    return Draft(draft.token_ids[: max(0, num_tokens)], draft.confidences[: max(0, num_tokens)])
