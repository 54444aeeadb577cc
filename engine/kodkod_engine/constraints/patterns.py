"""Allowed calls: a tool's name and its arguments, each with what its value may be.

An argument may depend on the values before it: its predecessor's `then` is asked once the value is known. So lines are
offered of the file that was chosen, and spans of the line that was chosen, and nothing is worked out for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import Late, OneOf, ValueAcceptor


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, and what comes after it."""

    key: str
    value: ValueAcceptor
    then: Callable[[str], Following] = lambda _: None
    """What may follow, given this one's text. The same text always gives the same."""


Following: TypeAlias = Argument | tuple[Argument | None, ...] | None
"""The argument that comes next; None: the call ends; several: one of them."""


@dataclass(frozen=True, slots=True)
class CallPattern:
    """Calls of one tool."""

    name: str
    first: Following = None
    """None for a call without arguments."""


@dataclass(frozen=True, slots=True)
class OpenCall:
    """Calls of one tool with their arguments in any order, each given once."""

    name: str
    follows: Callable[[Mapping[str, str]], Iterable[str | None]]
    """Keys that may come next after some arguments and their texts; None: the call may end. At least one."""
    value: Callable[[str, Mapping[str, str]], ValueAcceptor]
    """What a key's value may be, after some arguments and their texts; asked when the value begins."""

    @property
    def pattern(self) -> CallPattern:
        """As a pattern."""
        return CallPattern(self.name, self._following({}))

    def _following(self, given: Mapping[str, str]) -> Following:
        return tuple(None if key is None else self._argument(key, given) for key in self.follows(given))

    def _argument(self, key: str, given: Mapping[str, str]) -> Argument:
        value = Late(lambda: self.value(key, given))
        return Argument(key, value, lambda text: self._following({**given, key: text}))


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
    then: Callable[[Sequence[str]], Following] = lambda _: None,
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
    then: Callable[[Sequence[str]], Following],
) -> Argument:
    def after(text: str) -> Following:
        chosen = [row for row in table if row[column] == text]
        return then(chosen[0]) if column + 1 == len(keys) else _column(tokenizer, keys, chosen, column + 1, then)

    return Argument(keys[column], OneOf(tokenizer, (row[column] for row in table)), after)


def _always(argument: Argument | None) -> Callable[[str], Following]:
    return lambda _: argument
