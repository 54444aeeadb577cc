"""Time won and lost by speculation: what makes sure that it is never the slower way for long."""

from __future__ import annotations

ALLOWED_LOSS = 0.015
"""Of the time spent: beyond it speculation is switched off for a while."""

FIRST_PAUSE_STEPS = 32
LONGEST_PAUSE_STEPS = 1024

MEMORY_S = 20.0
"""Gains and losses of longer ago than so many seconds of decoding fade."""

HEAD_START_S = 0.02
"""Lost before anything is concluded from it."""


class Account:
    """Steps with speculation against what plain decoding would have taken for the same tokens."""

    def __init__(self, *, is_open_ended: bool = False) -> None:
        """`is_open_ended`: any loss is borne."""
        self._is_open_ended = is_open_ended
        self._balance_s = 0.0
        self._spent_s = 0.0
        self._pause_steps = FIRST_PAUSE_STEPS
        self._left_steps = 0

    def is_open(self) -> bool:
        """Whether to speculate in the next step; asked once per step."""
        if self._left_steps > 0:
            self._left_steps -= 1
            return False
        return True

    def enter(self, *, gained_s: float, spent_s: float) -> None:
        """A step with speculation: the time its tokens would have taken without, and the time it took with."""
        fade = max(0.0, 1.0 - spent_s / MEMORY_S)
        self._balance_s = self._balance_s * fade + gained_s - spent_s
        self._spent_s = self._spent_s * fade + spent_s
        if self._is_open_ended:
            return
        if self._balance_s < -HEAD_START_S - ALLOWED_LOSS * self._spent_s:
            self._left_steps = self._pause_steps
            self._pause_steps = min(2 * self._pause_steps, LONGEST_PAUSE_STEPS)
            # After a pause speculation begins with a little credit, or it could never show that things have changed.
            self._balance_s = -ALLOWED_LOSS * self._spent_s
        elif self._balance_s > 0:
            self._pause_steps = FIRST_PAUSE_STEPS
