"""The tokens of a vocabulary as a trie over their bytes, and sets of tokens read off it.

A constraint knows bytes: names, paths, stretches of a file. A model writes tokens. Walking the trie tells which tokens
may come next without trying them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np
from numba import njit

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints import utf8
from kodkod_engine.constraints.token_mask import TokenMask, Words, num_words

Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]
Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int32]]

_utf8_step, _utf8_missing, _is_control = (
    njit(inline="always", cache=True)(function) for function in (utf8.step, utf8.missing, utf8.is_control)
)

MAX_LISTED = 64
"""Sets up to this size are given as plain sets: they are small, and most states of a long text have one."""

_NOWHERE = utf8.NOWHERE
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "boundscheck": False}


@dataclass(frozen=True, slots=True)
class TokenTrie:
    """A trie over the bytes of all tokens that stand for text. Node 0 is the root; every node is on a token's way.

    The children of node n are `children[first_child[n] : first_child[n + 1]]`, in the order of their `child_bytes`; the
    tokens that end at it are `token_ids[first_token[n] : first_token[n + 1]]`.
    """

    first_child: Ints
    child_bytes: Bytes
    children: Ints
    first_token: Ints
    token_ids: Ints

    @property
    def arrays(self) -> tuple[Ints, Bytes, Ints, Ints, Ints]:
        """As compiled functions take it."""
        return self.first_child, self.child_bytes, self.children, self.first_token, self.token_ids


class Vocabulary:
    """What constraints need to know of one tokenizer. Immutable; shared by all of them. See `vocabulary_of`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build the trie: about 0.2 s for 131,072 tokens."""
        self.size: int = tokenizer.vocab_size
        self.trie = _build(tokenizer)
        self._utf8_tokens = cache(self._find_utf8_tokens)

    def tokens_along(self, texts: Sequence[bytes]) -> tuple[frozenset[int] | TokenMask, list[int]]:
        """Tokens with which any of some texts can begin.

        Returns:
            The ids, and the places of those texts that end inside of a longer token's way.
        """
        joined = np.frombuffer(b"".join(texts), np.uint8)
        ends = np.cumsum([len(text) for text in texts], dtype=np.int32)
        ids = np.empty(self.size, np.int32)
        goes_on = np.zeros(len(texts), np.bool_)
        count = _along(*self.trie.arrays, joined, ends, ids, goes_on)
        return self.as_set(ids[:count]), np.flatnonzero(goes_on).tolist()

    def utf8_tokens(self, state: int = utf8.BETWEEN, most_missing: int = 3, *, plain: bool = False) -> TokenMask:
        """Tokens that go on in valid UTF-8.

        Args:
            state: of `utf8`, before them.
            most_missing: bytes that the last character may lack afterwards.
            plain: without control characters other than line feed and tab.
        """
        return self._utf8_tokens(state, most_missing, plain)

    def as_set(self, ids: Ints) -> frozenset[int] | TokenMask:
        """Ids, perhaps with repetitions, in the form that serves best."""
        if len(ids) <= MAX_LISTED:
            return frozenset(ids.tolist())
        words = np.zeros(num_words(self.size), np.uint32)
        _set_bits(ids, words)
        return TokenMask(words)

    def _find_utf8_tokens(self, state: int, most_missing: int, plain: bool) -> TokenMask:
        ids = np.empty(self.size, np.int32)
        words: Words = np.zeros(num_words(self.size), np.uint32)
        _set_bits(ids[: _utf8(*self.trie.arrays, state, most_missing, plain, ids)], words)
        return TokenMask(words)


@lru_cache(maxsize=4)
def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer's vocabulary, built once."""
    return Vocabulary(tokenizer)


def _build(tokenizer: Tokenizer) -> TokenTrie:
    ids = (token_id for token_id in range(tokenizer.vocab_size) if token_id not in tokenizer.control_ids)
    tokens = sorted((data, token_id) for token_id in ids if (data := tokenizer.bytes_of(token_id)))
    joined = np.frombuffer(b"".join(data for data, _ in tokens), np.uint8)
    ends = np.cumsum([len(data) for data, _ in tokens], dtype=np.int64)
    parents, in_bytes, at = _nodes(joined, ends)
    num_nodes = len(parents)
    order = np.argsort(parents[1:], kind="stable") + 1
    return TokenTrie(
        first_child=_offsets(parents[1:], num_nodes),
        child_bytes=in_bytes[order],
        children=order.astype(np.int32),
        first_token=_offsets(at, num_nodes),
        token_ids=np.fromiter((token_id for _, token_id in tokens), np.int32, len(tokens)),
    )


