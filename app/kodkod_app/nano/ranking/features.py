"""What an edit changes in the code, as hashed features: is the code more usual with it than without?

Runs of tokens that the edit touches count for it as they are afterwards and against it as they were: so one table of
weights says how usual a run is. Runs are taken as written, and with names and strings taken for alike. Besides, there
is where the edit stands in the syntax tree, and how its names are used elsewhere in the function.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

from kodkod_app.nano.faults import FaultKind
from kodkod_app.nano.faults.sites import Function, Source
from kodkod_app.nano.ranking.plausible import PlausibleEdit

_TOKEN = re.compile(
    r"[A-Za-z_]\w*|\d[\w.]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|\*\*=?|//=?|>>=?|<<=?|[=!<>]=|->|:="
    r"|[-+*/%@&|^]=|#.*|\S"
)
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_WINDOW = 5
"""Tokens on either side of a change."""
_MOST_WRITTEN, _MOST_ALIKE = 4, 6
"""Tokens in a run, as written and with names taken for alike."""
_RELATED = 6
"""Tokens between two names that are compared."""
_KEPT = frozenset(keyword.kwlist) | frozenset(dir(builtins)) | {"self", "cls"}
"""Names that are what they say everywhere."""

Features = dict[int, int]
"""Count by hash, below 0 for what the edit takes away."""


def hashed(*parts: object) -> int:
    """The same in every process: 32 bits."""
    return crc32("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))


class FileView:
    """What the features of all edits in one file share."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._tokens: dict[int, list[str]] = {}
        self._uses: dict[ast.AST, Uses] = {}
        self.num_lines = source.text.count("\n") + 1

    def tokens(self, line: int) -> list[str]:
        """Of a line; none of a line that is not there."""
        if line not in self._tokens:
            self._tokens[line] = tokens(self.source.line(line)) if 1 <= line <= self.num_lines else []
        return self._tokens[line]

    def before(self, line: int) -> list[str]:
        """The last tokens before a line, and how the indentation changes."""
        return [*self._other(line, -1)[-_WINDOW:], self._step(line)]

    def behind(self, line: int) -> list[str]:
        """How the indentation changes behind a line, and the first tokens there."""
        number = self._number(line, 1)
        return [self._step(number), *self.tokens(number)[:_WINDOW]]

    def uses(self, function: Function) -> Uses:
        """How names are used in a function."""
        if function.node not in self._uses:
            self._uses[function.node] = Uses(function)
        return self._uses[function.node]

    def _number(self, line: int, step: int) -> int:
        """The next line with code on it."""
        number = line + step
        while 1 <= number <= self.num_lines and not self.tokens(number):
            number += step
        return number

    def _other(self, line: int, step: int) -> list[str]:
        return self.tokens(self._number(line, step))

    def _step(self, line: int) -> str:
        if not 1 <= line <= self.num_lines:
            return "<end>"
        above = self._number(line, -1)
        change = _indentation(self.source.line(line)) - (_indentation(self.source.line(above)) if above >= 1 else 0)
        return "<in>" if change > 0 else "<out>" if change < 0 else "<line>"


class Uses:
    """How a function uses its names."""

    def __init__(self, function: Function) -> None:
        self._node = function.node
        names = [node for node in ast.walk(function.node) if isinstance(node, ast.Name)]
        self.loads = Counter(node.id for node in names if isinstance(node.ctx, ast.Load))
        self.lines: dict[str, list[int]] = {}
        for node in names:
            self.lines.setdefault(node.id, []).append(node.lineno)
        self.stores = {node.id: node.lineno for node in reversed(names) if isinstance(node.ctx, ast.Store)}
        given = function.node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        self.parameters = [argument.arg for argument in every if argument is not None]

    @cached_property
    def attributes(self) -> Counter[str]:
        """Those that are named in it."""
        return Counter(node.attr for node in ast.walk(self._node) if isinstance(node, ast.Attribute))

    @cached_property
    def literals(self) -> Counter[str]:
        """Constants as their values are written."""
        return Counter(repr(node.value) for node in ast.walk(self._node) if isinstance(node, ast.Constant))

    @cached_property
    def returns(self) -> str:
        """Whether it returns values, nothing, or both."""
        found = {node.value is not None for node in ast.walk(self._node) if isinstance(node, ast.Return)}
        yields = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(self._node))
        return "yields" if yields else {1: "one", 2: "both"}.get(len(found), "none") + str(True in found)

    def distance(self, name: str, line: int) -> int:
        """Lines to the next use of a name."""
        found = sorted(self.lines.get(name, ()))
        at = bisect_left(found, line)
        return min((abs(line - other) for other in found[max(0, at - 1) : at + 2]), default=99)


