"""Stretches of a file as it is: what an edit may quote."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints import utf8
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.suffix_automaton import ROOT, SuffixAutomaton
from kodkod_engine.constraints.vocabulary import Vocabulary, vocabulary_of

MAX_BYTES = 1 << 20
"""Longer texts would take more than a second and a hundred megabytes."""


_OFTEN = (*(bytes([byte]) for byte in range(0x20, 0x7F)), b"\n", b"\t", *(b" " * count for count in range(2, 17)))
"""What a large file has in so many places that what may follow is found out while the automaton is built."""


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
        automaton, vocabulary = SuffixAutomaton.of(data), vocabulary_of(tokenizer)
        frequent = {ROOT, *(automaton.read(ROOT, begun) for begun in _OFTEN if begun in data)}
        known = {state: vocabulary.as_set(automaton.tokens(state, vocabulary)) for state in frequent}
        self._start = _Stretch(_Text(tokenizer, vocabulary, automaton, known), ROOT, utf8.BETWEEN)

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return self._start


@dataclass(frozen=True, slots=True)
class _Text:
    """What all states of one text share."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    automaton: SuffixAutomaton
    known: Mapping[int, Collection[int]]
    """What is allowed in some states, where it takes milliseconds to find out."""


@dataclass(frozen=True)
class _Stretch:
    """See `ValueState`."""

    text: _Text
    state: int
    utf8_state: int

    @cached_property
    def allowed(self) -> Collection[int]:
        known, vocabulary = self.text.known.get(self.state), self.text.vocabulary
        return vocabulary.as_set(self.text.automaton.tokens(self.state, vocabulary)) if known is None else known

    @property
    def may_end(self) -> bool:
        return self.state != ROOT and self.utf8_state == utf8.BETWEEN

    def after(self, token_id: int) -> ValueState:
        data = self.text.tokenizer.bytes_of(token_id)
        reached = self.text.automaton.read(self.state, data)
        return _Stretch(self.text, reached, utf8.advance(self.utf8_state, data))