def _offsets(owners: Ints, num_owners: int) -> Ints:
    """Where each owner's entries begin, entries being in the order of their owners; one more for the end."""
    offsets: Ints = np.zeros(num_owners + 1, np.int32)
    np.cumsum(np.bincount(owners, minlength=num_owners), out=offsets[1:])
    return offsets


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _nodes(joined: Any, ends: Any) -> Any:
    """Trie nodes of sorted strings, numbered in the order of a walk: parents, bytes, and each string's node."""
    parents = np.zeros(len(joined) + 1, np.int32)
    in_bytes = np.zeros(len(joined) + 1, np.uint8)
    at = np.zeros(len(ends), np.int32)
    path = np.zeros(len(joined) + 1, np.int32)
    count, begin, previous_begin, previous_end = 1, 0, 0, 0
    for token in range(len(ends)):
        end = ends[token]
        depth = 0
        shortest = min(end - begin, previous_end - previous_begin)
        while depth < shortest and joined[begin + depth] == joined[previous_begin + depth]:
            depth += 1
        while depth < end - begin:
            parents[count], in_bytes[count] = path[depth], joined[begin + depth]
            depth += 1
            path[depth] = count
            count += 1
        at[token] = path[depth]
        previous_begin, previous_end, begin = begin, end, end
    return parents[:count].copy(), in_bytes[:count].copy(), at


@njit(inline="always", **_OPTIONS)  # type: ignore[untyped-decorator]
def find_child(first_child: Any, child_bytes: Any, children: Any, node: int, byte: int) -> int:
    """The child behind a byte; -1 where there is none."""
    low, high = first_child[node], first_child[node + 1]
    while low < high:
        middle = (low + high) >> 1
        if child_bytes[middle] < byte:
            low = middle + 1
        else:
            high = middle
    if low < first_child[node + 1] and child_bytes[low] == byte:
        return int(children[low])
    return -1


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _along(
    first_child: Any, child_bytes: Any, children: Any, first_token: Any, token_ids: Any,
    joined: Any, ends: Any, ids: Any, goes_on: Any,
) -> int:  # fmt: skip
    """Tokens on the ways of some texts; a node that was met before is not counted again."""
    seen = np.zeros(len(first_token), np.bool_)
    count, begin = 0, 0
    for text in range(len(ends)):
        node, place = 0, begin
        while place < ends[text]:
            node = find_child(first_child, child_bytes, children, node, joined[place])
            if node < 0:
                break
            if not seen[node]:
                seen[node] = True
                for token in range(first_token[node], first_token[node + 1]):
                    ids[count] = token_ids[token]
                    count += 1
            place += 1
        goes_on[text] = node >= 0 and first_child[node] < first_child[node + 1]
        begin = ends[text]
    return count


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _utf8(
    first_child: Any, child_bytes: Any, children: Any, first_token: Any, token_ids: Any,
    state: int, most_missing: int, plain: bool, ids: Any,
) -> int:  # fmt: skip
    nodes = np.empty(len(first_token), np.int32)
    states = np.empty(len(first_token), np.int8)
    nodes[0], states[0] = 0, state
    count, height = 0, 1
    while height:
        height -= 1
        node, at = nodes[height], states[height]
        if _utf8_missing(at) <= most_missing:
            for token in range(first_token[node], first_token[node + 1]):
                ids[count] = token_ids[token]
                count += 1
        for child in range(first_child[node], first_child[node + 1]):
            byte = child_bytes[child]
            reached = _utf8_step(at, byte)
            if reached != _NOWHERE and not (plain and _is_control(byte)):
                nodes[height], states[height] = children[child], reached
                height += 1
    return count


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _set_bits(ids: Any, words: Any) -> None:
    for token_id in ids:
        words[token_id >> 5] |= np.uint32(1) << np.uint32(token_id & 31)
