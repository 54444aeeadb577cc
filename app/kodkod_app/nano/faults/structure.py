"""Faults of form: arguments swapped, `return` or `await` forgotten, a statement left out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from kodkod_app.nano.faults.sites import Function, Rewrite, Source

_RETURN, _AWAIT = "return ", "await "
_Droppable = ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Raise | ast.Continue | ast.Break | ast.Delete


def swap_arguments(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """Two neighbours, by position or by keyword, exchanged. Undoes itself."""
    if isinstance(node, ast.Call):
        keywords = [keyword.value for keyword in node.keywords if keyword.arg]
        for left, right in (*pairwise(node.args), *pairwise(keywords)):
            if not isinstance(left, ast.Starred) and not isinstance(right, ast.Starred):
                yield from _swapped(function.source, left, right)


def remove_return(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """`return x` becomes `x`."""
    if isinstance(node, ast.Return) and node.value is not None and _may_stand_alone(node.value):
        yield from _without(function.source, node, _RETURN)


def insert_return(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """`x` becomes `return x`."""
    if isinstance(node, ast.Expr) and _may_stand_alone(node.value):
        start = function.source.start(node)
        yield Rewrite(start, start, _RETURN)


def remove_await(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """`await f()` becomes `f()`."""
    if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
        yield from _without(function.source, node, _AWAIT)


def insert_await(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """`f()` becomes `await f()`, in a coroutine."""
    source = function.source
    if isinstance(node, ast.Call) and function.is_async and not isinstance(source.parent(node), ast.Await):
        start = source.start(node)
        yield Rewrite(start, start, _AWAIT)


def drop_statement(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """A statement that has its line to itself and a neighbour in its block left out, line and all.

    The line before must have text, for the repair puts the statement behind it. Nothing says what was there, so no
    rewrite of a blind search undoes this.
    """
    source = function.source
    if not isinstance(node, _Droppable) or node.lineno != node.end_lineno or node.lineno == 1:
        return
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call | ast.Await | ast.Yield | ast.YieldFrom):
        return
    alone = source.line(node.lineno).strip(" ") == source.text_of(node)
    if alone and _has_neighbour(source, node) and source.line(node.lineno - 1).strip():
        yield Rewrite(source.line_start(node.lineno) - 1, source.end(node), "")


def _swapped(source: Source, left: ast.expr, right: ast.expr) -> Iterator[Rewrite]:
    one, other = source.text_of(left), source.text_of(right)
    start, end = source.start(left), source.end(right)
    whole = source.text[start:end]
    if one != other and "\n" not in whole:
        yield Rewrite(start, end, other + whole[len(one) : len(whole) - len(other)] + one)


def _may_stand_alone(value: ast.expr) -> bool:
    return not isinstance(value, ast.Constant | ast.Yield | ast.YieldFrom | ast.NamedExpr | ast.Starred | ast.Tuple)


def _without(source: Source, node: ast.expr | ast.stmt, word: str) -> Iterator[Rewrite]:
    start = source.start(node)
    if source.text.startswith(word, start):
        yield Rewrite(start, start + len(word), "")


def _has_neighbour(source: Source, node: ast.stmt) -> bool:
    parent = source.parent(node)
    blocks = (getattr(parent, name, None) for name in ("body", "orelse", "finalbody"))
    return any(isinstance(block, list) and node in block and len(block) > 1 for block in blocks)
