"""Where a request that matched nowhere was probably meant, and what differs there."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass

from kodkod_tools.text.lines import split

_MAX_LINES = 20_000
"""Lines of a file that are compared; beyond that a miss names no candidate."""
_MAX_QUOTED_LINES = 2_000
"""The same of a request."""
_MAX_LETTERS = 2_000
"""Characters of a stretch whose letters are compared; of a longer one its words are, for letters take their square."""
_WORTH_SHOWING = 0.5
"""Least similarity, 0 to 1, at which a candidate helps more than it misleads."""
_CLOSE_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """The stretch of lines most like the request."""

    first_line: int
    lines: tuple[str, ...]
    differences: tuple[tuple[int, str, str], ...]
    """Line number, the file's line, the request's line, for each line that differs."""


def nearest(text: str, old: str) -> Candidate | None:
    """The stretch of `text` with as many lines as `old` that is most like it, or None when nothing is like it."""
    lines, wanted = split(text), split(old)
    if not lines or not wanted or len(lines) > _MAX_LINES or len(wanted) > _MAX_QUOTED_LINES:
        return None
    count = min(len(wanted), len(lines))
    scored = [(_likeness(lines[at : at + count], wanted), -at) for at in _promising(lines, wanted, count)]
    if not scored or max(scored)[0] < _WORTH_SHOWING:
        return None
    at = -max(scored)[1]
    there = lines[at : at + count]
    differences = [
        (number, is_there, asked)
        for number, is_there, asked in zip(range(at + 1, at + count + 1), there, wanted, strict=False)
        if is_there != asked
    ]
    return Candidate(at + 1, tuple(there), tuple(differences))


def _likeness(there: list[str], wanted: list[str]) -> float:
    one, other = "\n".join(there), "\n".join(wanted)
    if len(one) + len(other) > 2 * _MAX_LETTERS:
        return difflib.SequenceMatcher(None, one.split(), other.split()).ratio()
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _promising(lines: list[str], wanted: list[str], count: int) -> list[int]:
    """The starts of the few stretches worth a close look: those that share most lines, or most words."""
    last = len(lines) - count
    votes: Counter[int] = Counter()
    places: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        if line.strip():
            places.setdefault(line.strip(), []).append(number)
    for offset, line in enumerate(wanted):
        for number in places.get(line.strip(), [])[:200]:
            votes[min(max(number - offset, 0), last)] += 1
    if not votes:
        words = Counter(" ".join(wanted).split())
        for number, line in enumerate(lines):
            shared = sum(min(times, words[word]) for word, times in Counter(line.split()).items())
            if shared:
                votes[min(number, last)] += shared
    if not votes:
        short = [line for line in places if len(line) <= _MAX_LETTERS][:2_000]
        close = difflib.get_close_matches(wanted[0].strip(), short, n=_CLOSE_LOOKS, cutoff=_WORTH_SHOWING)
        votes.update(min(places[line][0], last) for line in close)
    return [at for at, _ in sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))[:_CLOSE_LOOKS]]
