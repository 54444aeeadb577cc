"""Replace a stretch of text that a model quoted, exactly or nearly.

The quotation is looked for as it stands, then through ever more tolerant readings; the first reading with any match
decides. Each tolerance that was needed is named in the outcome, and several matches are never chosen among by guess.
What the request does not change keeps the file's own spelling: line ends, white space, signs of untouched lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, islice

from kodkod_tools.text import normal
from kodkod_tools.text.indent import Shift, indent_of, relate
from kodkod_tools.text.lines import line_of, line_span
from kodkod_tools.text.merge import merge, with_ending
from kodkod_tools.text.nearest import Candidate, nearest


class Adjustment(StrEnum):
    """A difference between the quotation and the file that was overlooked."""

    LINE_ENDINGS = "line endings"
    FINAL_NEWLINE = "final newline"
    TRAILING_SPACE = "trailing white space"
    INDENTATION = "indentation"
    LOOK_ALIKES = "look-alike characters"


@dataclass(frozen=True, slots=True)
class Applied:
    """The text after the replacement, and the 1-based line ranges (first, last) of `text` that hold the new parts."""

    text: str
    regions: tuple[tuple[int, int], ...]
    adjustments: tuple[Adjustment, ...]


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several places match; their first lines, 1-based, in the text as it is."""

    lines: tuple[int, ...]
    adjustments: tuple[Adjustment, ...]


@dataclass(frozen=True, slots=True)
class Missed:
    """No place matches."""

    candidate: Candidate | None
    already_at: int | None
    """The line at which the new text stands already."""
    reason: str = ""
    """Why a place that nearly matched was not taken."""


Outcome = Applied | Ambiguous | Missed


@dataclass(frozen=True, slots=True)
class _Match:
    start: int
    end: int
    shift: Shift | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    """One tolerance: the normal form in which to compare, and whether whole lines may be indented otherwise."""

    steps: tuple[tuple[Adjustment, Callable[[normal.Normal], normal.Normal]], ...]
    shifted: bool = False

    def normal_form(self, text: str) -> normal.Normal:
        form = normal.identity(text)
        for _, step in self.steps:
            form = step(form)
        return form


_ENDS = (Adjustment.LINE_ENDINGS, normal.line_ends)
_SPACE = (Adjustment.TRAILING_SPACE, normal.trailing_space)
_SIGNS = (Adjustment.LOOK_ALIKES, normal.look_alikes)
_READINGS = (
    _Reading((_ENDS,)),
    _Reading((_ENDS, _SPACE)),
    _Reading((_ENDS, _SPACE), shifted=True),
    _Reading((_ENDS, _SIGNS, _SPACE)),
    _Reading((_ENDS, _SIGNS, _SPACE), shifted=True),
)


def replace(text: str, old: str, new: str, *, replace_all: bool = False, line: int | None = None) -> Outcome:
    """Put `new` for `old` in `text`.

    Args:
        text: the file.
        old: what is quoted from it; not empty.
        new: what to put there.
        replace_all: take every match (left to right, apart) instead of demanding a single one.
        line: 1-based; with several matches, take the one that covers this line.
    """
    if exact := _exact_matches(text, old):
        return _apply_exact(text, new, exact, replace_all, line)
    for reading in _READINGS:
        if matches := _find(text, old, reading):
            chosen = _choose(text, matches, replace_all, line)
            needed = _needed(text, old, reading, matches)
            if not chosen:
                return Ambiguous(_first_lines(text, matches), needed)
            return _apply(text, old, new, reading, chosen, needed)
    at = text.find(new) if new.strip() else -1
    return Missed(nearest(text, old), line_of(text, at) if at >= 0 else None)


