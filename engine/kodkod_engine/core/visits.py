"""How many steps the runner takes before the loop looks again: several where nothing has to be decided in between.

To the loop a visit is one step whose tokens come together: what was computed past the end of an answer, or past the
token after which a constraint has something to say, is thrown away, as a rejected draft is. Whoever cancels or comes
meanwhile waits for the end of the visit, so it may not last long.
"""

from __future__ import annotations

from collections.abc import Sequence

from kodkod_engine.core.plan import StepEntry
from kodkod_engine.core.step import Choice

VISIT_S = 0.016
"""Of a visit that is more than one step, at most: a frame on the screen."""

LEAST_S = 1e-9
"""No step is thought to take less."""


class Visits:
    """Plans visits of at most `most_steps`."""

    def __init__(self, most_steps: int) -> None:
        self._most_steps = most_steps

    def num_steps(
        self, entries: Sequence[StepEntry], choices: Sequence[Sequence[Choice]], *, plain_steps: float, step_s: float
    ) -> int:
        """Steps to take at once, 1 at least.

        Args:
            entries: of the step that is planned, in which nothing is drafted.
            choices: theirs, in the same order.
            plain_steps: so many steps from this one on nothing will be drafted.
            step_s: seconds that one is expected to take.
        """
        if self._most_steps == 1 or not entries:
            return 1
        is_free = all(map(_decodes, entries)) and all(map(_are_free, choices))
        # Nobody goes on past the first end that is known: it would have to be computed in vain.
        left = min(entry.sequence.max_total_tokens - entry.sequence.num_tokens for entry in entries)
        most = min(self._most_steps, plain_steps, left, VISIT_S / max(step_s, LEAST_S))
        return max(1, int(most)) if is_free else 1


def _decodes(entry: StepEntry) -> bool:
    """Goes on with an answer; the first token of one comes by itself."""
    return entry.samples and entry.num_tokens == 1 and entry.sequence.num_generated > 0


def _are_free(choices: Sequence[Choice]) -> bool:
    """Whether the next tokens depend on nothing but the model and a seed, as far as is known."""
    return all(choice.allowed_ids is None and choice.sampling.logprobs is None for choice in choices)
