"""Wrong operators: comparison, arithmetic, boolean. Each is undone by the same rewrites that make it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from kodkod_app.nano.faults.sites import Function, Rewrite

_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_ARITHMETIC = (("+", "-", "*", "/", "//", "%", "**"), ("&", "|", "^"), ("<<", ">>"))
_BOOLEAN = ("and", "or")
_COMPARISON = re.compile(r"<=|>=|==|!=|<|>")
_ARITHMETIC_OPERATOR = re.compile(r"\*\*|//|<<|>>|[-+*/%&|^]")
_BOOLEAN_OPERATOR = re.compile(r"\b(?:and|or)\b")


def comparison(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """Any order or equality for any other."""
    if isinstance(node, ast.Compare):
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            yield from _others(function, left, right, _COMPARISON, (_COMPARISONS,))


def arithmetic(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """Within arithmetic, within bits, within shifts; never beside a string literal."""
    if isinstance(node, ast.BinOp) and not _is_text(_last(node.left)) and not _is_text(_first(node.right)):
        yield from _others(function, node.left, node.right, _ARITHMETIC_OPERATOR, _ARITHMETIC)
    elif isinstance(node, ast.AugAssign) and not _is_text(_first(node.value)):
        yield from _others(function, node.target, node.value, _ARITHMETIC_OPERATOR, _ARITHMETIC)


def boolean(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """`and` for `or` and the other way round."""
    if isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from _others(function, left, right, _BOOLEAN_OPERATOR, (_BOOLEAN,))


def _others(
    function: Function, left: ast.expr, right: ast.expr, pattern: re.Pattern[str], groups: tuple[tuple[str, ...], ...]
) -> Iterator[Rewrite]:
    """The operator between two operands replaced by each other one of its group."""
    start, between = function.source.between(left, right)
    found = pattern.search(between)
    if found is None:
        return
    for group in groups:
        for other in group if found[0] in group else ():
            if other != found[0]:
                yield Rewrite(start + found.start(), start + found.end(), other)


def _first(node: ast.expr) -> ast.expr:
    """The operand written first: another operator may bind it otherwise."""
    return _first(node.left) if isinstance(node, ast.BinOp) else node


def _last(node: ast.expr) -> ast.expr:
    return _last(node.right) if isinstance(node, ast.BinOp) else node


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
