"""What is known of the requests that are drafted for, and of the step that is planned for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kodkod_engine.api import DraftUsage, GenerationRequest, Speculation
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.speculation.calibration import Calibration, Floats
from kodkod_engine.speculation.drafter import MAX_DRAFT_TOKENS, Drafter, DraftTask
from kodkod_engine.speculation.proposal import NO_PROPOSAL, Proposal, Segment

FIRST_DRAFT_TOKENS = 16
"""A stream's longest copy at first; twice as many after each that was accepted whole, up to `MAX_DRAFT_TOKENS`."""

PATIENT_LOOKS = 2
LONGEST_GAP = 16
"""After so many looks for a copy in vain, a token is let go by before the next look; then two, four and so on, up to
the longest gap."""

GRANTED_STEPS = 1.0
"""Plain steps that may be lost on an answer whose caller names sources it may be copied from."""

FORCED = "forced"
COPYING = "suffix"
LOOKED_UP = frozenset({FORCED, COPYING})
"""Drafters that know without computing."""


@dataclass(slots=True)
class Stream:
    """One request."""

    request: GenerationRequest
    mode: Speculation
    stop_ids: frozenset[int]
    drafters: dict[str, Drafter]
    calibrations: dict[str, Calibration]
    """Of its own text, begun with what others taught: the next answer may be of another kind."""
    max_copy: int = FIRST_DRAFT_TOKENS
    drafted: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    balance_s: float = 0.0
    """Gained by speculation so far, and granted."""
    is_granted: bool = False
    vain_looks: int = 0
    """For a copy, in a row: nothing was worth verifying, or its first token was wrong."""
    looked_at: int = 0
    """How long the text was then."""
    plain_s: float = 0.0
    is_first: bool = True
    """No token was emitted yet."""

    def grant(self, plain_s: float) -> None:
        """Before the first draft."""
        if not self.is_granted and self.request.draft_sources and COPYING in self.drafters:
            self.balance_s += GRANTED_STEPS * plain_s
        self.is_granted = True

    @property
    def gap(self) -> int:
        """Tokens to let go by between two looks for a copy."""
        more = self.vain_looks - PATIENT_LOOKS
        return 0 if more < 0 else min(1 << min(more, LONGEST_GAP), LONGEST_GAP)

    def usage(self, name: str) -> DraftUsage:
        """What one drafter did."""
        return DraftUsage(name, self.drafted.get(name, 0), self.accepted.get(name, 0), self.faults.get(name))

    def count(self, segment: Segment, num_emitted: int) -> None:
        """A part of a draft was verified, and so many of its tokens became the answer's."""
        name = segment.drafter
        self.drafted[name] = self.drafted.get(name, 0) + len(segment.draft.token_ids)
        self.accepted[name] = self.accepted.get(name, 0) + num_emitted

    def judge(self, segment: Segment, num_accepted: int) -> None:
        """So many of its tokens were right."""
        num_tokens = len(segment.draft.token_ids)
        self.calibrations[segment.drafter].learn(segment.draft.confidences, num_accepted)
        if segment.drafter != COPYING:
            return
        self.vain_looks = 0 if num_accepted else self.vain_looks + 1
        if num_accepted == num_tokens:
            self.max_copy = min(MAX_DRAFT_TOKENS, 2 * self.max_copy)
        elif num_accepted < num_tokens // 2:
            self.max_copy = FIRST_DRAFT_TOKENS


@dataclass(slots=True)
class Asked:
    """One sequence of the step that is planned, with the best guess so far."""

    entry: StepEntry
    stream: Stream
    room: int
    proposal: Proposal = NO_PROPOSAL

    @property
    def request_id(self) -> str:
        """Whose it is."""
        return self.entry.sequence.id

    @property
    def wait_tokens(self) -> int | None:
        """How many tokens to let go by before looking for a copy; None where that is never done."""
        if COPYING not in self.stream.drafters:
            return None
        return max(0, self.stream.looked_at + self.stream.gap + 1 - self.entry.sequence.num_tokens)

    def task(self, max_tokens: int, *, goes_on: bool) -> DraftTask:
        """For a drafter. `goes_on`: behind the guess so far, not in place of it."""
        before = self.proposal.token_ids if goes_on else ()
        return DraftTask(self.entry.sequence, self.stream.request, min(self.room - len(before), max_tokens), before)

    def probabilities(self) -> Floats:
        """Of each token of the guess being accepted if those before it are: float64 [tokens]."""
        parts = [
            np.ones(len(segment.draft.token_ids))
            if segment.drafter == FORCED
            else self.stream.calibrations[segment.drafter].probabilities(segment.draft.confidences)
            for segment in self.proposal.segments
        ]
        return np.concatenate([np.zeros(0), *parts])


@dataclass(slots=True)
class Planned:
    """The step that is planned: what it is without drafts, and what is drafted for it."""

    num_tokens: int = 0
    num_choosing: int = 0
    streams: dict[str, Stream] = field(default_factory=dict)
    """Those that get a token and may be drafted for, by request id."""
    is_prefill: bool = False
    drafted: dict[str, Proposal] = field(default_factory=dict)
    looking_s: float = 0.0
    """Seconds of looking drafts up, and of all that is decided."""
    computing_s: float = 0.0
    """Seconds of computing drafts."""
    looked_for: tuple[str, ...] = ()
    computed_for: tuple[str, ...] = ()

    def shares_s(self, request_id: str) -> tuple[float, float]:
        """What drafting for one stream took: looking up, and computing.

        Before an answer begins its whole prompt is read; that is little beside computing it, and no part of decoding.
        """
        is_looked_for = request_id in self.looked_for and not self.is_prefill
        looking_s = self.looking_s / len(self.looked_for) if is_looked_for else 0.0
        computing_s = self.computing_s / len(self.computed_for) if request_id in self.computed_for else 0.0
        return looking_s, computing_s
