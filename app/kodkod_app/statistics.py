"""Shares, and how far they can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import fmean, stdev

_Z = 1.959963984540054
"""Of a normal distribution's middle 95 %."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with Wilson's 95 % interval (Wilson 1927, J. Am. Stat. Assoc. 22)."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """In [0, 1]; 0 of nothing is 0."""
        return self.count / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end; all of [0, 1] where nothing was counted."""
        if not self.total:
            return 0.0, 1.0
        share, z2 = self.value, _Z**2
        scale = 1 + z2 / self.total
        centre = (share + z2 / (2 * self.total)) / scale
        half = _Z * sqrt(share * (1 - share) / self.total + z2 / (4 * self.total**2)) / scale
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({self.count} of {self.total}; {100 * low:.1f} to {100 * high:.1f})"


def median(values: list[float]) -> float:
    """The middle one; 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True)
class Trials:
    """Trials of one task: so many, of which so many succeeded."""

    count: int
    successes: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.count:
            raise ValueError(f"{self.successes} of {self.count} trials cannot have succeeded")

    def any_of(self, k: int) -> float:
        """Probability that at least one of k trials drawn from these succeeded (Chen et al. 2021, unbiased)."""
        return 1.0 - comb(self.count - self.successes, k) / comb(self.count, k)

    def all_of(self, k: int) -> float:
        """Probability that each of k trials drawn from these succeeded (Yao et al. 2024)."""
        return comb(self.successes, k) / comb(self.count, k)


def pass_at_k(tasks: Sequence[Trials], k: int) -> float:
    """Share of tasks that k trials solve at least once; k is at most `largest_k`."""
    return fmean(task.any_of(k) for task in _with_trials(tasks, k))


def pass_hat_k(tasks: Sequence[Trials], k: int) -> float:
    """Share of tasks that k trials solve every time (pass^k)."""
    return fmean(task.all_of(k) for task in _with_trials(tasks, k))


def largest_k(tasks: Sequence[Trials]) -> int:
    """The largest k both can be told for: the smallest number of trials of any task; 0 of none."""
    return min((task.count for task in tasks), default=0)


def _with_trials(tasks: Sequence[Trials], k: int) -> Sequence[Trials]:
    if not 1 <= k <= largest_k(tasks):
        raise ValueError(f"k must be between 1 and the {largest_k(tasks)} trials that each task has, not {k}")
    return tasks


@dataclass(frozen=True, slots=True)
class Spread:
    """Some values of one quantity: how many, their mean, and their sample standard deviation."""

    count: int
    mean: float
    deviation: float | None
    """None of fewer than two."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Describe some values; the mean of none is 0."""
        deviation = stdev(values) if len(values) > 1 else None
        return cls(len(values), fmean(values) if values else 0.0, deviation)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same tasks (McNemar 1947): the tasks only one of them solved tell them apart."""

    only_first: int
    only_second: int
    both: int = 0
    neither: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool]]) -> Paired:
        """Count pairs of outcomes, one for each task that both runs tried."""
        seen = Counter(outcomes)
        return cls(seen[True, False], seen[False, True], seen[True, True], seen[False, False])

    @property
    def p_value(self) -> float:
        """Two-sided and exact: how likely a split at least this uneven is where both runs are equally good."""
        uneven = self.only_first + self.only_second
        if not uneven:
            return 1.0
        tail = sum(comb(uneven, number) for number in range(min(self.only_first, self.only_second) + 1))
        return min(1.0, 2.0 * tail / float(2**uneven))
