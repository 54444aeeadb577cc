"""Any text, in whole characters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints import utf8
from kodkod_engine.constraints.acceptors import PrefixState, ValueState
from kodkod_engine.constraints.token_mask import TokenMask

if TYPE_CHECKING:
    from kodkod_engine.constraints.vocabulary import Vocabulary

_MAX_MISSING = 3
"""Bytes a character can lack after its first."""


class FreeText:
    """Up to `max_tokens` tokens without control characters, for which a caller's check says that they may end.

    The check is the caller's wish and not a promise: a text that used up its tokens ends, whatever the check says.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        may_end: Callable[[str], bool] = lambda _: True,
        forbidden_ids: Collection[int] = (),
    ) -> None:
        """Prepare.

        Args:
            tokenizer: the model's.
            max_tokens: of the text; at least 1.
            may_end: the check; the same text always gets the same answer.
            forbidden_ids: tokens that are not to be used.
        """
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._check = cache(may_end)
        vocabulary, forbidden = _vocabulary(tokenizer), TokenMask.of(forbidden_ids, tokenizer.vocab_size)
        self._ids = cache(lambda state, most: vocabulary.utf8_tokens(state, most, plain=True).without(forbidden))

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return PrefixState(self)

    def next_ids(self, prefix_ids: tuple[int, ...]) -> Collection[int]:
        """See `PrefixAcceptor`."""
        left = self._max_tokens - len(prefix_ids)
        return self._ids(self._utf8(prefix_ids), min(left - 1, _MAX_MISSING)) if left > 0 else frozenset()

    def may_end(self, prefix_ids: tuple[int, ...]) -> bool:
        """See `PrefixAcceptor`."""
        return self._utf8(prefix_ids) == utf8.BETWEEN and self._check(self._tokenizer.decode(prefix_ids))

    def _utf8(self, prefix_ids: tuple[int, ...]) -> int:
        return utf8.advance(utf8.BETWEEN, b"".join(map(self._tokenizer.bytes_of, prefix_ids)))


@dataclass(frozen=True, slots=True)
class AnyText:
    """Any text in whole characters, of any length."""

    tokenizer: Tokenizer
    may_be_empty: bool = True

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return AnyState(self.tokenizer, _vocabulary(self.tokenizer), utf8.BETWEEN, self.may_be_empty)


@dataclass(frozen=True, slots=True)
class AnyState:
    """See `ValueState`."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    utf8_state: int
    is_long_enough: bool

    @property
    def allowed(self) -> TokenMask:
        """See `ValueState`."""
        return self.vocabulary.utf8_tokens(self.utf8_state)

    @property
    def may_end(self) -> bool:
        """See `ValueState`."""
        return self.is_long_enough and self.utf8_state == utf8.BETWEEN

    def after(self, token_id: int) -> ValueState:
        """See `ValueState`."""
        reached = utf8.advance(self.utf8_state, self.tokenizer.bytes_of(token_id))
        if self.is_long_enough and reached == self.utf8_state:
            return self
        return AnyState(self.tokenizer, self.vocabulary, reached, is_long_enough=True)


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    from kodkod_engine.constraints.vocabulary import vocabulary_of  # loads numba, which takes half a second

    return vocabulary_of(tokenizer)
