"""What a step costs: seconds by its number of tokens and its context, measured on this machine."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from kodkod_engine.speculation.calibration import Floats

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
"""Tokens of a step that have a time of their own."""

EXACT_SIZE = 128
"""Up to here a step costs what the next larger size does; beyond, what lies between the two sizes beside it."""

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144)
"""Upper ends of the context lengths that have times of their own."""

FIRST_SIZES = (128, 1, 2, 4, 8, 16, 32, 64)
"""What is measured at the start, round by round; the first one also computes the context of the others."""

SMALL_SIZE = 16
MOST_ROUNDS = 8
ROUNDS_OF_LARGE_SIZES = 3
"""Sizes above the small one are measured so often; in a first round kernels are compiled, so one would not do."""

MARGINAL_SHARE = 0.25
"""Before anything is known, a further token costs this part of the first one."""

REMEMBERED_STEPS = 5
"""A time is the lower median of the last so many: a step that something else interrupted does not count."""

KNOWN_STEPS = 9
"""A plain step that was seen so often is well known: from then on it tells how quick the machine is."""

FRESHNESS = 0.01
"""Weight of a later one: what a plain step costs changes slowly, as the context grows."""

OUTLIER = 3.0
"""A step that took so many times what is known was interrupted for certain."""

PACE_FRESHNESS = 0.1
"""Weight of one step in how quick the machine is at the moment."""

MOST_NEWS = 1.5
"""One step says no more than that the machine is so many times as slow, or as quick."""

SURE_STEPS = 3
"""A time that was seen less often counts no more than `DOUBTED_BEYOND` times what others would have it be, or less."""

DOUBTED_BEYOND = 1.4

TELLING_SIZES = 4
"""A context of which so many sizes are known says how times grow with the size, however many more there are."""

REFILL_STEPS = 16
"""Times that were concluded from others are concluded anew after so many steps."""

LONGEST_UNSEEN_STEPS = 256
"""A step that others are compared with is made at least so often; soon again while it was seen a few times only."""

MOST_DOUBTED_SIZE = 4
MOST_DOUBT = 0.25

_SIZE_INDEX = np.searchsorted(SIZES, np.arange(SIZES[-1] + 1))
_SIZE_INDICES: list[int] = _SIZE_INDEX.tolist()
_LOG_SIZES = np.log(np.array(SIZES, dtype=np.float64))

TimeStep = Callable[[int], float | None]
"""Seconds of a step of so many tokens; None when there is no room for one."""


@dataclass(slots=True)
class _Timed:
    """Steps of one size and context."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED_STEPS))
    num_seen: int = 0
    last_seen: int = 0
    """When: counted in steps of all sizes."""


