"""Which entries are to be mounted: those that are seen, and some on either side. Numbers alone, no widgets."""

from __future__ import annotations

from dataclasses import dataclass

from kodkod_app.tui.heights import Heights

OVERSCAN_SCREENS = 1.5
"""Mounted on either side of what is seen, when there is less than half of it."""
SLACK_SCREENS = 2.5
"""Removed beyond it, when there is something that is half as far again."""
MOST_FOLLOWED_LINES = 250
"""That stay mounted while the end is followed."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of the entries."""

    top: int
    """The first line; of no account while the end is followed."""
    screen_lines: int
    num_entries: int
    follows: bool
    """The end is what is seen, wherever it is."""


class Window:
    """The entries that are mounted: neighbours, from `first` up to, not including, `last`.

    Heights have to fit the entries and the width before anything is asked.
    """

    def __init__(self, heights: Heights) -> None:
        self._heights = heights
        self.first = self.last = 0

    @property
    def numbers(self) -> range:
        """Of the entries in it."""
        return range(self.first, self.last)

    @property
    def room(self) -> tuple[int, int]:
        """Lines to be left free for what comes before it, and after."""
        return self._heights.start(self.first), self._heights.total - self._heights.start(self.last)

    def begin_at(self, number: int) -> None:
        """Empty, before this entry."""
        self.first = self.last = number

    def begin_anew(self, sight: Sight) -> None:
        """Empty, where the entries that are seen begin; at the end where it is followed, to grow upwards from there."""
        first, last = self.wanted(sight)
        self.begin_at(last if sight.follows else first)

    def grow(self, numbers: range) -> None:
        """These, which are beside it, are in it now."""
        self.first, self.last = min(self.first, numbers.start), max(self.last, numbers.stop)

    def wanted(self, sight: Sight, margin_screens: float = 0.0) -> tuple[int, int]:
        """The entries that are seen, and those so many screens away: from, and up to."""
        margin = int(sight.screen_lines * margin_screens)
        top = self._heights.total - sight.screen_lines if sight.follows else sight.top
        end = self._heights.at(top + sight.screen_lines + margin) + 1
        last = sight.num_entries if sight.follows else min(end, sight.num_entries)
        return self._heights.at(top - margin), last

    def is_close(self, sight: Sight) -> bool:
        """Whether it meets the entries that are seen, so that it can grow towards them."""
        first, last = self.wanted(sight)
        return first <= self.last and self.first <= last

    def missing(self, sight: Sight, margin_screens: float = 0.0) -> range:
        """Entries on one side of it that belong to what is seen and so many screens around that."""
        first, last = self.wanted(sight, margin_screens)
        if self.last < last:
            return range(self.last, last)
        return range(first, self.first) if self.first > first else range(0)

    def missing_around(self, sight: Sight) -> range:
        """As above; there is nothing to do while there is half of what there should be."""
        if not self.missing(sight, OVERSCAN_SCREENS / 2):
            return range(0)
        return self.missing(sight, OVERSCAN_SCREENS)

    def far(self, sight: Sight) -> list[int]:
        """Numbers of entries to remove: none until some are far enough away for it to be worth it."""
        if sight.follows:
            mounted_lines = self._heights.start(self.last) - self._heights.start(self.first)
            if mounted_lines <= max(MOST_FOLLOWED_LINES, SLACK_SCREENS * sight.screen_lines * 1.5):
                return []
        first, last = self.wanted(sight, 1.5 * SLACK_SCREENS)
        if first <= self.first and self.last <= last:
            return []
        first, last = self.wanted(sight, SLACK_SCREENS)
        return [number for number in self.numbers if not first <= number < last]

    def let_go(self, sight: Sight) -> list[int]:
        """What is far is in it no longer; the numbers, as in `far`."""
        gone = self.far(sight)
        if gone:
            first, last = self.wanted(sight, SLACK_SCREENS)
            self.first, self.last = max(first, self.first), min(last, self.last)
        return gone
