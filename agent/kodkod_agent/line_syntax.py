"""Does a Python file still parse when one line of it is another? Told without parsing all of it each time."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import NamedTuple

from kodkod_tools.files import parse_python

_UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_WRAPPER = "class _:\n"
"""Before a function that is indented."""


class LineSyntax:
    """One line of one file. Of the file only the innermost function around the line is parsed again.

    A function that parses at the same indentation as before leaves the rest as it was. Files that do not parse to begin
    with are not held against a line.
    """

    def __init__(self, text: str, line: int) -> None:
        """`line` is counted from 1."""
        lines, places = text.split("\n"), _functions(text)
        around = [place for place in places or () if place.first_line <= line <= place.last_line]
        first, last, self._column = max(around, default=_Function(1, len(lines), 0))
        self._head, self._tail = lines[first - 1 : line - 1], lines[line:last]
        self._indentation = _indentation(lines[line - 1])
        self._is_checked = places is not None

    def accepts(self, new_line: str) -> bool:
        """Whether the file parses with this for the line; it may be several, joined by line feeds."""
        if not self._is_checked:
            return True
        if _indentation(new_line) != self._indentation:
            return False
        body = "\n".join([*self._head, new_line, *self._tail, ""])
        if not self._column:
            return _parsed(body) is not None
        tree = _parsed(_WRAPPER + body)
        return tree is not None and len(tree.body) == 1


def _parsed(text: str) -> ast.Module | None:
    try:
        return parse_python(text)
    except _UNPARSABLE:
        return None


class _Function(NamedTuple):
    """Where a function stands, its decorators included; of functions around one line the innermost is the largest."""

    first_line: int
    last_line: int
    column: int


@lru_cache(maxsize=8)
def _functions(text: str) -> tuple[_Function, ...] | None:
    """Of a file; None when it does not parse."""
    tree = _parsed(text)
    if tree is None:
        return None
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return tuple(_Function(_first_line(node), node.end_lineno or node.lineno, node.col_offset) for node in found)


def _first_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
