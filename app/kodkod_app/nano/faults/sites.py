"""Where faults can stand: the expressions and statements of a source's functions, with what is in scope there."""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Attributes = dict[tuple[str, bool], Counter[str]]
"""How often each attribute is read, by the name it is read from and whether it is called."""

_LITERAL = re.compile(r"""-?\d[\w.]*|True|False|None|(['"])[^'"\\\n]*\1""")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The characters from `start` to `end` become `text`."""

    start: int
    end: int
    text: str


class Source:
    """A parsed source.

    Raises:
        SyntaxError: it does not parse.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._lines = text.split("\n")
        self._starts = [0, *accumulate(len(line) + 1 for line in self._lines)]
        self._attributes: dict[ast.ClassDef | None, Attributes] = {}
        self._parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @cached_property
    def dump(self) -> str:
        """The program without its formatting."""
        return ast.dump(self.tree)

    def line(self, number: int) -> str:
        """A line, counted from 1, without its end."""
        return self._lines[number - 1]

    def line_of(self, offset: int) -> int:
        """The line, counted from 1, on which a character stands."""
        return bisect_right(self._starts, offset)

    def line_start(self, number: int) -> int:
        """Offset of a line's first character."""
        return self._starts[number - 1]

    def start(self, node: ast.expr | ast.stmt) -> int:
        """Offset of a node's first character."""
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Offset behind a node's last character."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.end_lineno, node.end_col_offset)

    def text_of(self, node: ast.expr | ast.stmt) -> str:
        """A node as it is written."""
        return self.text[self.start(node) : self.end(node)]

    def parent(self, node: ast.AST) -> ast.AST:
        """The node that holds this one; the module holds itself."""
        return self._parents.get(node, self.tree)

    def between(self, left: ast.expr | ast.stmt, right: ast.expr) -> tuple[int, str]:
        """Offset and text of what stands between two nodes; no text where a comment is among it."""
        start = self.end(left)
        text = self.text[start : self.start(right)]
        return start, "" if "#" in text else text

    def is_called(self, node: ast.expr) -> bool:
        """Whether an expression is what a call calls."""
        parent = self.parent(node)
        return isinstance(parent, ast.Call) and parent.func is node

    def attributes(self, of: ast.ClassDef | None) -> Attributes:
        """The attributes read in a class, its methods counted among those called of `self`; None: in the source."""
        if of not in self._attributes:
            self._attributes[of] = self._read_in(of or self.tree)
        return self._attributes[of]

    def _read_in(self, place: ast.AST) -> Attributes:
        found: Attributes = {}
        for node in ast.walk(place):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found.setdefault((node.value.id, self.is_called(node)), Counter())[node.attr] += 1
        for method in place.body if isinstance(place, ast.ClassDef) else ():
            if isinstance(method, FunctionNode) and not method.name.startswith("__"):
                found.setdefault(("self", not method.decorator_list), Counter())[method.name] += 1
        return found

    def functions(self, lines: Collection[int] | None = None) -> Iterator[Function]:
        """The functions that have any of these lines; all by default."""
        for node in ast.walk(self.tree):
            if isinstance(node, FunctionNode) and _touches(node, lines):
                yield Function(self, node)

    def _offset(self, line: int, byte_column: int) -> int:
        text = self._lines[line - 1]
        column = byte_column if text.isascii() else len(text.encode()[:byte_column].decode())
        return self._starts[line - 1] + column


class Function:
    """One function: its own nodes (those of functions inside it are theirs) and what is in scope."""

    def __init__(self, source: Source, node: FunctionNode) -> None:
        self.source = source
        self.node = node

    def nodes(self, lines: Collection[int] | None = None) -> Iterator[ast.expr | ast.stmt]:
        """Expressions and statements, signature's defaults included, that touch these lines.

        Left out are annotations, docstrings and what stands inside f-strings, whose places Python 3.11 does not tell.
        """
        waiting: deque[ast.AST] = deque([*self.node.body[_has_docstring(self.node) :], *self.defaults])
        while waiting:
            node = waiting.popleft()
            if isinstance(node, ast.expr | ast.stmt):
                if not _touches(node, lines):
                    continue
                yield node
            waiting += _inner(node)

    @cached_property
    def is_async(self) -> bool:
        """Whether `await` may stand here."""
        return isinstance(self.node, ast.AsyncFunctionDef)

    @cached_property
    def defaults(self) -> tuple[ast.expr, ...]:
        """The defaults of its parameters."""
        given = self.node.args
        return (*given.defaults, *(default for default in given.kw_defaults if default is not None))

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The names bound here or in the functions around, sorted; not `self` and `cls`."""
        bound: set[str] = set()
        node: ast.AST = self.node
        while not isinstance(node, ast.Module):
            if isinstance(node, FunctionNode):
                bound |= _bound(node)
            node = self.source.parent(node)
        return tuple(sorted(bound - {"self", "cls", "_"}))

    @cached_property
    def literals(self) -> Counter[str]:
        """How often each short literal is written in the function."""
        found = (self.literal(node) for node in self.nodes())
        return Counter(text for text in found if text is not None)

    def literal(self, node: ast.AST) -> str | None:
        """A constant as it is written, with its sign; None for other nodes and for long or strange literals."""
        signed = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        value = node.operand if isinstance(node, ast.UnaryOp) and signed else node
        if not isinstance(value, ast.Constant) or (signed and not isinstance(value.value, int | float)):
            return None
        parent = self.source.parent(node)
        if not signed and isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub):
            return None
        assert isinstance(node, ast.expr)
        text = self.source.text_of(node)
        return text if len(text) <= _MAX_LITERAL_CHARS and _LITERAL.fullmatch(text) else None

    @property
    def attributes(self) -> Attributes:
        """What is read where this function lives: in its class, else in the whole source."""
        return self.source.attributes(self._class)

    @cached_property
    def _class(self) -> ast.ClassDef | None:
        node: ast.AST = self.node
        while not isinstance(node, ast.ClassDef | ast.Module):
            node = self.source.parent(node)
        return node if isinstance(node, ast.ClassDef) else None


_MAX_LITERAL_CHARS = 24


def _touches(node: ast.expr | ast.stmt, lines: Collection[int] | None) -> bool:
    if lines is None:
        return True
    last = node.end_lineno or node.lineno
    return any(line in lines for line in range(node.lineno, last + 1))


def _has_docstring(node: FunctionNode) -> bool:
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _inner(node: ast.AST) -> list[ast.AST]:
    """A node's children that belong to the same function and are told right by the parser."""
    if isinstance(node, FunctionNode | ast.ClassDef | ast.JoinedStr):
        return []
    if isinstance(node, ast.AnnAssign):
        return [child for child in (node.target, node.value) if child is not None]
    return list(ast.iter_child_nodes(node))


def _bound(node: FunctionNode) -> set[str]:
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    names = {argument.arg for argument in every if argument is not None}
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            names.add(inner.id)
        elif isinstance(inner, ast.ExceptHandler) and inner.name:
            names.add(inner.name)
        if not isinstance(inner, FunctionNode | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(inner)
    return names
