"""Paths of the project for `@`: as git sees the files, found by a few letters."""

from __future__ import annotations

import re
import time
from itertools import islice
from pathlib import Path

from textual.fuzzy import FuzzySearch

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
        self._fuzzy = FuzzySearch(case_sensitive=False)

    def find(self, fragment: str, limit: int = 8) -> list[str]:
        """The best matches, best first: letters in order, those at the beginning of a name count for more."""
        self._list()
        if not fragment:
            return sorted(self._paths, key=lambda path: (path.count("/"), path))[:limit]
        letters = re.compile(".*?".join(map(re.escape, fragment)), re.IGNORECASE)
        candidates = [path for path in self._paths if letters.search(path)]
        candidates.sort(key=lambda path: (fragment.casefold() not in path.casefold(), len(path)))
        scored = [(self._score(fragment, path), path) for path in candidates[:_MAX_SCORED]]
        return [path for _, path in sorted(scored, key=lambda one: (-one[0], len(one[1]), one[1]))[:limit]]

    def _score(self, fragment: str, path: str) -> float:
        name = path.rpartition("/")[2]
        whole, _ = self._fuzzy.match(fragment, path)
        of_name, _ = self._fuzzy.match(fragment, name)
        return whole + of_name

    def _list(self) -> None:
        now_s = time.monotonic()
        if now_s - self._listed_s > _FRESH_S:
            self._paths = list(islice(walk(self._work_tree), MAX_FILES))
            self._listed_s = now_s
