"""Wrong names: another variable in scope, another attribute. Each is undone by the same rewrites that make it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from kodkod_app.nano.faults.sites import Function, Rewrite

_FAMILIES = (
    ("append", "extend", "insert"), ("append", "appendleft"), ("pop", "popleft"),
    ("add", "update", "discard", "remove"),
    ("keys", "values", "items"), ("strip", "lstrip", "rstrip"), ("startswith", "endswith"),
    ("upper", "lower", "title", "capitalize"), ("find", "rfind", "index", "rindex"), ("split", "rsplit", "splitlines"),
    ("partition", "rpartition"), ("match", "search", "fullmatch"), ("group", "groups"), ("start", "end"),
    ("union", "intersection", "difference"), ("min", "max"), ("isdigit", "isalpha", "isalnum", "isspace"),
    ("isupper", "islower"), ("ljust", "rjust"), ("read", "readline"), ("year", "month", "day"),
    ("hour", "minute", "second"), ("days", "seconds"), ("left", "right"), ("real", "imag"),
)  # fmt: skip
"""Attributes that people take for one another."""


def wrong_variable(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """A variable that is read replaced by each other one in scope."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in function.variables:
        start = function.source.start(node)
        for other in function.variables:
            if other != node.id:
                yield Rewrite(start, start + len(node.id), other)


def wrong_attribute(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """An attribute replaced by one of its family, or by one read elsewhere from a thing of the same name."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return
    end = function.source.end(node)
    for other in sorted(_alike(function, node) - {node.attr}):
        yield Rewrite(end - len(node.attr), end, other)


def _alike(function: Function, node: ast.Attribute) -> set[str]:
    others = {name for family in _FAMILIES if node.attr in family for name in family}
    if isinstance(node.value, ast.Name):
        pool = function.attributes.get((node.value.id, function.source.is_called(node)), Counter())
        if pool[node.attr] > 1:
            others |= set(pool)
    return others
