"""Steps in which nothing is decided: where nothing can be risked, deciding so would be the dearest part of a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kodkod_engine.core.plan import StepEntry

MOST_STEPS = 32
"""In a row: then costs and allowances are looked at again."""


class Rest:
    """Belongs to the streams that it began with; when others come, or one goes, it is over."""

    def __init__(self) -> None:
        self._request_ids: frozenset[str] = frozenset()
        self._left_steps = 0
        self._num_steps = 0

    def begin(self, request_ids: Iterable[str], num_steps: float) -> None:
        """The next steps of these streams."""
        self._request_ids = frozenset(request_ids)
        self._left_steps = int(min(num_steps, MOST_STEPS))

    def goes_on(self, entries: Sequence[StepEntry]) -> bool:
        """Whether the next step is one of them; asked once per step."""
        if self._left_steps <= 0:
            return False
        ids = self._request_ids
        if len(entries) != len(ids) or any(one.num_tokens != 1 or one.sequence.id not in ids for one in entries):
            self._left_steps = 0
            return False
        self._left_steps -= 1
        self._num_steps += 1
        return True

    @property
    def left_steps(self) -> int:
        """How many more of them there are."""
        return self._left_steps

    def pass_over(self, num_steps: int) -> None:
        """So many more were taken together with the last one."""
        taken = min(num_steps, self._left_steps)
        self._left_steps -= taken
        self._num_steps += taken

    def take_steps(self) -> int:
        """How many were rested since this was last asked."""
        taken, self._num_steps = self._num_steps, 0
        return taken
