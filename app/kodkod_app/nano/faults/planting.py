"""Faults planted in a source, and the edits that a blind search tries against them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from kodkod_app.nano.faults import names, negations, operators, structure, values
from kodkod_app.nano.faults.kinds import Fault, FaultKind
from kodkod_app.nano.faults.sites import Function, Rewrite, Source
from kodkod_app.nano.spans import Edit, edit_between

Rewrites = Callable[[Function, ast.AST], Iterator[Rewrite]]


@dataclass(frozen=True, slots=True)
class _Mutator:
    """`breaks` makes the fault at a node; `repairs` has what undoes it among its rewrites of the broken node."""

    breaks: Rewrites
    repairs: Rewrites | None


_MUTATORS: Mapping[FaultKind, _Mutator] = {
    FaultKind.COMPARISON: _Mutator(operators.comparison, operators.comparison),
    FaultKind.ARITHMETIC: _Mutator(operators.arithmetic, operators.arithmetic),
    FaultKind.BOOLEAN: _Mutator(operators.boolean, operators.boolean),
    FaultKind.NEGATION: _Mutator(negations.insert_not, negations.remove_not),
    FaultKind.CONSTANT: _Mutator(values.constant, values.constant),
    FaultKind.OFF_BY_ONE: _Mutator(values.off_by_one, values.off_by_one),
    FaultKind.WRONG_VARIABLE: _Mutator(names.wrong_variable, names.wrong_variable),
    FaultKind.WRONG_ATTRIBUTE: _Mutator(names.wrong_attribute, names.wrong_attribute),
    FaultKind.SWAPPED_ARGUMENTS: _Mutator(structure.swap_arguments, structure.swap_arguments),
    FaultKind.MISSING_RETURN: _Mutator(structure.remove_return, structure.insert_return),
    FaultKind.MISSING_AWAIT: _Mutator(structure.remove_await, structure.insert_await),
    FaultKind.MISSING_NOT: _Mutator(negations.remove_not, negations.insert_not),
    FaultKind.WRONG_DEFAULT: _Mutator(values.wrong_default, values.wrong_default),
    FaultKind.DROPPED_STATEMENT: _Mutator(structure.drop_statement, None),
}


class Candidates:
    """The faults that some lines of a source admit, to be drawn one after another."""

    def __init__(self, source: str, lines: Collection[int] | None = None) -> None:
        """Take a whole file; there are no candidates in what is no Python."""
        self._source = _parsed(source)
        self._left = _candidates(self._source, lines) if self._source else {}

    @property
    def kinds(self) -> tuple[FaultKind, ...]:
        """Those that may be left, in one order."""
        return tuple(sorted(self._left))

    def draw(self, kind: FaultKind, rng: Random) -> Fault | None:
        """One that was not drawn before; None when there are no more of the kind."""
        while self._source and (rewrites := self._left.get(kind)):
            rewrite = rewrites.pop(rng.randrange(len(rewrites)))
            if fault := _checked(self._source, kind, rewrite):
                return fault
        self._left.pop(kind, None)
        return None


def plant(
    source: str, rng: Random, kinds: Collection[FaultKind] | None = None, lines: Collection[int] | None = None
) -> Fault | None:
    """One fault, each kind that the source admits being equally likely; None where there is none or no Python.

    Args:
        source: a whole file.
        rng: what decides.
        kinds: those wanted; all by default.
        lines: where the fault may stand, counted from 1; anywhere in a function by default.
    """
    candidates = Candidates(source, lines)
    offered = [kind for kind in candidates.kinds if kinds is None or kind in kinds]
    rng.shuffle(offered)
    drawn = (candidates.draw(kind, rng) for kind in offered)
    return next((fault for fault in drawn if fault is not None), None)


def all_faults(source: str, lines: Collection[int] | None = None) -> Iterator[Fault]:
    """Every fault that `plant` could choose, by kind, then by place. Each is checked by parsing the file again."""
    parsed = _parsed(source)
    if parsed is None:
        return
    for kind, rewrites in sorted(_candidates(parsed, lines).items()):
        faults = (_checked(parsed, kind, rewrite) for rewrite in rewrites)
        yield from (fault for fault in faults if fault is not None)


def inverse_edits(source: str, lines: Collection[int]) -> list[Edit]:
    """What could undo a fault on these lines: each edit once, by line. None for a source that does not parse.

    A few of them leave a source that does not parse: whoever tries them finds that out for nothing. Every kind is there
    but the dropped statement, whose text is lost.
    """
    parsed = _parsed(source)
    if parsed is None:
        return []
    edits = (_edit(parsed, rewrite) for _, _, _, rewrite in repair_rewrites(parsed, lines))
    found = dict.fromkeys(edit for edit in edits if edit is not None)
    return sorted(found, key=lambda edit: edit.line)


def repair_rewrites(
    source: Source, lines: Collection[int] | None
) -> Iterator[tuple[FaultKind, Function, ast.expr | ast.stmt, Rewrite]]:
    """The rewrites behind `inverse_edits`, with the function and the node where each fits. Some may come twice."""
    repairs = {kind: mutator.repairs for kind, mutator in _MUTATORS.items() if mutator.repairs}
    return _placed(source, repairs, lines)


@functools.lru_cache(maxsize=64)
def _parsed(source: str) -> Source | None:
    """None where lines cannot be counted alike by everyone, or nothing can be parsed."""
    if "\r" in source or "\0" in source:
        return None
    try:
        return Source(source)
    except (SyntaxError, RecursionError):
        return None


def _candidates(source: Source, lines: Collection[int] | None) -> dict[FaultKind, list[Rewrite]]:
    found: dict[FaultKind, list[Rewrite]] = {}
    breaks = {kind: mutator.breaks for kind, mutator in _MUTATORS.items()}
    for kind, _, _, rewrite in _placed(source, breaks, lines):
        found.setdefault(kind, []).append(rewrite)
    return found


def _placed(
    source: Source, of: Mapping[FaultKind, Rewrites], lines: Collection[int] | None
) -> Iterator[tuple[FaultKind, Function, ast.expr | ast.stmt, Rewrite]]:
    """Those whose last character is on one of the lines: for a dropped statement that is its own line."""
    for function in source.functions(lines):
        for node in function.nodes(lines):
            for kind, rewrites in of.items():
                for rewrite in rewrites(function, node):
                    if lines is None or source.line_of(rewrite.end) in lines:
                        yield kind, function, node, rewrite


def _checked(source: Source, kind: FaultKind, rewrite: Rewrite) -> Fault | None:
    """The fault, if the broken file parses and is another program."""
    broken = source.text[: rewrite.start] + rewrite.text + source.text[rewrite.end :]
    try:
        tree = ast.parse(broken)
    except (SyntaxError, ValueError):
        return None
    if ast.dump(tree) == source.dump:
        return None
    return _fault(source, kind, rewrite)


def _fault(source: Source, kind: FaultKind, rewrite: Rewrite) -> Fault | None:
    line, sound, broken = _texts(source, rewrite)
    if "\n" in broken:
        return None
    repair = edit_between(line, broken, sound)
    edit = Edit(line, repair.new, repair.old) if "\n" in sound else edit_between(line, sound, broken)
    return Fault(kind, edit, repair)


def _edit(source: Source, rewrite: Rewrite) -> Edit | None:
    line, before, after = _texts(source, rewrite)
    return edit_between(line, before, after) if before != after and "\n" not in before + after else None


def _texts(source: Source, rewrite: Rewrite) -> tuple[int, str, str]:
    """Number of the first line that a rewrite touches, and the lines touched before and after it."""
    line = source.line_of(rewrite.start)
    start = source.line_start(line)
    end = source.text.find("\n", rewrite.end)
    end = len(source.text) if end < 0 else end
    after = source.text[start : rewrite.start] + rewrite.text + source.text[rewrite.end : end]
    return line, source.text[start:end], after
