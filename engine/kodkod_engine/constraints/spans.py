"""A stretch of one line, quoted so that it stands for one place alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import ValueState

MOST_TOKENS = 64
"""Of a span that is not its whole line. A line of data may have thousands, and as many spans as their square."""


class SpanOfLine:
    """A run of the line's tokens that is not blank, stands once in the line, and alone is the same tokens.

    The last holds of every run of whole pre-tokens, and shuts out most cuts inside of a word. The whole line is one;
    all others have at most `MOST_TOKENS`.
    """

    def __init__(self, tokenizer: Tokenizer, line: str) -> None:
        """`line` has no line feed, and is not blank."""
        self._tokenizer = tokenizer
        self._line = line
        self.ids: tuple[int, ...] = tuple(tokenizer.encode_text(line))
        pieces = [tokenizer.bytes_of(token_id) for token_id in self.ids]
        self._data = b"".join(pieces)
        self._ends = (0, *accumulate(map(len, pieces)))
        self.may_quote = cache(self._may_quote)
        self.leads_on = cache(self._leads_on)

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return _Span(self, tuple(range(len(self.ids))), 0)

    def _leads_on(self, start: int, end: int) -> bool:
        """Whether ids[start:end], or more from the same start, may be quoted."""
        if start == 0:
            return True
        last = min(start + MOST_TOKENS, len(self.ids))
        # What stands twice has no beginning that stands once.
        return self._stands_once(start, last) and any(self.may_quote(start, longer) for longer in range(end, last + 1))

    def _may_quote(self, start: int, end: int) -> bool:
        """Whether ids[start:end] may be quoted."""
        ids = self.ids[start:end]
        if len(ids) > MOST_TOKENS and ids != self.ids:
            return False
        text = self._tokenizer.decode(ids)
        is_told = bool(text.strip()) and text in self._line and self._stands_once(start, end)
        return is_told and tuple(self._tokenizer.encode_text(text)) == ids

    def _stands_once(self, start: int, end: int) -> bool:
        run = self._data[self._ends[start] : self._ends[end]]
        at = self._data.find(run)
        return self._data.find(run, at + 1) < 0


@dataclass(frozen=True)
class _Span:
    """See `ValueState`."""

    line: SpanOfLine
    starts: tuple[int, ...]
    """Places in the line where the ids so far stand."""
    length: int
    """How many they are."""

    @cached_property
    def allowed(self) -> Collection[int]:
        ids = self.line.ids
        ends = [(start, start + self.length) for start in self.starts if start + self.length < len(ids)]
        return frozenset(ids[end] for start, end in ends if self.line.leads_on(start, end + 1))

    @cached_property
    def may_end(self) -> bool:
        return any(self.line.may_quote(start, start + self.length) for start in self.starts)

    def after(self, token_id: int) -> ValueState:
        ids = self.line.ids
        ends = [(start, start + self.length) for start in self.starts if start + self.length < len(ids)]
        return _Span(self.line, tuple(start for start, end in ends if ids[end] == token_id), self.length + 1)