def tokens(line: str) -> list[str]:
    """Of one line, without its comment."""
    found = _TOKEN.findall(line)
    return found[:-1] if found and found[-1].startswith("#") else found


def features(view: FileView, edit: PlausibleEdit) -> Features:
    """Of one edit."""
    found: Counter[int] = Counter()
    change = _change(view, edit)
    for stream, first, end, sign in ((change.after, change.first, change.end_after, 1),
                                     (change.before, change.first, change.end_before, -1)):  # fmt: skip
        for feature in _of_stream(stream, first, end):
            found[feature] += sign
    for place in _of_place(view, edit, change):
        found[hashed(edit.kind, *place)] += 1
    return {feature: count for feature, count in found.items() if count}


@dataclass(frozen=True, slots=True)
class _Change:
    """The tokens around a change, before and after."""

    before: list[str]
    after: list[str]
    first: int
    end_before: int
    end_after: int

    @property
    def old(self) -> str:
        return " ".join(self.before[self.first : self.end_before])

    @property
    def new(self) -> str:
        return " ".join(self.after[self.first : self.end_after])


def _change(view: FileView, edit: PlausibleEdit) -> _Change:
    old, new = view.tokens(edit.line), tokens(edit.after)
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    tail = next((i for i in range(shorter - head) if old[-1 - i] != new[-1 - i]), shorter - head)
    left = [*view.before(edit.line), *old[:head]][-_WINDOW:]
    right = [*old[len(old) - tail :], *view.behind(edit.line)][:_WINDOW]
    was, becomes = old[head : len(old) - tail], new[head : len(new) - tail]
    first = len(left)
    return _Change([*left, *was, *right], [*left, *becomes, *right], first, first + len(was), first + len(becomes))


def _of_stream(stream: Sequence[str], first: int, end: int) -> Iterator[int]:
    """Hashes of the runs that touch the tokens from `first` to `end`, or the seam where there are none."""
    alike = [_alike(token) for token in stream]
    for row, mark, most in ((stream, "w", _MOST_WRITTEN), (alike, "a", _MOST_ALIKE)):
        for length in range(1, most + 1):
            for start in _starts(first, end, length, len(stream)):
                yield hashed(mark, *row[start : start + length])
    for at in range(first, end):
        yield from _relations(stream, alike, at)


def _starts(first: int, end: int, length: int, total: int) -> range:
    """Of the runs of this length that touch the change."""
    least, most = max(0, first - length + 1), min(end if end > first else first, total - length + 1)
    return range(least, most)


def _relations(stream: Sequence[str], alike: Sequence[str], at: int) -> Iterator[int]:
    """Other names near by that are the same, or share a word."""
    if alike[at] not in ("<name>", "<text>"):
        return
    words = _words(stream[at])
    for other in range(max(0, at - _RELATED), min(len(stream), at + _RELATED + 1)):
        if other == at or alike[other] != alike[at]:
            continue
        between = alike[min(at, other) + 1 : max(at, other)]
        if stream[other] == stream[at]:
            yield hashed("same", at < other, *between)
        elif words & _words(stream[other]):
            yield hashed("word", at < other, *between)
        else:
            yield hashed("else", at < other, *between)


def _alike(token: str) -> str:
    first = token[0]
    if first in "'\"":
        return "<text>" if len(token) > 2 else '""'
    if first.isdigit():
        return token if len(token) == 1 else "<number>"
    if (first.isalpha() or first == "_") and token not in _KEPT:
        return "<NAME>" if token.isupper() else "<Name>" if first.isupper() else "<name>"
    return token


def _words(name: str) -> set[str]:
    return {word.lower() for word in _PARTS.findall(name) if len(word) > 1} or {name}


