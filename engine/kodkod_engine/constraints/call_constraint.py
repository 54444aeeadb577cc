"""The native call syntax as an automaton over token ids.

    <longcat_tool_call>NAME
    <longcat_arg_key>KEY</longcat_arg_key>
    <longcat_arg_value>VALUE</longcat_arg_value>
    </longcat_tool_call>
    EOS

A state is the set of *places* that the ids so far may have led to: within literal ids, or within a value. States are
made when they are first reached and kept under the ids that lead there, so that a step costs one look-up and any number
of streams and forks share them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import Piece, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.patterns import Argument, CallPattern

_TAGS = (Tag.TOOL_CALL, Tag.TOOL_CALL_END, Tag.ARG_KEY, Tag.ARG_KEY_END, Tag.ARG_VALUE, Tag.ARG_VALUE_END)


class _Place(Protocol):
    """Somewhere in a call."""

    def allowed(self) -> Collection[int]:
        """Ids that may follow."""
        ...

    def after(self, token_id: int) -> _Place | None:
        """The place behind one of them; None behind the last."""
        ...


class _State:
    """What is allowed after some ids, and the states behind each."""

    def __init__(self, places: Sequence[_Place]) -> None:
        self._allowed_at = [(place, place.allowed()) for place in places]
        self._next: dict[int, _State] = {}
        sets = [allowed for _, allowed in self._allowed_at]
        self.allowed: frozenset[int] = frozenset(sets[0]) if len(sets) == 1 else frozenset().union(*sets)

    def after(self, token_id: int) -> _State:
        """The state behind an id; nothing is allowed behind one that was not."""
        state = self._next.get(token_id)
        if state is None:
            reached = (place.after(token_id) for place, allowed in self._allowed_at if token_id in allowed)
            # Two threads may both get here; their states are equal, and either may stay.
            state = self._next[token_id] = _State([place for place in reached if place is not None])
        return state


class CallConstraint:
    """Exactly one call of those allowed, then the end of the turn. See `api.Constraint`.

    May be used by any number of requests at once, from any thread. It belongs to one moment of one conversation: ask
    for a new one before each turn.
    """

    def __init__(self, tokenizer: Tokenizer, patterns: Iterable[CallPattern]) -> None:
        """Build the beginning; the rest is built when it is reached.

        Raises:
            ValueError: no call is allowed, or the vocabulary lacks one of the tags that calls are written with.
        """
        missing = [tag.value for tag in _TAGS if tokenizer.special.id_of(tag) is None]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}; calls can only be constrained with it")
        grammar = _Grammar(tokenizer)
        self._start = _State([grammar.begin(pattern) for pattern in patterns])
        if not self._start.allowed:
            raise ValueError("no call is allowed; allow at least one")
        self.eos_id: int = tokenizer.eos_id
        """The last id of every turn."""

    def allowed_ids(self, generated_ids: Sequence[int]) -> frozenset[int]:
        """Ids that may follow; none after EOS, or after ids that were not allowed themselves."""
        state = self._start
        for token_id in generated_ids:
            state = state.after(token_id)
        return state.allowed


@dataclass(frozen=True, slots=True)
class _Literal:
    """Within ids that leave no choice."""

    ids: tuple[int, ...]
    index: int
    then: Callable[[], _Place | None]

    def allowed(self) -> Collection[int]:
        return (self.ids[self.index],)

    def after(self, token_id: int) -> _Place | None:
        del token_id
        index = self.index + 1
        return _Literal(self.ids, index, self.then) if index < len(self.ids) else self.then()


@dataclass(frozen=True, slots=True)
class _Value:
    """Within an argument's value."""

    grammar: _Grammar
    argument: Argument
    prefix_ids: tuple[int, ...] = ()

    def allowed(self) -> Collection[int]:
        following = frozenset(self.argument.value.next_ids(self.prefix_ids))
        if following and not self.argument.value.may_end(self.prefix_ids):
            return following
        return _with_end(following, self.grammar.value_end_id)

    def after(self, token_id: int) -> _Place | None:
        if token_id != self.grammar.value_end_id:
            return _Value(self.grammar, self.argument, (*self.prefix_ids, token_id))
        text = self.grammar.tokenizer.decode(self.prefix_ids)
        return self.grammar.after_value(self.argument.then(text))


@lru_cache(maxsize=64)
def _with_end(following: frozenset[int], value_end_id: int) -> frozenset[int]:
    # Kept because free text allows nearly the whole vocabulary, in the same few sets again and again.
    return following | {value_end_id}


class _Grammar:
    """Builds the literal parts between values, as `template.call_pieces` writes them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        (self.value_end_id,) = encode_pieces(tokenizer, [Tag.ARG_VALUE_END])

    def begin(self, pattern: CallPattern) -> _Place:
        return self._until(pattern.argument, [Tag.TOOL_CALL, f"{pattern.name}\n"])

    def after_value(self, argument: Argument | None) -> _Place:
        return self._until(argument, ["\n"])

    def _until(self, argument: Argument | None, pieces: list[Piece]) -> _Place:
        """The given pieces, then the next argument up to its value, or the end of the turn."""
        if argument is None:
            return self._literal([*pieces, Tag.TOOL_CALL_END, "\n", Tag.EOS], lambda: None)
        opening: list[Piece] = [Tag.ARG_KEY, argument.key, Tag.ARG_KEY_END, "\n", Tag.ARG_VALUE]
        return self._literal([*pieces, *opening], lambda: _Value(self, argument))

    def _literal(self, pieces: list[Piece], then: Callable[[], _Place | None]) -> _Place:
        return _Literal(tuple(encode_pieces(self.tokenizer, pieces)), 0, then)
