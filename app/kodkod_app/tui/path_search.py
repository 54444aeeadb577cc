"""Paths of the project for `@`: as git sees the files, found by a few letters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from kodkod_tools.walk import walk

MAX_FILES = 50_000
"""Looked at; a larger project is completed from its first ones."""
_MAX_SCORED = 500
_FRESH_S = 5.0


class PathSearch:
    """The files of one work tree, listed anew every few seconds at most. Blocking: for use from a thread."""

    def __init__(self, work_tree: Path) -> None:
        self._work_tree = work_tree
        self._paths: list[str] = []
        self._listed_s = float("-inf")

    def find(self, fragment: str, limit: int = 8) -> list[str]:
        """The best matches, best first: letters in order, those at the beginning of a name count for more."""
        self._list()
        if not fragment:
            return sorted(self._paths, key=lambda path: (path.count("/"), path))[:limit]
        letters = fragment.casefold()
        # Each letter where it comes first, so that what does not match is known at the first look.
        in_order = re.compile("".join(f"[^{one}]*{one}" for one in map(re.escape, letters)))
        candidates = [path for path in self._paths if in_order.match(path.casefold())]
        candidates.sort(key=lambda path: (letters not in path.casefold(), len(path)))
        scored = [(_score(letters, path.casefold()), path) for path in candidates[:_MAX_SCORED]]
        return [path for _, path in sorted(scored, key=lambda one: (-one[0], len(one[1]), one[1]))[:limit]]

    def _list(self) -> None:
        now_s = time.monotonic()
        if now_s - self._listed_s > _FRESH_S:
            self._paths = list(islice(walk(self._work_tree), MAX_FILES))
            self._listed_s = now_s


def _score(letters: str, path: str) -> int:
    return likeness(letters, path) + likeness(letters, path.rpartition("/")[2])


def likeness(letters: str, text: str) -> int:
    """How well letters stand in a text in their order, neighbours and beginnings of words best; 0 where they do not.

    Of all the ways to place the letters so far, the best that ends at each place is kept and no other: there may be
    millions of ways.
    """
    ends = [(-1, 0)]
    for letter in letters:
        ends = list(_ends(ends, letter, text))
        if not ends:
            return 0
    return max(score for _, score in ends)


def _ends(before: list[tuple[int, int]], letter: str, text: str) -> Iterator[tuple[int, int]]:
    """Where one letter more may end, and how well at best.

    Args:
        before: the same of the letters before it, by place.
    """
    best, seen = 0, 0
    place = text.find(letter, before[0][0] + 1)
    while place >= 0:
        while seen < len(before) and before[seen][0] < place:
            best, seen = max(best, before[seen][1]), seen + 1
        last, score = before[seen - 1]
        begins = place == 0 or not text[place - 1].isalnum()
        yield place, 1 + begins + max(best, score + 1 if last == place - 1 else 0)
        place = text.find(letter, place + 1)