def _of_place(view: FileView, edit: PlausibleEdit, change: _Change) -> Iterator[tuple[object, ...]]:
    """Where it stands, and how its names are used."""
    source, node = edit.function.source, edit.node
    parent = source.parent(node)
    above = source.parent(parent)
    place = f"{type(parent).__name__}.{_field(parent, node)}"
    yield ("",)
    yield "at", place
    yield "at2", place, type(above).__name__, _field(above, parent)
    yield "node", type(node).__name__, place
    yield "change", _brief(change.old), _brief(change.new)
    yield "change at", _brief(change.old), _brief(change.new), place
    yield "body", place, _body_of(source, node)
    uses = view.uses(edit.function)
    if edit.kind is FaultKind.WRONG_VARIABLE:
        yield from _of_names(uses, edit, change)
    elif edit.kind in (FaultKind.MISSING_RETURN, FaultKind.MISSING_AWAIT):
        yield from _of_statement(uses, edit)
    elif edit.kind is FaultKind.WRONG_ATTRIBUTE:
        yield from _of_attribute(uses, edit, change)
    elif edit.kind in (FaultKind.CONSTANT, FaultKind.OFF_BY_ONE, FaultKind.WRONG_DEFAULT):
        literals = edit.function.literals
        yield "literal", _few(literals[change.old]), _few(literals[change.new])
        yield "literal of", place, _few(literals[change.old]), _few(literals[change.new])


def _of_attribute(uses: Uses, edit: PlausibleEdit, change: _Change) -> Iterator[tuple[object, ...]]:
    """How often the two are read from the same thing, here and elsewhere."""
    node = edit.node
    assert isinstance(node, ast.Attribute)
    base = node.value.id if isinstance(node.value, ast.Name) else ""
    is_called = edit.function.source.is_called(node)
    pool = edit.function.attributes.get((base, is_called), Counter())
    old, new = _last_word(change.old), _last_word(change.new)
    yield "pool", _few(pool[old]), _few(pool[new]), is_called
    yield "share", _few(5 * pool[new] // max(1, pool[old]))
    yield "here", _few(uses.attributes[old]), _few(uses.attributes[new])
    yield "on line", edit.after.count(f".{new}") > 1, edit.before.count(f".{old}") > 1
    yield "word", bool(_words(old) & _words(new)), is_called, base in ("self", "cls")
    yield "pair", old, new
    yield "of", base, is_called, new
    yield "of what", base if base in ("self", "cls") else bool(base), is_called, len(pool) > 3, len(pool) > 8


def _last_word(text: str) -> str:
    return text.rpartition(" ")[2]


def _of_names(uses: Uses, edit: PlausibleEdit, change: _Change) -> Iterator[tuple[object, ...]]:
    old, new = change.old, change.new
    yield "uses", _few(uses.loads[old]), _few(uses.loads[new])
    for mark, name in (("old", old), ("new", new)):
        is_parameter = name in uses.parameters
        bound = uses.stores.get(name, 0)
        when = "parameter" if is_parameter else "later" if bound > edit.line else "here" if bound == edit.line else ""
        yield mark, when, _few(uses.loads[name])
        yield f"{mark} near", min(4, uses.distance(name, edit.line)), _few(uses.loads[name])
        yield f"{mark} again", edit.after.split().count(name) > 1
    yield "on line", _few(change.after.count(new)), _few(change.before.count(old))
    yield "word", bool(_words(old) & _words(new)), len(old) == 1, len(new) == 1
    if old in uses.parameters and new in uses.parameters:
        yield "order", uses.parameters.index(new) - uses.parameters.index(old)


def _of_statement(uses: Uses, edit: PlausibleEdit) -> Iterator[tuple[object, ...]]:
    value = edit.node.value if isinstance(edit.node, ast.Expr) else edit.node
    kind = type(value).__name__
    block = _block(edit.function.source.parent(edit.node), edit.node)
    is_last = bool(block) and block[-1] is edit.node
    yield "statement", kind, is_last, uses.returns
    yield "statement of", kind, is_last, type(edit.function.source.parent(edit.node)).__name__
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        yield "calls", name, is_last
        yield "calls in", name, edit.function.node.name
    yield "function", edit.function.node.name.lstrip("_").split("_")[0], kind, is_last


def _block(parent: ast.AST, node: ast.AST) -> list[ast.stmt]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and node in block:
            return block
    return []


def _body_of(source: Source, node: ast.AST) -> str:
    """The first statement that a condition decides about."""
    while isinstance(node, ast.expr):
        node = source.parent(node)
    if isinstance(node, ast.If | ast.While):
        first = node.body[0]
        inner = getattr(first, "value", None)
        return f"{type(first).__name__} {type(inner).__name__ if inner is not None else ''} {bool(node.orelse)}"
    return type(node).__name__


def _field(parent: ast.AST, node: ast.AST) -> str:
    for name, value in ast.iter_fields(parent):
        if value is node:
            return name
        if isinstance(value, list) and node in value:
            return f"{name}{min(value.index(node), 2)}"
    return ""


def _brief(text: str) -> str:
    return " ".join(_alike(token) for token in text.split())


def _few(count: int) -> int:
    return min(count, 3)


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
