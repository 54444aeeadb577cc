"""Edits of one line that could undo a slip: other operators, names in scope, literals of the function, and the like.

They are the rewrites that take planted faults back (`faults.planting`), found at the places where they fit.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from kodkod_app.nano.faults import FaultKind
from kodkod_app.nano.faults.planting import repair_rewrites
from kodkod_app.nano.faults.sites import Function, Rewrite, Source
from kodkod_app.nano.spans import Edit, edit_between


@dataclass(frozen=True, slots=True)
class PlausibleEdit:
    """One rewrite of one line of a source."""

    kind: FaultKind
    """Of the fault it would undo."""
    rewrite: Rewrite
    line: int
    """Counted from 1."""
    function: Function
    node: ast.expr | ast.stmt
    """Where it fits."""
    before: str
    """The line."""
    after: str

    @property
    def replaced(self) -> str:
        """What the rewrite takes the place of."""
        return self.function.source.text[self.rewrite.start : self.rewrite.end]

    @property
    def edit(self) -> Edit:
        """As it is written in a call."""
        return edit_between(self.line, self.before, self.after)


def plausible_edits(source: Source, lines: Collection[int]) -> list[PlausibleEdit]:
    """All that fit on these lines, each change once, in the order of kinds and places."""
    found: dict[tuple[int, str], PlausibleEdit] = {}
    for kind, function, node, rewrite in repair_rewrites(source, lines):
        edit = _on_one_line(source, kind, function, node, rewrite)
        if edit is not None:
            found.setdefault((edit.line, edit.after), edit)
    return list(found.values())


def plausible_in(text: str, lines: Collection[int]) -> list[PlausibleEdit]:
    """The same for a text; none for one that does not parse."""
    try:
        return plausible_edits(Source(text), lines)
    except (SyntaxError, ValueError, RecursionError):
        return []


def _on_one_line(
    source: Source, kind: FaultKind, function: Function, node: ast.expr | ast.stmt, rewrite: Rewrite
) -> PlausibleEdit | None:
    line = source.line_of(rewrite.start)
    before, start = source.line(line), source.line_start(line)
    if rewrite.end > start + len(before) or "\n" in rewrite.text:
        return None
    after = before[: rewrite.start - start] + rewrite.text + before[rewrite.end - start :]
    if after == before or not after.strip():
        return None
    return PlausibleEdit(kind, rewrite, line, function, node, before, after)


def lines_of(edits: Collection[PlausibleEdit]) -> Iterator[int]:
    """Where they are."""
    return (edit.line for edit in edits)
