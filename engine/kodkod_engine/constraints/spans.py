"""A stretch of one line, quoted so that it stands for one place alone."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import PrefixState, ValueState


class SpanOfLine:
    """A run of the line's tokens that is not blank, stands once in the line, and alone is the same tokens.

    The last holds of every run of whole pre-tokens, and shuts out most cuts inside of a word.
    """

    def __init__(self, tokenizer: Tokenizer, line: str) -> None:
        """`line` has no line feed, and is not blank."""
        self._tokenizer = tokenizer
        self._line = line
        self._ids = tuple(tokenizer.encode_text(line))
        self._is_whole = cache(self._quotes_one_place)
        self._leads_on = cache(self._can_be_completed)

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return PrefixState(self)

    def next_ids(self, prefix_ids: tuple[int, ...]) -> Collection[int]:
        """See `PrefixAcceptor`."""
        place = len(prefix_ids)
        return frozenset(
            self._ids[start + place]
            for start in self._starts(prefix_ids)
            if start + place < len(self._ids) and self._leads_on(start, start + place + 1)
        )

    def may_end(self, prefix_ids: tuple[int, ...]) -> bool:
        """See `PrefixAcceptor`."""
        return any(self._is_whole(start, start + len(prefix_ids)) for start in self._starts(prefix_ids))

    def _starts(self, prefix_ids: tuple[int, ...]) -> list[int]:
        """Places in the line where these ids stand."""
        length = len(prefix_ids)
        return [start for start in range(len(self._ids)) if self._ids[start : start + length] == prefix_ids]

    def _can_be_completed(self, start: int, end: int) -> bool:
        """Whether ids[start:end], or more from the same start, may be quoted."""
        return any(self._is_whole(start, longer) for longer in range(end, len(self._ids) + 1))

    def _quotes_one_place(self, start: int, end: int) -> bool:
        ids = self._ids[start:end]
        text = self._tokenizer.decode(ids)
        at = self._line.find(text)
        is_once = bool(text.strip()) and at >= 0 and self._line.find(text, at + 1) < 0
        return is_once and tuple(self._tokenizer.encode_text(text)) == ids
