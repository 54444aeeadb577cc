"""Whether a step is the one that the last leads to: each sequence goes on with what was chosen, on the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kodkod_engine.core.step import TokenRun


@dataclass(frozen=True, slots=True)
class Expected:
    """A run of one token. What lies before it follows from whose it is: whoever takes chosen tokens back goes on from
    where they were, and after any step but the expected one nothing is expected."""

    request_id: str
    token_id: int
    start: int
    block_ids: Sequence[int]
    """Those of the run before, however its sequence's list changes."""

    @classmethod
    def after(cls, run: TokenRun, ids: Sequence[int]) -> Expected:
        """A run of one token for which these were chosen, one after another."""
        return cls(run.request_id, ids[-1], run.start + len(ids), run.block_ids[:])

    def is_met(self, run: TokenRun) -> bool:
        """Whether this is the run."""
        is_next = run.start == self.start and run.request_id == self.request_id and len(run.token_ids) == 1
        return is_next and run.token_ids[0] == self.token_id and run.block_ids == self.block_ids
