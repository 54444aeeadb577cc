"""Allowed calls: a tool's name and its arguments in order, each with what its value may be.

An argument may depend on the values before it: its predecessor's `then` is asked once the value is known. So lines are
offered of the file that was chosen, and spans of the line that was chosen, and nothing is worked out for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import OneOf, ValueAcceptor


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, and what comes after it."""

    key: str
    value: ValueAcceptor
    then: Callable[[str], Argument | None] = lambda _: None
    """The argument that follows, given this one's text; None ends the call. The same text always gives the same."""


@dataclass(frozen=True, slots=True)
class CallPattern:
    """Calls of one tool."""

    name: str
    argument: Argument | None = None
    """The first; None for a call without arguments."""


def call(name: str, *arguments: tuple[str, ValueAcceptor]) -> CallPattern:
    """Calls whose arguments do not depend on each other."""
    first: Argument | None = None
    for key, value in reversed(arguments):
        first = Argument(key, value, _always(first))
    return CallPattern(name, first)


def rows(
    tokenizer: Tokenizer,
    keys: Sequence[str],
    table: Iterable[Sequence[str]],
    then: Callable[[Sequence[str]], Argument | None] = lambda _: None,
) -> Argument:
    """Arguments whose values are together one row of a table, such as the places (path, start, end) of some functions.

    Args:
        tokenizer: the model's.
        keys: of the columns.
        table: at least one row, each with one text per key.
        then: the argument after them, given the whole row.

    Raises:
        ValueError: there are no rows or no keys, or a row has another length.
    """
    wanted = [tuple(row) for row in table]
    if not keys or not wanted or any(len(row) != len(keys) for row in wanted):
        raise ValueError(f"every row needs one value for each of {', '.join(keys) or 'the keys'}")
    return _column(tokenizer, keys, wanted, 0, then)


def _column(
    tokenizer: Tokenizer,
    keys: Sequence[str],
    table: Sequence[tuple[str, ...]],
    column: int,
    then: Callable[[Sequence[str]], Argument | None],
) -> Argument:
    def after(text: str) -> Argument | None:
        chosen = [row for row in table if row[column] == text]
        return then(chosen[0]) if column + 1 == len(keys) else _column(tokenizer, keys, chosen, column + 1, then)

    return Argument(keys[column], OneOf(tokenizer, (row[column] for row in table)), after)


def _always(argument: Argument | None) -> Callable[[str], Argument | None]:
    return lambda _: argument
