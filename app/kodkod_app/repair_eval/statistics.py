"""Shares, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

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
