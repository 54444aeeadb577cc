"""What to expect of a drafter that computes, before it is asked."""

from __future__ import annotations

import numpy as np

from kodkod_engine.speculation.calibration import Floats

MAX_TOKENS = 3
"""Steps of a draft block that still pay; also what the served model is said to take."""

PRIOR_ACCEPTANCE = 0.7
FRESHNESS = 0.05
EAGERNESS = 4.0
"""The prior acceptance counts as so many observations."""
QUICK_FRESHNESS = 0.5
RETRY_STEPS = 64
LONGEST_RETRY_STEPS = 2048
"""A drafter that does not seem worth it is asked all the same after so many steps, for a conversation changes its ways;
each time in vain after twice as many."""


class Forecast:
    """Acceptance by place in the draft, and seconds per draft."""

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self.max_tokens = max_tokens
        self._acceptance = np.full(max_tokens, PRIOR_ACCEPTANCE)
        self._seen = np.full(max_tokens, EAGERNESS)
        self._draft_s = 0.0
        self._num_refused = 0
        self._patience = RETRY_STEPS

    def tokens_per_s(self, step_s: Floats) -> float:
        """Of one sequence, with the best length.

        Args:
            step_s: seconds of a step with 0, 1, 2, ... drafted tokens.
        """
        num_tokens = min(self.max_tokens, len(step_s) - 1)
        expected = 1.0 + np.concatenate([[0.0], np.cumsum(np.cumprod(self._acceptance[:num_tokens]))])
        return float((expected / (step_s[: num_tokens + 1] + self._draft_s)).max())

    def is_worth_asking(self, promised: float, otherwise: float) -> bool:
        """Whether it promises more tokens per second than there are otherwise, or it is time to look again."""
        if promised > otherwise:
            self._num_refused, self._patience = 0, RETRY_STEPS
            return True
        self._num_refused += 1
        if self._num_refused < self._patience:
            return False
        self._num_refused, self._patience = 0, min(2 * self._patience, LONGEST_RETRY_STEPS)
        return True

    def learn_cost(self, seconds: float) -> None:
        """A draft took so long."""
        known = self._draft_s or seconds
        # The first draft compiles and allocates: towards less it goes quickly.
        freshness = QUICK_FRESHNESS if seconds < known else FRESHNESS
        self._draft_s = known + freshness * (min(seconds, 3.0 * known) - known)

    def learn_accepted(self, num_drafted: int, num_accepted: int) -> None:
        """The first `num_accepted` of a draft's tokens were right, the next one was wrong, if there is one."""
        for place in range(min(num_accepted + 1, num_drafted, self.max_tokens)):
            self._seen[place] += 1
            weight = max(FRESHNESS, 1 / self._seen[place])
            self._acceptance[place] += weight * ((place < num_accepted) - self._acceptance[place])
