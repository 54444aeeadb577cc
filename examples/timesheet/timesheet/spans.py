"""Spans of time within a day, in minutes since midnight; the end is not part of a span."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """From `start` up to `end`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError("a span cannot end before it begins")

    @property
    def minutes(self) -> int:
        """Its length."""
        return self.end - self.start

    def overlaps(self, other: Span) -> bool:
        """Whether they have a minute in common; spans that only touch have none."""
        return self.start <= other.end and other.start < self.end

    def contains(self, minute: int) -> bool:
        """Whether a minute is in it."""
        return self.start <= minute < self.end


def merge(spans: Iterable[Span]) -> list[Span]:
    """The same minutes in as few spans as will do, in order."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            last = merged.pop()
            merged.append(Span(last.start, max(last.end, span.end)))
        else:
            merged.append(span)
    return merged


def gaps(spans: Iterable[Span], within: Span) -> list[Span]:
    """What is left free of `within`."""
    free: list[Span] = []
    at = within.start
    for span in merge(spans):
        if span.start > at:
            free.append(Span(at, min(span.start, within.end)))
        at = max(at, span.end)
        if at >= within.end:
            return free
    free.append(Span(at, within.end))
    return free
