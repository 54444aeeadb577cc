"""What the failing tests say of an edit: how suspect its place is, and whether they speak of what it changes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kodkod_app.nano.faults import FaultKind
from kodkod_app.nano.faults.sites import Source
from kodkod_app.nano.ranking.plausible import PlausibleEdit

_ERROR = re.compile(
    r"^  (?:E +)?([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit|Iteration|Slow))\b", re.MULTILINE
)
_FRAME = re.compile(r"^(\S+?):(\d+)(?: in (\S+?))?(?:: (.*))?$", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*|\d[\w.]*")
_BINS = (0, 1, 2, 3, 5, 8, 12, 20)
_MIN_WORD = 2

Clue = tuple[object, ...]


class Located(Protocol):
    """A suspect, as the test tool finds it or as it is read from what the tool told."""

    @property
    def path(self) -> str:
        """Of the file."""
        ...

    @property
    def first_line(self) -> int:
        """Of the function."""
        ...

    @property
    def last_line(self) -> int:
        """Of the function."""
        ...

    @property
    def lines(self) -> tuple[int, ...]:
        """Run by failing tests, the most suspicious first."""
        ...

    @property
    def function(self) -> str:
        """Its name."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A line among the suspects."""

    suspect: Located
    rank: int
    """Of the suspect, from 0."""
    line_rank: int | None
    """Of the line among those of its suspect, from 0; None for one that no failing test runs."""
    is_own: bool
    """False where it is part of a statement that begins on the line that was run."""


class Failure:
    """What the test tool told, taken apart."""

    def __init__(self, output: str) -> None:
        told, _, _ = output.partition("\n\nRun by the failing tests")
        self.errors = tuple(dict.fromkeys(name.rpartition(".")[2] for name in _ERROR.findall(told)))[:2] or ("",)
        self.frames = {(path, int(line)) for path, line, _, _ in _FRAME.findall(told)}
        self.functions = {name for _, _, name, _ in _FRAME.findall(told) if name}
        first = told.partition("\n\n")[0]
        self.test = first.partition("\n")[0].rpartition("::")[2].lower()
        self.words = frozenset(_WORD.findall(first.partition("\n")[2]))
        self.num_failures = told.count("FAILED ") + told.count("ERROR ")
        self.is_compared = " == " in first


def places(suspects: Sequence[Located], path: str, source: Source) -> dict[int, Place]:
    """The lines of one file that may be edited, by number."""
    found: dict[int, Place] = {}
    starts = _statement_starts(source)
    for rank, suspect in enumerate(suspects):
        if suspect.path != path:
            continue
        order = {line: place for place, line in enumerate(suspect.lines)}
        for line in range(suspect.first_line, suspect.last_line + 1):
            of = line if line in order else starts.get(line, line)
            found.setdefault(line, Place(suspect, rank, order.get(of), line in order))
    return found


def clues(edit: PlausibleEdit, place: Place, failure: Failure) -> Iterator[Clue]:
    """Of one edit."""
    suspect, kind = place.suspect, edit.kind
    line_rank = "none" if place.line_rank is None else _bin(place.line_rank)
    yield ("kind", kind)
    yield "rank", min(place.rank, 8)
    yield "line", line_rank, place.is_own
    yield "line of", line_rank, _bin(len(suspect.lines))
    yield "both", min(place.rank, 4), line_rank
    yield "unlisted", kind, place.line_rank is None
    is_framed = (suspect.path, edit.line) in failure.frames
    yield "frame", is_framed, suspect.function in failure.functions
    yield "frame of", kind, is_framed
    for error in failure.errors[:1]:
        yield "error", kind, error
        yield "error at", error, is_framed, min(place.rank, 2)
        yield "error kind", kind, error, is_framed
    yield "compared", kind, failure.is_compared
    yield "failures", _bin(failure.num_failures), min(place.rank, 3)
    name = suspect.function.strip("_").lower()
    yield "tested", len(name) > _MIN_WORD and name in failure.test
    yield from _words(edit, failure)


def _words(edit: PlausibleEdit, failure: Failure) -> Iterator[Clue]:
    """Whether the failure names what goes and what comes."""
    before, after = set(_WORD.findall(edit.before)), set(_WORD.findall(edit.after))
    gone = {word for word in before - after if len(word) >= _MIN_WORD}
    come = {word for word in after - before if len(word) >= _MIN_WORD}
    if gone or come:
        yield "words", edit.kind, bool(gone & failure.words), bool(come & failure.words)
    if edit.kind is FaultKind.SWAPPED_ARGUMENTS:
        yield "words", edit.kind, bool(before & failure.words)


def _bin(number: int) -> int:
    return max(bound for bound in _BINS if number >= bound)


def _statement_starts(source: Source) -> dict[int, int]:
    """By line of a statement that goes on over several: its first."""
    found: dict[int, int] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            last = node.end_lineno or node.lineno
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                last = min(last, body[0].lineno - 1)
            for line in range(node.lineno, last + 1):
                found[line] = max(found.get(line, 0), node.lineno)
    return found
