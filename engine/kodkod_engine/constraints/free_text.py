"""Any text, in whole characters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, lru_cache
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
    may_be_blank: bool = True
    """Whether spaces, tabs and line ends alone are a text."""
    not_first: bytes = b""
    """What it does not begin with, if anything."""

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return AnyState(self, _vocabulary(self.tokenizer), utf8.BETWEEN, True, self.may_be_empty and self.may_be_blank)


@dataclass(frozen=True, slots=True)
class AnyState:
    """See `ValueState`."""

    text: AnyText
    vocabulary: Vocabulary
    utf8_state: int
    is_first: bool
    is_text: bool
    """It may end here, if this is the end of a character."""

    @property
    def allowed(self) -> TokenMask:
        """See `ValueState`."""
        allowed = self.vocabulary.utf8_tokens(self.utf8_state)
        if self.is_first and self.text.not_first:
            return allowed.without(_beginning_with(self.text.tokenizer, self.text.not_first))
        return allowed

    @property
    def may_end(self) -> bool:
        """See `ValueState`."""
        return self.is_text and self.utf8_state == utf8.BETWEEN

    def after(self, token_id: int) -> ValueState:
        """See `ValueState`."""
        data = self.text.tokenizer.bytes_of(token_id)
        reached = utf8.advance(self.utf8_state, data)
        if self.is_text and not self.is_first and reached == self.utf8_state:
            return self
        is_text = self.is_text or self.text.may_be_blank or not data.isspace()
        return AnyState(self.text, self.vocabulary, reached, False, is_text)


@lru_cache(maxsize=16)
def _beginning_with(tokenizer: Tokenizer, data: bytes) -> TokenMask:
    ids = (token_id for token_id in range(tokenizer.vocab_size) if tokenizer.bytes_of(token_id).startswith(data))
    return TokenMask.of(ids, tokenizer.vocab_size)


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    from kodkod_engine.constraints.vocabulary import vocabulary_of  # loads numba, which takes half a second

    return vocabulary_of(tokenizer)
