"""What looking for copies takes, as measured: what `Forecast` is to drafters that compute."""

from __future__ import annotations

from collections.abc import Callable

from kodkod_engine.speculation.costs import OUTLIER

FRESHNESS = 0.1
"""Weight of a new time against what is known."""

MOST_LOOKING = 4.0
"""It is never thought to take more than the plain step's part, nor than so many times what it took last."""


class LookingTime:
    """Seconds of the table of costs."""

    def __init__(self, pace: Callable[[], float]) -> None:
        """`pace`: how many times as slow as usual the machine is at the moment."""
        self._pace = pace
        self._usual_s = 0.0

    def seconds(self, plain_s: float) -> float:
        """At the moment. Thought too dear, it would never be done again.

        Args:
            plain_s: seconds of a plain step.
        """
        return min(self._usual_s * self._pace(), plain_s / MOST_LOOKING)

    def learn(self, seconds: float) -> None:
        """It took so long."""
        seconds /= self._pace()
        known = min(self._usual_s, MOST_LOOKING * seconds) or seconds
        self._usual_s = known + FRESHNESS * (min(seconds, OUTLIER * known) - known)