class CostTable:
    """Times of steps, known or concluded from those that are."""

    def __init__(self) -> None:
        self._timed: defaultdict[tuple[int, int], _Timed] = defaultdict(_Timed)
        self._num_steps = 0
        self.pace = 1.0
        """How many times as slow as usual the machine is at the moment."""
        self._known = np.full((len(CONTEXTS), len(SIZES)), np.nan)
        self._filled: dict[int, Floats] = {}
        self._listed: dict[int, list[float]] = {}
        self._ages: dict[int, int] = {}
        self.is_measured = False
        """Whether the start-up measurement was made."""

    def measure(self, time_step: TimeStep, context: int, limit_s: float) -> None:
        """Time steps of the most telling sizes in turn, until the time is over; the least time of each counts."""
        self.is_measured = True
        deadline = time.monotonic() + limit_s
        taken: dict[int, list[float]] = {}
        for size in _rounds():
            if (seconds := time_step(size)) is not None:
                taken.setdefault(size, []).append(seconds)
            if time.monotonic() > deadline:
                break
        row = _context_index(context)
        for size, times in taken.items():
            self._enter(row, SIZES.index(size), min(times))
            # Out of three rounds one went undisturbed: then it is the machine that changes, and not this time.
            self._timed[row, SIZES.index(size)].num_seen = KNOWN_STEPS if len(times) >= SURE_STEPS else len(times)
        self._forget(row)

    def learn(self, num_tokens: int, context: int, seconds: float, *, is_plain: bool = True) -> None:
        """A step took so long. `is_plain`: without drafts."""
        if num_tokens > SIZES[-1]:
            return
        row, column = _context_index(context), _SIZE_INDICES[num_tokens]
        if num_tokens > EXACT_SIZE:
            seconds *= SIZES[column] / num_tokens
        self._num_steps += 1
        self._ages[row] = self._ages.get(row, 0) + 1
        timed = self._timed[row, column]
        if is_plain and timed.num_seen >= KNOWN_STEPS:
            self._follow(row, column, seconds)
        else:
            self._enter(row, column, seconds / self.pace)
        if timed.num_seen <= SURE_STEPS or self._ages[row] >= REFILL_STEPS:
            self._forget(row)

    def _enter(self, row: int, column: int, seconds: float) -> None:
        """A step, at a pace of one."""
        timed = self._timed[row, column]
        timed.seconds.append(seconds)
        timed.num_seen += 1
        timed.last_seen = self._num_steps
        self._known[row, column] = sorted(timed.seconds)[(len(timed.seconds) - 1) // 2]

    def _follow(self, row: int, column: int, seconds: float) -> None:
        """A step that is well known: what it takes tells how quick the machine is, which does other things beside."""
        timed, known = self._timed[row, column], float(self._known[row, column])
        timed.num_seen += 1
        timed.last_seen = self._num_steps
        news = min(max(seconds / (known * self.pace), 1 / MOST_NEWS), MOST_NEWS) - 1
        self.pace *= 1 + PACE_FRESHNESS * news
        self._known[row, column] = known * (1 + FRESHNESS * news)

    def is_due(self, num_tokens: int, context: int) -> bool:
        """Whether a step of this size is to be made for the sake of comparison: it was not seen for a while."""
        if num_tokens > SIZES[-1]:
            return False
        timed = self._timed[_context_index(context), _SIZE_INDICES[num_tokens]]
        unseen = self._num_steps - timed.last_seen
        return unseen >= min(8 * timed.num_seen**2, LONGEST_UNSEEN_STEPS)

    def seconds(self, num_tokens: int, context: int) -> float:
        """Of one step."""
        if num_tokens > EXACT_SIZE:
            return float(self.curve(num_tokens, 0, context)[0])
        return self.pace * self._row(_context_index(context))[_SIZE_INDICES[num_tokens]]

    def curve(self, num_tokens: int, num_more: int, context: int) -> Floats:
        """Seconds of steps of num_tokens, num_tokens + 1, ... num_tokens + num_more tokens: float64 [num_more + 1]."""
        row = _context_index(context)
        self._row(row)
        filled = self._filled[row]
        most = num_tokens + num_more
        if most <= EXACT_SIZE:
            return np.asarray(self.pace * filled[_SIZE_INDEX[num_tokens : most + 1]])
        sizes = np.arange(num_tokens, most + 1)
        # The next larger size is far from these: a few tokens more are not for nothing.
        exact, between = filled[_SIZE_INDEX[np.minimum(sizes, EXACT_SIZE)]], np.interp(sizes, SIZES, filled)
        times = np.where(sizes <= EXACT_SIZE, exact, between)
        return np.asarray(self.pace * times * np.maximum(1.0, sizes / SIZES[-1]))

    def _row(self, row: int) -> list[float]:
        """Times of all sizes at a context, at a pace of one."""
        listed = self._listed.get(row)
        if listed is None:
            filled = self._filled[row] = self._fill(row)
            listed = self._listed[row] = filled.tolist()
            self._ages[row] = 0
        return listed

    def _forget(self, row: int) -> None:
        self._filled.pop(row, None)
        self._listed.pop(row, None)

    def _fill(self, row: int) -> Floats:
        """Times of all sizes at a context: what is known there, else another context's, made to fit."""
        own, shape = self._known[row], self._shape(row)
        is_known = ~np.isnan(own)
        if not is_known.any():
            return np.maximum.accumulate(shape)
        ratios = own / shape
        is_sure = self._is_sure(row, ratios)
        # The others are the shape's, moved by how far the sure ones are from it.
        moved = shape * np.interp(_LOG_SIZES, _LOG_SIZES[is_sure], ratios[is_sure])
        doubted = np.clip(own, moved / DOUBTED_BEYOND, moved * DOUBTED_BEYOND)
        times = np.where(is_sure, own, np.where(is_known, doubted, moved))
        times[1:] = times[0] + (times[1:] - times[0]) * self._doubts(row)
        # A larger step is never quicker, whatever one measurement says.
        return np.maximum.accumulate(times)

    def _doubts(self, row: int) -> Floats:
        """Part of what a larger step is thought to cost more than the least one: less, the longer it was not seen.

        What was once measured too dear would not be tried again. To try a token or two is cheap, whatever it costs.
        """
        parts = np.ones(len(SIZES) - 1)
        for column in range(1, SIZES.index(MOST_DOUBTED_SIZE) + 1):
            unseen = self._num_steps - self._timed[row, column].last_seen
            parts[column - 1] = max(MOST_DOUBT, min(1.0, 2.0 ** (1 - unseen / LONGEST_UNSEEN_STEPS)))
        return parts

    def _is_sure(self, row: int, ratios: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which times were seen often enough; if none was, the one that is least for its size.

        A step that was interrupted once would otherwise be thought dear, and for that reason not be seen again.
        """
        is_sure = np.array([self._timed[row, column].num_seen >= SURE_STEPS for column in range(len(SIZES))])
        if not is_sure.any():
            is_sure[np.nanargmin(ratios)] = True
        return is_sure

    def _shape(self, row: int) -> Floats:
        """Of the nearest other context of which something is known."""
        num_known = (~np.isnan(self._known)).sum(axis=1)
        others = [other for other in range(len(CONTEXTS)) if other != row and num_known[other]]
        if not others:
            return np.asarray(1.0 + MARGINAL_SHARE * (np.array(SIZES) - 1.0))
        nearest = min(others, key=lambda other: (-min(num_known[other], TELLING_SIZES), abs(other - row)))
        return _between(self._known[nearest])


def _rounds() -> Iterator[int]:
    """The sizes to be timed at the start, in order."""
    for number in range(MOST_ROUNDS):
        yield from (size for size in FIRST_SIZES if size <= SMALL_SIZE or number < ROUNDS_OF_LARGE_SIZES)


def _between(known: Floats) -> Floats:
    """Times of all sizes from some."""
    is_known = ~np.isnan(known)
    sizes = np.array(SIZES, dtype=np.float64)
    times: Floats = np.interp(sizes, sizes[is_known], known[is_known])
    beyond = sizes > sizes[is_known][-1]
    times[beyond] = known[is_known][-1] * sizes[beyond] / sizes[is_known][-1]
    return times


def _context_index(context: int) -> int:
    return min(bisect_left(CONTEXTS, context), len(CONTEXTS) - 1)
