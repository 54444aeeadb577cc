"""What speculation may lose: nothing is tried that has not been gained or granted before.

A draft that is rejected costs time, and so does asking for one. Each stream has a balance of what speculation has
gained it so far; it may be risked again. Losses beyond it are paid from an allowance that all streams share. It grows
by a small part of the time spent on decoding, so over many answers no more than that part is lost, whatever they are.
After losses there is little to risk: drafts are short and rare then, until one of them wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """How much may be lost."""

    share: float
    """Of the time that plain decoding takes."""
    head_start_steps: float
    """Plain steps that may be lost at first."""
    most_steps: float
    """Plain steps that the allowance grows to, and a debt too: one step that went wrong is not paid for ever."""


COPYING_TERMS = Terms(share=0.01, head_start_steps=1.5, most_steps=2.0)
"""Of drafts that are looked up."""

COMPUTING_TERMS = Terms(share=0.005, head_start_steps=2.0, most_steps=2.0)
"""Of drafts that are computed: of their own, so that trying them leaves the others what they need."""


class Allowance:
    """Of one kind of draft in one mode. Times are by the table of costs, so that no interruption counts as a loss."""

    def __init__(self, terms: Terms, *, is_open_ended: bool = False) -> None:
        """`is_open_ended`: any loss is borne."""
        self._terms = terms
        self._is_open_ended = is_open_ended
        self._left_s: float | None = None

    def risk_s(self, gained_s: float, plain_s: float) -> float:
        """Seconds that the next step may lose, if all that is tried in it is in vain.

        Args:
            gained_s: what the step's streams have gained so far.
            plain_s: seconds of a plain step.
        """
        return math.inf if self._is_open_ended else max(0.0, self._left(plain_s) + gained_s)

    def steps_until(self, missing_s: float, plain_s: float) -> float:
        """How many plain tokens it takes until so much more can be risked."""
        return missing_s / (self._terms.share * plain_s)

    def settle(self, balance_s: float, gained_s: float, decoded_s: float, plain_s: float) -> float:
        """A stream got tokens. The allowance grows with them, and pays for losses below a balance of zero.

        Args:
            balance_s: of the stream so far.
            gained_s: by this kind of draft in this step; negative when it lost.
            decoded_s: what plain decoding takes for the tokens.
            plain_s: seconds of a plain step.

        Returns:
            The stream's balance now.
        """
        after_s = balance_s + gained_s
        paid_s = min(0.0, balance_s) - min(0.0, after_s)
        most_s = self._terms.most_steps * plain_s
        left_s = self._left(plain_s) + self._terms.share * decoded_s - paid_s
        self._left_s = min(most_s, max(-most_s, left_s))
        return after_s

    def _left(self, plain_s: float) -> float:
        return self._terms.head_start_steps * plain_s if self._left_s is None else self._left_s