def telling_lines(text: str, old: str, most: int) -> list[int] | None:
    """The lines, 1-based and in order, each of which tells one place where `old` stands from all others.

    None where it does not stand as it is in several places. Of the first `most` places alone: they may be very many.
    """
    starts = list(islice(_occurrences(text, old), most + 1))
    if len(starts) < 2:
        return None
    firsts, num_lines = _lines_of(text, starts), old[:-1].count("\n") + 1
    changes = Counter(firsts)
    changes.subtract(first + num_lines for first in firsts)
    end = firsts[-1] if len(firsts) > most else firsts[-1] + num_lines
    depths = accumulate(changes[line] for line in range(firsts[0], end))
    return [line for line, depth in enumerate(depths, firsts[0]) if depth == 1]


def tells_one_place(text: str, old: str, line: int | None = None) -> bool:
    """Whether `replace` would take one place of `old` as it stands: the only one, or the only one on that line."""
    if _stands_once(text, old):
        return True
    if line is None:
        return False
    first, last = line_span(text, line)
    return _stands_once(text[max(0, first + 1 - len(old)) : last + len(old)], old)


def _stands_once(text: str, old: str) -> bool:
    return len(list(islice(_occurrences(text, old), 2))) == 1


def _exact_matches(text: str, old: str) -> list[_Match]:
    return [_Match(at, at + len(old)) for at in _occurrences(text, old)]


def _occurrences(text: str, part: str) -> Iterator[int]:
    """All offsets, overlapping ones too: two overlapping places are two places."""
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _choose(text: str, matches: list[_Match], replace_all: bool, line: int | None) -> list[_Match]:
    """The matches to replace; none when it cannot be told which."""
    if replace_all:
        return _apart(matches)
    if len(matches) == 1:
        return matches
    if line is None:
        return []
    first, last = line_span(text, line)
    covering = [match for match in matches if match.start <= last and match.end > first]
    return covering if len(covering) == 1 else []


def _apart(matches: list[_Match]) -> list[_Match]:
    kept: list[_Match] = []
    for match in matches:
        if not kept or match.start >= kept[-1].end:
            kept.append(match)
    return kept


def _first_lines(text: str, matches: list[_Match]) -> tuple[int, ...]:
    return tuple(_lines_of(text, [match.start for match in matches]))


def _lines_of(text: str, offsets: list[int]) -> list[int]:
    """Of offsets in order."""
    lines: list[int] = []
    line, position = 1, 0
    for offset in offsets:
        line += text.count("\n", position, offset)
        position = offset
        lines.append(line)
    return lines


def _apply_exact(
    text: str, new: str, matches: list[_Match], replace_all: bool, line: int | None
) -> Applied | Ambiguous:
    chosen = _choose(text, matches, replace_all, line)
    if not chosen:
        return Ambiguous(_first_lines(text, matches), ())
    parts = [with_ending(text, match.start, match.end, new) for match in chosen]
    whole = [_with_whole_end(text, match, part) for match, part in zip(chosen, parts, strict=True)]
    adjusted = (Adjustment.LINE_ENDINGS,) if whole != [(match, new) for match in chosen] else ()
    return _rebuild(text, [match for match, _ in whole], [part for _, part in whole], adjusted)


def _with_whole_end(text: str, match: _Match, part: str) -> tuple[_Match, str]:
    r"""Of a quotation that begins with the `\n` of a `\r\n`: that line end stays whole, or goes whole."""
    if not text.startswith("\r\n", match.start - 1):
        return match, part
    if part.startswith(("\n", "\r\n")):
        return match, part.removeprefix("\r")
    return _Match(match.start - 1, match.end), part


def _apply(
    text: str, old: str, new: str, reading: _Reading, chosen: list[_Match], needed: tuple[Adjustment, ...]
) -> Applied | Missed:
    parts: list[str] = []
    for match in chosen:
        asked_old, asked_new = old, new
        if _beyond_end(text, old, match):
            asked_old, asked_new = old.removesuffix("\n").removesuffix("\r"), new.removesuffix("\n").removesuffix("\r")
        part = merge(text, (match.start, match.end), asked_old, asked_new, match.shift, reading.normal_form)
        if part is None:
            reason = "it matches with another indentation, but the new lines' indentation cannot be carried over"
            return Missed(nearest(text, old), None, reason)
        parts.append(part)
    return _rebuild(text, chosen, parts, needed)


