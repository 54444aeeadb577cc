"""Stretches of a file as it is: what an edit may quote."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints import utf8
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.suffix_automaton import ROOT, SuffixAutomaton
from kodkod_engine.constraints.vocabulary import Vocabulary, vocabulary_of

MAX_BYTES = 1 << 20
"""Longer texts would take more than a second and a hundred megabytes."""


class StretchOf:
    """Any stretch of a text that is not empty, from character to character."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        """Build the automaton: half a second for a megabyte.

        Raises:
            ValueError: the text is empty, longer than `MAX_BYTES`, or no Unicode.
        """
        if not text:
            raise ValueError("there is nothing to quote, for the file is empty")
        data = text.encode()
        if len(data) > MAX_BYTES:
            raise ValueError(f"the file has {len(data):,} bytes, more than {MAX_BYTES:,}")
        self._start = _Stretch(tokenizer, vocabulary_of(tokenizer), SuffixAutomaton.of(data), ROOT, utf8.BETWEEN)

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return self._start


@dataclass(frozen=True)
class _Stretch:
    """See `ValueState`."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    automaton: SuffixAutomaton
    state: int
    utf8_state: int

    @cached_property
    def allowed(self) -> Collection[int]:
        return self.vocabulary.as_set(self.automaton.tokens(self.state, self.vocabulary))

    @property
    def may_end(self) -> bool:
        return self.state != ROOT and self.utf8_state == utf8.BETWEEN

    def after(self, token_id: int) -> ValueState:
        data = self.tokenizer.bytes_of(token_id)
        reached = self.automaton.read(self.state, data)
        return _Stretch(self.tokenizer, self.vocabulary, self.automaton, reached, utf8.advance(self.utf8_state, data))
