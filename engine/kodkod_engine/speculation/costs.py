"""What a step costs: seconds by its number of tokens and its context, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from kodkod_engine.speculation.calibration import Floats

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
"""Tokens of a step that have a time of their own; another step costs what the next larger one does."""

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144)
"""Upper ends of the context lengths that have times of their own."""

FIRST_SIZES = (128, 1, 8, 32, 64, 2, 16, 4)
"""What is measured at the start, until the time is over; the first one also computes the context of the others."""

MARGINAL_SHARE = 0.25
"""Before anything is known, a further token costs this part of the first one."""

FRESHNESS = 0.2
"""Weight of a new time against what is known."""

OUTLIER = 3.0
"""A step that took so many times what is known was interrupted by something else; it counts as having taken this."""

NEWS = 0.03
"""A change by less than this part is not worth concluding all other times anew."""

_SIZE_INDEX = np.searchsorted(SIZES, np.arange(SIZES[-1] + 1))
_LOG_SIZES = np.log(np.array(SIZES, dtype=np.float64))

TimeStep = Callable[[int], float | None]
"""Seconds of a step of so many tokens; None when there is no room for one."""


class CostTable:
    """Times of steps, known or concluded from those that are."""

    def __init__(self) -> None:
        self._known = np.full((len(CONTEXTS), len(SIZES)), np.nan)
        self._filled: dict[int, Floats] = {}
        self.is_measured = False
        """Whether the start-up measurement was made."""

    def measure(self, time_step: TimeStep, context: int, limit_s: float) -> None:
        """Time steps of the most telling sizes, each twice, until the time is over."""
        self.is_measured = True
        deadline = time.monotonic() + limit_s
        row = _context_index(context)
        for size in FIRST_SIZES:
            times = [time_step(size), time_step(size)]
            taken = [seconds for seconds in times if seconds is not None]
            if taken:
                self._known[row, SIZES.index(size)] = min(taken)
            if time.monotonic() > deadline:
                break
        self._filled.clear()

    def learn(self, num_tokens: int, context: int, seconds: float) -> None:
        """A step took so long."""
        if num_tokens > SIZES[-1]:
            return
        row, column = _context_index(context), _SIZE_INDEX[num_tokens]
        known = self._known[row, column]
        if np.isnan(known):
            self._known[row, column] = seconds
        else:
            self._known[row, column] += FRESHNESS * (min(seconds, OUTLIER * known) - known)
        filled = self._filled.get(row)
        if filled is not None and abs(self._known[row, column] / filled[column] - 1) > NEWS:
            del self._filled[row]

    def seconds(self, num_tokens: int, context: int) -> float:
        """Of one step."""
        return float(self.curve(num_tokens, 0, context)[0])

    def curve(self, num_tokens: int, num_more: int, context: int) -> Floats:
        """Seconds of steps of num_tokens, num_tokens + 1, ... num_tokens + num_more tokens: float64 [num_more + 1]."""
        row = _context_index(context)
        filled = self._filled.get(row)
        if filled is None:
            filled = self._filled[row] = self._fill(row)
        sizes = np.arange(num_tokens, num_tokens + num_more + 1)
        times: Floats = filled[_SIZE_INDEX[np.minimum(sizes, SIZES[-1])]] * np.maximum(1.0, sizes / SIZES[-1])
        return times

    def _fill(self, row: int) -> Floats:
        """Times of all sizes at a context: what is known there, else the nearest known context's, made to fit."""
        own = self._known[row]
        is_known = ~np.isnan(own)
        shape = self._shape(row)
        if is_known.any():
            # The others are the shape's, moved by how far the known ones are from it.
            ratios = np.interp(_LOG_SIZES, _LOG_SIZES[is_known], (own / shape)[is_known])
            shape = np.where(is_known, own, shape * ratios)
        # A larger step is never quicker, whatever one measurement says.
        return np.maximum.accumulate(shape)

    def _shape(self, row: int) -> Floats:
        others = [other for other in range(len(CONTEXTS)) if other != row and not np.isnan(self._known[other]).all()]
        if not others:
            return 1.0 + MARGINAL_SHARE * (np.array(SIZES) - 1.0)
        nearest = self._known[min(others, key=lambda other: abs(other - row))]
        is_known = ~np.isnan(nearest)
        sizes = np.array(SIZES, dtype=np.float64)
        times: Floats = np.interp(sizes, sizes[is_known], nearest[is_known])
        beyond = sizes > sizes[is_known][-1]
        times[beyond] = nearest[is_known][-1] * sizes[beyond] / sizes[is_known][-1]
        return times


def _context_index(context: int) -> int:
    return min(int(np.searchsorted(CONTEXTS, context)), len(CONTEXTS) - 1)
