"""A `not` too many, a `not` missing: each undoes the other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from kodkod_app.nano.faults.sites import Function, Rewrite, Source

_NOT = re.compile(r"not (?=\S)")
_NEGATED = re.compile(r"(is) not\b|not (in)\b")
_PLAIN = re.compile(r"\b(?:is|in)\b")
_UNFIT = ast.NamedExpr | ast.Lambda | ast.Starred | ast.Yield | ast.YieldFrom | ast.IfExp | ast.GeneratorExp | ast.Tuple


def insert_not(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """`not` before a condition, operand, returned, assigned or passed value; `is` and `in` negated."""
    source = function.source
    if isinstance(node, ast.expr) and not _is_not(node) and not isinstance(node, _UNFIT) and _is_truth(source, node):
        at = _before_parentheses(source, node)
        if not _NOT.match(source.text, at):
            yield Rewrite(at, at, "not ")
    for start, between in _between_operands(source, node):
        found = _PLAIN.search(between)
        if found and not _NEGATED.search(between):
            negated = "is not" if found[0] == "is" else "not in"
            yield Rewrite(start + found.start(), start + found.end(), negated)


def remove_not(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """The same, taken back."""
    source = function.source
    if _is_not(node):
        assert isinstance(node, ast.UnaryOp)
        at = source.start(node)
        found = _NOT.match(source.text, at)
        if found and _is_truth(source, node) and not isinstance(node.operand, _UNFIT) and not _is_not(node.operand):
            yield Rewrite(at, found.end(), "")
    for start, between in _between_operands(source, node):
        if found := _NEGATED.search(between):
            yield Rewrite(start + found.start(), start + found.end(), found[1] or found[2])


def _is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _between_operands(source: Source, node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Compare):
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            yield source.between(left, right)


def _is_truth(source: Source, node: ast.expr) -> bool:
    """Whether the value is likely taken for true or false: where its parent puts it."""
    match source.parent(node):
        case ast.If(test=place) | ast.While(test=place) | ast.Assert(test=place) | ast.IfExp(test=place):
            return place is node
        case ast.Return(value=place) | ast.Assign(value=place) | ast.keyword(value=place):
            return place is node
        case ast.BoolOp():
            return True
        case ast.comprehension(ifs=places) | ast.Call(args=places):
            return node in places
    return False


def _before_parentheses(source: Source, node: ast.expr) -> int:
    """Where the expression starts, with the parentheses that hold it alone."""
    start, end = source.start(node), source.end(node)
    least = _least_start(source, node)
    while True:
        before = source.text[:start].rstrip(" ")
        behind = source.text[end:].lstrip(" ")
        if not before.endswith("(") or not behind.startswith(")") or len(before) <= least:
            return start
        start, end = len(before) - 1, len(source.text) - len(behind) + 1


def _least_start(source: Source, node: ast.expr) -> int:
    """The parentheses of a call are not the argument's."""
    parent = source.parent(node)
    if isinstance(parent, ast.keyword):
        return source.start(node) - 1
    if isinstance(parent, ast.Call):
        return source.text.index("(", source.end(parent.func)) + 1
    if isinstance(parent, ast.expr | ast.stmt):
        return source.start(parent)
    return 0
