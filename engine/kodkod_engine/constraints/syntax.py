"""The native call syntax as places of an automaton.

    <longcat_tool_call>NAME
    <longcat_arg_key>KEY</longcat_arg_key>
    <longcat_arg_value>VALUE</longcat_arg_value>
    </longcat_tool_call>

What is between the tags and outside of values is written as `template.call_pieces` writes it, in the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.chat.template import encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.automaton import Literal, Place
from kodkod_engine.constraints.patterns import Argument, CallPattern, Following
from kodkod_engine.constraints.token_mask import with_id

_TAGS = (Tag.TOOL_CALL, Tag.TOOL_CALL_END, Tag.ARG_KEY, Tag.ARG_KEY_END, Tag.ARG_VALUE, Tag.ARG_VALUE_END)

Given: TypeAlias = tuple[tuple[str, str], ...]
"""Keys and texts of a call's arguments, in their order."""
Then: TypeAlias = Callable[[str, Given], Iterable[Place]]
"""The places behind a call, by the tool's name and the arguments."""
Begin: TypeAlias = Callable[[str, Argument], ValueState]
"""The beginning of an argument's value in a call of the named tool."""


class CallSyntax:
    """Builds the places of calls."""

    def __init__(self, tokenizer: Tokenizer, ending: Iterable[Piece] = (), begin: Begin | None = None) -> None:
        """Prepare.

        Args:
            tokenizer: the model's.
            ending: what follows the closing tag of a call.
            begin: instead of each value's own `start`.

        Raises:
            ValueError: the vocabulary lacks one of the tags that calls are written with.
        """
        missing = [tag.value for tag in _TAGS if tokenizer.special.id_of(tag) is None]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}; calls can only be constrained with it")
        self.tokenizer = tokenizer
        (self.call_id,) = encode_pieces(tokenizer, [Tag.TOOL_CALL])
        (self.value_end_id,) = encode_pieces(tokenizer, [Tag.ARG_VALUE_END])
        self.ending = tuple(ending)
        self.begin = begin or (lambda _, argument: argument.value.start())

    def ids(self, *pieces: Piece) -> tuple[int, ...]:
        """The tokens of some pieces."""
        return _encoded(self.tokenizer, pieces)

    def call(self, pattern: CallPattern, then: Then, *before: Piece) -> list[Place]:
        """The beginnings of a call, with what stands before its name."""
        return _Call(self, pattern.name, then).following((), pattern.first, (*before, f"{pattern.name}\n"))


@lru_cache(maxsize=4096)
def _encoded(tokenizer: Tokenizer, pieces: tuple[Piece, ...]) -> tuple[int, ...]:
    return tuple(encode_pieces(tokenizer, pieces))


@dataclass(frozen=True, slots=True)
class _Call:
    """One that is being written."""

    syntax: CallSyntax
    name: str
    then: Then

    def following(self, given: Given, following: Following, before: tuple[Piece, ...]) -> list[Place]:
        """What may come after some arguments, behind some pieces."""
        options = following if isinstance(following, tuple) else (following,)
        return [self._until(given, option, before) for option in options]

    def _until(self, given: Given, argument: Argument | None, before: tuple[Piece, ...]) -> Place:
        """The given pieces, then the next argument up to its value, or the end of the call."""
        syntax = self.syntax
        if argument is None:
            ids = syntax.ids(*before, Tag.TOOL_CALL_END, *syntax.ending)
            return Literal(ids, 0, lambda: self.then(self.name, given))
        ids = syntax.ids(*before, Tag.ARG_KEY, argument.key, Tag.ARG_KEY_END, "\n", Tag.ARG_VALUE)
        return Literal(ids, 0, lambda: [_Value(self, given, argument, syntax.begin(self.name, argument), None)])


@dataclass(frozen=True, slots=True)
class _Written:
    """The ids of a value so far, the last one first."""

    token_id: int
    before: _Written | None


@dataclass(frozen=True, slots=True, eq=False)
class _Value:
    """Within an argument's value."""

    call: _Call
    given: Given
    argument: Argument
    state: ValueState
    written: _Written | None

    def allowed(self) -> Collection[int]:
        """See `Place`."""
        following = self.state.allowed
        if following and not self.state.may_end:
            return following
        return with_id(following, self.call.syntax.value_end_id)

    def after(self, token_id: int) -> Iterable[Place]:
        """See `Place`."""
        if token_id != self.call.syntax.value_end_id:
            written = _Written(token_id, self.written)
            return [_Value(self.call, self.given, self.argument, self.state.after(token_id), written)]
        text = self._text()
        given = (*self.given, (self.argument.key, text))
        return self.call.following(given, self.argument.then(text), ("\n",))

    def _text(self) -> str:
        ids: list[int] = []
        written = self.written
        while written is not None:
            ids.append(written.token_id)
            written = written.before
        return self.call.syntax.tokenizer.decode(reversed(ids))
