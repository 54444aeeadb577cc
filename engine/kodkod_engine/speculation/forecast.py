"""What to expect of a drafter that computes, before it is asked."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Run

MAX_TOKENS = 3
"""Steps of a draft block that still pay; also what the served model is said to take."""

PRIOR_ACCEPTANCE = 0.5
FRESHNESS = 0.05
PRIOR_DRAFTS = 4.0
"""The prior acceptance counts as so many observations."""
OUTLIER = 3.0
"""A draft that took so many times what is known was interrupted by something else."""
FIRST_DRAFTS = 8
"""Of the first so many the quickest counts."""

TRIAL_DRAFTS = 3
"""A drafter that is tried is asked so many times in a row: the first draft catches up with the text, and is dear."""
RETRY_STEPS = 64
LONGEST_RETRY_STEPS = 2048
"""A drafter that does not seem worth it is asked at first, and then again after so many steps, for a conversation
changes its ways; each time in vain after twice as many."""


class Forecast:
    """Acceptance by place in the draft, and seconds per draft. Asked in every step: plain numbers, for they are few."""

    def __init__(self, max_tokens: int = MAX_TOKENS, pace: Callable[[], float] = lambda: 1.0) -> None:
        """`pace`: how many times as slow as usual the machine is at the moment, drafts included."""
        self.max_tokens = max_tokens
        self._pace = pace
        self._acceptance = [PRIOR_ACCEPTANCE] * max_tokens
        self._seen = [PRIOR_DRAFTS] * max_tokens
        self._draft_s: float | None = None
        self._num_timed = 0
        """Drafts that tell what one costs, not counting those that catch up."""
        self._num_passed = 0
        self._num_refused = 0
        self._patience = 0
        self._trials_left = 0

    def draft_s(self, plain_s: float) -> float:
        """Seconds of a draft; as long as none is known but perhaps the first, no more than those of a plain step."""
        if self._draft_s is None:
            return plain_s
        draft_s = self._draft_s * self._pace()
        return draft_s if self._num_timed else min(draft_s, plain_s)

    def risk_s(self, step_s: Run[float]) -> float:
        """Seconds that are lost if a whole draft is in vain; arguments as in `tokens_per_s`."""
        return self.draft_s(step_s[0]) + step_s[min(self.max_tokens, len(step_s) - 1)] - step_s[0]

    def tokens_per_s(self, step_s: Run[float]) -> float:
        """Of one sequence, with the best length.

        Args:
            step_s: seconds of a step with 0, 1, 2, ... drafted tokens.
        """
        return self._best_rate(self._acceptance, step_s)

    def is_worth_asking(self, step_s: Run[float], otherwise: float) -> bool:
        """Whether it promises more tokens per second than there are otherwise, or could, and it is time to look."""
        if self.tokens_per_s(step_s) > otherwise:
            self._num_refused, self._patience = 0, RETRY_STEPS
            return True
        if self._best_rate([1.0] * self.max_tokens, step_s) <= otherwise:
            return False
        if self._trials_left > 0:
            self._trials_left -= 1
            return True
        self._num_refused += 1
        if self._num_refused < self._patience:
            return False
        self._trials_left = TRIAL_DRAFTS - 1
        self._num_refused, self._patience = 0, min(max(RETRY_STEPS, 2 * self._patience), LONGEST_RETRY_STEPS)
        return True

    def is_idle(self, step_s: Run[float]) -> bool:
        """Whether it would not be asked even where there is nothing else."""
        is_due = self._trials_left > 0 or self._num_refused + 1 >= self._patience
        return not is_due and self.tokens_per_s(step_s) <= 1 / step_s[0]

    def pass_over(self, num_steps: int) -> None:
        """So many steps went by in which it was idle or too dear. What a draft costs is doubted in the end."""
        self._num_refused += num_steps
        self._num_passed += num_steps
        if self._num_passed >= LONGEST_RETRY_STEPS:
            self._num_passed = self._num_timed = 0

    def _best_rate(self, acceptance: Run[float], step_s: Run[float]) -> float:
        draft_s, likely, expected, best = self.draft_s(step_s[0]), 1.0, 1.0, 0.0
        for place in range(min(self.max_tokens, len(step_s) - 1) + 1):
            best = max(best, expected / (step_s[place] + draft_s))
            if place < self.max_tokens:
                likely *= acceptance[place]
                expected += likely
        return best

    def learn_cost(self, seconds: float, *, catches_up: bool = False) -> None:
        """A draft took so long.

        Args:
            seconds: of it.
            catches_up: the drafter was not asked in the step before, so it had more to read than it usually has.
        """
        seconds /= self._pace()
        if catches_up:
            self._draft_s = self._draft_s or seconds
            return
        self._num_timed += 1
        if self._num_timed == 1:
            self._draft_s = seconds
        elif self._draft_s is not None:
            # A draft among the first that something else interrupted would make the drafter too dear to be asked again.
            news_s = FRESHNESS * (min(seconds, OUTLIER * self._draft_s) - self._draft_s)
            first_s = min(self._draft_s, seconds)
            self._draft_s = first_s if self._num_timed <= FIRST_DRAFTS else self._draft_s + news_s

    def learn_accepted(self, num_drafted: int, num_accepted: int) -> None:
        """The first `num_accepted` of a draft's tokens were right, the next one was wrong, if there is one."""
        for place in range(min(num_accepted + 1, num_drafted, self.max_tokens)):
            self._seen[place] += 1
            weight = max(FRESHNESS, 1 / self._seen[place])
            self._acceptance[place] += weight * ((place < num_accepted) - self._acceptance[place])
