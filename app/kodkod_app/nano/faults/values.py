"""Wrong values: a constant, a bound off by one, a default. Each is undone by the same rewrites that make it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from kodkod_app.nano.faults.sites import Function, Rewrite, Source

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBERS = ("0", "1", "2")
_WORDS = {"True": ("False",), "False": ("True", "None"), "None": ("False",)}
_BESIDE_ONE = re.compile(r" [+-] 1")
_WITH_DEFAULT = {"get": 1, "pop": 1, "setdefault": 1, "getattr": 2, "next": 1}
"""Calls with a default, and its place among the arguments."""
_Plain = ast.Name | ast.Attribute | ast.Call | ast.Subscript


def constant(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """Another literal of the function, or a common one; not the number beside it."""
    if not _is_default(function, node):
        yield from _other_literals(function, node)


def off_by_one(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """The number beside; ` + 1` and ` - 1` put to a bound or taken from it."""
    if not _is_default(function, node):
        yield from _next_numbers(function, node)
    source = function.source
    if not isinstance(node, ast.expr) or not _is_bound(source, node):
        return
    if isinstance(node, _Plain):
        end = source.end(node)
        yield Rewrite(end, end, " + 1")
        yield Rewrite(end, end, " - 1")
    elif isinstance(node, ast.BinOp) and isinstance(node.left, _Plain):
        start, end = source.end(node.left), source.end(node)
        if _BESIDE_ONE.fullmatch(source.text, start, end):
            yield Rewrite(start, end, "")


def wrong_default(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    """Another literal for a parameter's default, or for the one given to `get` and its like."""
    if _is_default(function, node):
        yield from _other_literals(function, node)
        yield from _next_numbers(function, node)


def _is_default(function: Function, node: ast.AST) -> bool:
    if node in function.defaults:
        return True
    call = function.source.parent(node)
    if not isinstance(call, ast.Call) or node not in call.args:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    place = _WITH_DEFAULT.get(name)
    return place is not None and len(call.args) == place + 1 and call.args[place] is node


def _other_literals(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    text = function.literal(node)
    if text is None or _is_statement(function.source, node):
        return
    unsigned = _is_unsigned(function.source, node)
    for other in _pool(function, text):
        if other != text and not (unsigned and (text[0] == "-" or other[0] == "-")):
            yield _written(function.source, node, other)


def _pool(function: Function, text: str) -> list[str]:
    """What may stand for a literal. Only where the literal itself would still be in the pool without this place."""
    if text in _WORDS:
        return list(_WORDS[text])
    textual = text[0] in "'\""
    alike = [other for other in function.literals if other not in _WORDS and (other[0] in "'\"") is textual]
    if function.literals[text] < 2 and (textual or text not in _NUMBERS):
        return []
    pool = sorted({*alike, *(() if textual else _NUMBERS)})
    return [other for other in pool if not _are_neighbours(text, other)]


def _are_neighbours(one: str, other: str) -> bool:
    return bool(_WHOLE.fullmatch(one) and _WHOLE.fullmatch(other)) and abs(int(one) - int(other)) == 1


def _next_numbers(function: Function, node: ast.AST) -> Iterator[Rewrite]:
    text = function.literal(node)
    if text is None or not _WHOLE.fullmatch(text) or text == "-0":
        return
    unsigned = _is_unsigned(function.source, node)
    for number in (int(text) + 1, int(text) - 1):
        if not unsigned or (number >= 0 and text[0] != "-"):
            yield _written(function.source, node, str(number))


def _is_bound(source: Source, node: ast.expr) -> bool:
    """Whether it is an index, the end of a slice, one side of an order, or an argument of `range`."""
    match source.parent(node):
        case ast.Subscript(slice=place):
            return place is node
        case ast.Slice(lower=lower, upper=upper):
            return node in (lower, upper)
        case ast.Compare(ops=operators):
            return all(isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for operator in operators)
        case ast.Call(func=ast.Name(id="range"), args=places):
            return node in places
    return False


def _is_unsigned(source: Source, node: ast.AST) -> bool:
    """Whether a sign would read strangely, or bind otherwise than the number did."""
    return isinstance(source.parent(node), ast.BinOp | ast.UnaryOp | ast.Attribute | ast.Await)


def _is_statement(source: Source, node: ast.AST) -> bool:
    return isinstance(source.parent(node), ast.Expr)


def _written(source: Source, node: ast.AST, text: str) -> Rewrite:
    assert isinstance(node, ast.expr)
    return Rewrite(source.start(node), source.end(node), text)
