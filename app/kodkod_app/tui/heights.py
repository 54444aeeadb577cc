"""How high the entries of a store are at one width: measured where they were mounted, estimated elsewhere."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from kodkod_app.tui import store as s

_MIN_HEIGHT = 2
"""Of an entry that was never measured: a line, and the gap below it."""
_MIN_WIDTH = 20


class Heights:
    """Lines per entry, and where each begins. Kept for thousands: a lookup costs no walk over all of them."""

    def __init__(self) -> None:
        self._width = 0
        self._lines: list[int] = []
        self._starts: list[int] | None = None

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def total(self) -> int:
        """Lines of all of them."""
        return self._all_starts()[-1]

    def fit(self, entries: list[s.Entry], width: int) -> None:
        """Know as many as there are, at this width; what was measured at another is estimated anew."""
        if width != self._width:
            self._width = width
            self._lines, self._starts = [], None
        if len(self._lines) < len(entries):
            self._lines += [estimate(entry, max(_MIN_WIDTH, width)) for entry in entries[len(self._lines) :]]
            self._starts = None

    def clear(self) -> None:
        """Forget all."""
        self._lines, self._starts = [], None

    def measure(self, number: int, lines: int) -> None:
        """An entry was seen to be so high."""
        if number < len(self._lines) and self._lines[number] != lines:
            self._lines[number], self._starts = lines, None

    def start(self, number: int) -> int:
        """The line an entry begins at; of the one after the last, the total."""
        return self._all_starts()[number]

    def at(self, y: int) -> int:
        """The entry that this line belongs to; the first before all, the last after all."""
        return max(0, min(bisect_right(self._all_starts(), y) - 1, len(self._lines) - 1))

    def _all_starts(self) -> list[int]:
        if self._starts is None:
            self._starts = list(accumulate(self._lines, initial=0))
        return self._starts


def estimate(entry: s.Entry, width: int) -> int:
    """Lines an entry takes that was never mounted."""
    match entry:
        case s.Said(text=text) | s.Note(text=text):
            return _MIN_HEIGHT - 1 + _wrapped(text, width)
        case s.Answer(text=text):
            return 1 + _wrapped(text, width)
        case s.Call(diff=diff) if diff is not None:
            return _MIN_HEIGHT + diff.unified.count("\n")
        case s.Welcome():
            return 5
        case s.Ending(files=files):
            return 4 + len(files)
        case _:
            return _MIN_HEIGHT


def _wrapped(text: str, width: int) -> int:
    return sum(1 + len(line) // (width - 4) for line in text.split("\n"))
