"""What is to be verified of one sequence in one step."""

from __future__ import annotations

from dataclasses import dataclass

from kodkod_engine.speculation.drafter import Draft


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

    def num_tokens(self, drafter: str) -> int:
        """How many of them one drafter said."""
        return sum(len(segment.draft.token_ids) for segment in self.segments if segment.drafter == drafter)

    def cut(self, num_tokens: int) -> Proposal:
        """The first tokens of it."""
        kept: list[Segment] = []
        for segment in self.segments:
            draft = segment.draft.cut(num_tokens)
            num_tokens -= len(draft.token_ids)
            if draft.token_ids:
                kept.append(Segment(segment.drafter, draft))
        return Proposal(tuple(kept))


NO_PROPOSAL = Proposal()
