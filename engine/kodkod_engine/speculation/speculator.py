"""Drafts for each step: has them planned, weighed against what a step costs, and counts what came of them.

Learnt on the way and shared by all streams: what a step of n tokens costs (`costs`), what a drafter's confidence is
worth (`calibration`), what asking it takes and brings (`draft_planner`), and what may still be lost (`allowance`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

from kodkod_engine.api import DraftUsage, GenerationRequest, Speculation
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.speculation.calibration import Calibration
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.draft_planner import DraftPlanner, Reserve
from kodkod_engine.speculation.drafter import MAX_DRAFT_TOKENS, Drafter
from kodkod_engine.speculation.forecast import MAX_TOKENS
from kodkod_engine.speculation.means import Kind, Means
from kodkod_engine.speculation.outcome import brought
from kodkod_engine.speculation.proposal import Proposal
from kodkod_engine.speculation.rest import Rest
from kodkod_engine.speculation.step_times import StepTimes
from kodkod_engine.speculation.stream import FORCED, Asked, Planned, Stream

logger = logging.getLogger(__name__)

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
        self._always = always
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._calibrations = {name: Calibration() for name in self._drafters}
        self._means = Means(is_open_ended=always)
        self._planner = DraftPlanner(
            self._drafters, costs, self._means, vocab_size=vocab_size, always=always, clock=clock
        )
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
        if self._is_to_compare(planned, context):
            return {}
        planned.looked_for = tuple(one.request_id for one in asked)
        first_s = [self.costs.seconds(planned.num_tokens + more, context) for more in range(min(room, MAX_TOKENS) + 1)]
        self._catch_up(asked, first_s[0])
        if self._planner.has_means(planned, asked, first_s):
            step_s = self.costs.curve(planned.num_tokens, min(room, MAX_DRAFT_TOKENS * len(asked)), context)
            planned.drafted = self._planner.proposals(planned, asked, step_s, reserve)
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

    def _is_to_compare(self, planned: Planned, context: int) -> bool:
        """A plain step now and then, to compare the others with."""
        return not self._always and not planned.is_prefill and self.costs.is_due(planned.num_tokens, context)

    def _catch_up(self, asked: list[Asked], plain_s: float) -> None:
        """With the steps that were rested, and what an answer is granted before its first draft."""
        rested = self._resting.take_steps()
        if self._planned.is_prefill:
            return
        if rested:
            self._means.rested(asked, rested, plain_s)
            self._planner.pass_over(rested)
        for one in asked:
            one.stream.grant(plain_s)

    def _rest(self, asked: list[Asked], first_s: Sequence[float]) -> None:
        """Leave the next steps alone, until it is time to look for a copy, and a token of it can be verified."""
        risk_s = self._planner.least_risk_s(first_s)
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
            num_right = min(length, left)
            stream.count(segment, min(length, emitted))
            stream.judge(segment, num_right)
            self._calibrations[segment.drafter].learn(segment.draft.confidences, num_right)
            self._planner.learn_accepted(segment, num_right)
            if left < length:
                # What comes after a wrong token was not judged; it counts as drafted all the same.
                left = emitted = 0
                continue
            left, emitted = left - length, max(0, emitted - length)

    def took(self, step: StepTimes) -> None:
        """A step is over, the one that `propose` was last asked for."""
        planned = self._planned
        self._resting.pass_over(step.num_steps - 1)
        seconds, is_plain = step.seconds - planned.looking_s - planned.computing_s, not planned.drafted
        self.costs.learn(step.num_tokens, step.context, seconds / step.num_steps, is_plain=is_plain)
        if not planned.streams:
            return
        plain_s = self.plain_step_s(planned.num_choosing, step.context)
        self._means.settle(brought(planned, step, self.costs, plain_s), plain_s)
