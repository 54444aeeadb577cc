"""A set of token ids as packed bits: what a constraint allows, in a form that is applied in one operation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from functools import cached_property
from typing import TypeAlias

import numpy as np

Words: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]
"""Packed bits: id i is bit i % 32 of word i // 32, on a little-endian machine. As llguidance and xgrammar pack them."""

WORD_BITS = 32


class TokenMask(Set[int]):
    """Ids out of [0, 32 * len(words)). Immutable; equal to any set of the same ids."""

    def __init__(self, words: Words) -> None:
        """Take over packed bits, which nobody may change any more: uint32 [words]."""
        words.flags.writeable = False
        self.words: Words = words
        """Read-only."""
        self._extended: dict[int, TokenMask] = {}

    @classmethod
    def of(cls, ids: Iterable[int], vocab_size: int) -> TokenMask:
        """Pack ids, each in [0, vocab_size).

        Raises:
            IndexError: one is beyond.
        """
        bits = np.zeros(num_words(vocab_size) * WORD_BITS, np.bool_)
        bits[np.fromiter(ids, np.int64)] = True
        return cls.from_bits(bits)

    @classmethod
    def from_bits(cls, bits: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> TokenMask:
        """Pack one bool per id."""
        padded = np.zeros(num_words(len(bits)) * WORD_BITS, np.bool_)
        padded[: len(bits)] = bits
        return cls(np.packbits(padded, bitorder="little").view(np.uint32))

    @cached_property
    def _count(self) -> int:
        return int(np.bitwise_count(self.words).sum())

    @cached_property
    def max_id(self) -> int:
        """The highest id; -1 of the empty set."""
        used = np.flatnonzero(self.words)
        return int(used[-1]) * WORD_BITS + int(self.words[used[-1]]).bit_length() - 1 if len(used) else -1

    def bits(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """One bool per id."""
        return np.unpackbits(self.words.view(np.uint8), bitorder="little").view(np.bool_)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self.bits()).tolist())

    def __contains__(self, token_id: object) -> bool:
        if not isinstance(token_id, int) or not 0 <= token_id < len(self.words) * WORD_BITS:
            return False
        return bool(self.words[token_id // WORD_BITS] >> np.uint32(token_id % WORD_BITS) & np.uint32(1))

    def with_id(self, token_id: int) -> TokenMask:
        """With one id more; remembered, for large sets are few and are asked for again and again."""
        found = self._extended.get(token_id)
        if found is None:
            words = self.words.copy()
            words[token_id // WORD_BITS] |= np.uint32(1 << token_id % WORD_BITS)
            found = self._extended[token_id] = TokenMask(words)
        return found

    def without(self, others: TokenMask) -> TokenMask:
        """Without the ids of another of the same length."""
        return TokenMask(self.words & ~others.words)

    @classmethod
    def _from_iterable(cls, it: Iterable[int]) -> frozenset[int]:  # type: ignore[override]  # what `&` and `|` give
        return frozenset(it)

    def __repr__(self) -> str:
        return f"TokenMask({len(self)} ids)"


def num_words(vocab_size: int) -> int:
    """Words that hold one bit per id."""
    return -(-vocab_size // WORD_BITS)


def packed_rows(rows: Iterable[Collection[int] | None], vocab_size: int) -> Words:
    """Several sets under each other: uint32 [rows, words]; None is the set of all ids."""
    return np.stack([_words(allowed, vocab_size) for allowed in rows])


def _words(allowed: Collection[int] | None, vocab_size: int) -> Words:
    if allowed is None:
        return np.full(num_words(vocab_size), 0xFFFF_FFFF, np.uint32)
    if not isinstance(allowed, TokenMask):
        return TokenMask.of(allowed, vocab_size).words
    words, missing = allowed.words, num_words(vocab_size) - len(allowed.words)
    return np.pad(words, (0, missing)) if missing > 0 else words[: num_words(vocab_size)]


def with_id(allowed: Collection[int], token_id: int) -> Collection[int]:
    """A set with one id more."""
    return allowed.with_id(token_id) if isinstance(allowed, TokenMask) else frozenset(allowed) | {token_id}


def union(sets: Sequence[Collection[int]]) -> Collection[int]:
    """All ids of some sets, of which masks have the same length."""
    if len(sets) == 1:
        return sets[0]
    masks = [ids for ids in sets if isinstance(ids, TokenMask)]
    listed = frozenset().union(*(ids for ids in sets if not isinstance(ids, TokenMask)))
    if not masks:
        return listed
    words = np.bitwise_or.reduce([mask.words for mask in masks])
    if listed:
        words |= TokenMask.of(listed, len(words) * WORD_BITS).words
    return TokenMask(words)


def forced_id(allowed: Collection[int] | None) -> int | None:
    """The one id that may follow, if it is one alone: a token that costs no choice."""
    return next(iter(allowed)) if allowed is not None and len(allowed) == 1 else None