def _beyond_end(text: str, old: str, match: _Match) -> bool:
    """Whether the quotation's last line end stands for the end of a file without a final newline."""
    return old.endswith("\n") and match.end == len(text) and not text.endswith("\n")


def _rebuild(text: str, matches: list[_Match], parts: list[str], adjustments: tuple[Adjustment, ...]) -> Applied:
    pieces: list[str] = []
    regions: list[tuple[int, int]] = []
    position, line = 0, 1
    for match, part in zip(matches, parts, strict=True):
        before = text[position : match.start]
        line += before.count("\n")
        last = line + part.count("\n")
        regions.append((line, last - 1 if part.endswith("\n") and last > line else last))
        pieces += [before, part]
        line, position = last, match.end
    return Applied("".join([*pieces, text[position:]]), tuple(regions), adjustments)


def _find(text: str, old: str, reading: _Reading) -> list[_Match]:
    there, asked = reading.normal_form(text), reading.normal_form(old).text
    if not asked.strip():
        return []
    if asked.endswith("\n") and not there.text.endswith("\n"):
        end = len(there.text)
        there = normal.rewrite(there, [normal.Piece(end, end, "\n")])
    if reading.shifted:
        return _find_shifted(there, asked)
    matches: list[_Match] = []
    for at in _occurrences(there.text, asked):
        end = at + len(asked)
        if _ends_whole(old, asked) and there.text[end : end + 1] not in ("", "\n"):
            continue
        matches.append(_Match(*there.original(at, end)))
    return matches


def _ends_whole(old: str, asked: str) -> bool:
    """Whether white space was dropped at the very end of the quotation: then a line must end there in the file too."""
    return old[-1:].isspace() and not asked[-1:].isspace()


def _find_shifted(there: normal.Normal, asked: str) -> list[_Match]:
    """Stretches of whole lines that equal the quotation's lines but for one constant shift of their indentation."""
    closed = asked.endswith("\n")
    wanted = asked.removesuffix("\n").split("\n")
    lines = there.text.split("\n")
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    stripped, target = [line.lstrip(" \t") for line in lines], [line.lstrip(" \t") for line in wanted]
    matches: list[_Match] = []
    for at in range(len(lines) - len(wanted) + 1):
        if stripped[at] != target[0] or stripped[at : at + len(wanted)] != target:
            continue
        full = [n for n, line in enumerate(target) if line]
        shift = relate([indent_of(wanted[n]) for n in full], [indent_of(lines[at + n]) for n in full])
        last = offsets[at + len(wanted)] - (not closed)
        if shift is not None and last <= len(there.text) + (not closed):
            matches.append(_Match(*there.original(offsets[at], min(last, len(there.text))), shift))
    return matches


def _needed(text: str, old: str, reading: _Reading, matches: list[_Match]) -> tuple[Adjustment, ...]:
    """The tolerances without which one of the matches would not be one."""
    needed: set[Adjustment] = set()
    for match in matches:
        there, asked = normal.identity(text[match.start : match.end]), normal.identity(old)
        if _beyond_end(text, old, match):
            needed.add(Adjustment.FINAL_NEWLINE)
            asked = normal.identity(old.removesuffix("\n").removesuffix("\r"))
        for adjustment, step in reading.steps:
            before = (there.text, asked.text)
            there, asked = step(there), step(asked)
            if before[0] != before[1] and (there.text, asked.text) != before:
                needed.add(adjustment)
        if there.text != asked.text and reading.shifted:
            needed.add(Adjustment.INDENTATION)
    return tuple(adjustment for adjustment in Adjustment if adjustment in needed)
