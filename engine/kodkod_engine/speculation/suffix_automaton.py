"""The suffix automaton of a growing text of token ids, with counts: which suffix occurred before, and what followed.

Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985): at most two states and three
transitions per token, built online in linear time. Compiled, for a prompt has tens of thousands of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = Any
"""A numpy array as numba sees it."""

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "boundscheck": False}

# Columns of `states`.
_LENGTH, _LINK, _COUNT, _LAST_END, _FIRST_EDGE = range(5)
# Columns of `edges`.
_SOURCE, _TOKEN, _TARGET, _NEXT_EDGE = range(4)
# Entries of `sizes`.
_NUM_STATES, _NUM_EDGES, _LAST_STATE, _NUM_TOKENS = range(4)

MAX_COUNTED_SUFFIXES = 64
"""Suffixes of the text whose count goes up with a token, longest first. A text that repeats one token has thousands."""

_FEW_TOKENS = 1024


class Continuation(NamedTuple):
    """What followed, most often and then most recently."""

    token_ids: tuple[int, ...]
    shares: tuple[float, ...]
    """Per token: in how many of the occurrences of all before it this token followed, in (0, 1]."""
    match_lengths: tuple[int, ...]
    """Per token: how many tokens before it are known to have stood before it there too."""


@njit(**_OPTIONS)
def _find(edges: Array, table: Array, state: int, token: int) -> Any:
    """The edge of a state by a token, or -1."""
    mask = len(table) - 1
    place = (state * 0x9E3779B1 ^ token * 0x85EBCA6B) & mask
    while True:
        edge = table[place]
        if edge < 0 or (edges[edge, _SOURCE] == state and edges[edge, _TOKEN] == token):
            return edge
        place = (place + 1) & mask


@njit(**_OPTIONS)
def _enter(edges: Array, table: Array, edge: int) -> None:
    """Make an edge findable."""
    mask = len(table) - 1
    place = (edges[edge, _SOURCE] * 0x9E3779B1 ^ edges[edge, _TOKEN] * 0x85EBCA6B) & mask
    while table[place] >= 0:
        place = (place + 1) & mask
    table[place] = edge


@njit(**_OPTIONS)
def _add_edge(states: Array, edges: Array, table: Array, sizes: Array, state: int, token: int, target: int) -> None:
    edge = sizes[_NUM_EDGES]
    sizes[_NUM_EDGES] += 1
    edges[edge, _SOURCE], edges[edge, _TOKEN], edges[edge, _TARGET] = state, token, target
    edges[edge, _NEXT_EDGE] = states[state, _FIRST_EDGE]
    states[state, _FIRST_EDGE] = edge
    _enter(edges, table, edge)


@njit(**_OPTIONS)
def _clone(states: Array, edges: Array, table: Array, sizes: Array, state: int, length: int) -> Any:
    """A copy of a state for its suffixes up to a length."""
    clone = sizes[_NUM_STATES]
    sizes[_NUM_STATES] += 1
    states[clone, _LENGTH], states[clone, _LINK] = length, states[state, _LINK]
    states[clone, _COUNT], states[clone, _LAST_END] = states[state, _COUNT], states[state, _LAST_END]
    states[clone, _FIRST_EDGE] = -1
    edge = states[state, _FIRST_EDGE]
    while edge >= 0:
        _add_edge(states, edges, table, sizes, clone, edges[edge, _TOKEN], edges[edge, _TARGET])
        edge = edges[edge, _NEXT_EDGE]
    states[state, _LINK] = clone
    return clone


@njit(**_OPTIONS)
def _append(states: Array, edges: Array, table: Array, sizes: Array, token: int) -> None:
    new = sizes[_NUM_STATES]
    sizes[_NUM_STATES] += 1
    at = sizes[_LAST_STATE]
    states[new, _LENGTH], states[new, _COUNT], states[new, _FIRST_EDGE] = states[at, _LENGTH] + 1, 0, -1
    edge = -1
    while at >= 0:
        edge = _find(edges, table, at, token)
        if edge >= 0:
            break
        _add_edge(states, edges, table, sizes, at, token, new)
        at = states[at, _LINK]
    if at < 0:
        states[new, _LINK] = 0
    else:
        known = edges[edge, _TARGET]
        if states[known, _LENGTH] == states[at, _LENGTH] + 1:
            states[new, _LINK] = known
        else:
            clone = _clone(states, edges, table, sizes, known, states[at, _LENGTH] + 1)
            states[new, _LINK] = clone
            while edge >= 0 and edges[edge, _TARGET] == known:
                edges[edge, _TARGET] = clone
                at = states[at, _LINK]
                edge = _find(edges, table, at, token) if at >= 0 else -1
    sizes[_LAST_STATE] = new
    sizes[_NUM_TOKENS] += 1
    _count(states, new, sizes[_NUM_TOKENS])


@njit(**_OPTIONS)
def _count(states: Array, state: int, end: int) -> None:
    for _ in range(MAX_COUNTED_SUFFIXES):
        if state <= 0:
            return
        states[state, _COUNT] += 1
        states[state, _LAST_END] = end
        state = states[state, _LINK]


@njit(**_OPTIONS)
def _extend(states: Array, edges: Array, table: Array, sizes: Array, tokens: Array) -> None:
    for token in tokens:
        _append(states, edges, table, sizes, token)


@njit(**_OPTIONS)
def _rehash(edges: Array, table: Array, num_edges: int) -> None:
    table[:] = -1
    for edge in range(num_edges):
        _enter(edges, table, edge)


@njit(**_OPTIONS)
def _match(states: Array, edges: Array, table: Array, sizes: Array, tokens: Array) -> tuple[int, int]:
    """State and length of the longest suffix of text + tokens that occurred in the text before its end."""
    state = states[sizes[_LAST_STATE], _LINK]
    length = states[state, _LENGTH] if state >= 0 else 0
    state = max(state, 0)
    for token in tokens:
        edge = _find(edges, table, state, token)
        while edge < 0 and state > 0:
            state = states[state, _LINK]
            length = states[state, _LENGTH]
            edge = _find(edges, table, state, token)
        if edge < 0:
            length = 0
        else:
            state = edges[edge, _TARGET]
            length += 1
    return state, length


@njit(**_OPTIONS)
def _best_edge(states: Array, edges: Array, state: int) -> tuple[int, float]:
    """The edge taken most often, the more recent one of equals, and its share; -1 when none leads on."""
    best, best_count, total = -1, 0, 0
    edge = states[state, _FIRST_EDGE]
    while edge >= 0:
        target = edges[edge, _TARGET]
        count = states[target, _COUNT]
        total += count
        is_newer = best >= 0 and states[target, _LAST_END] > states[edges[best, _TARGET], _LAST_END]
        if edges[edge, _TOKEN] >= 0 and (count > best_count or (count == best_count and is_newer)):
            best, best_count = edge, count
        edge = edges[edge, _NEXT_EDGE]
    return best, best_count / total if total else 0.0


@njit(**_OPTIONS)
def _follow(states: Array, edges: Array, state: int, tokens: Array, shares: Array) -> int:
    """Fill in what follows a state; returns how many tokens that are."""
    for place in range(len(tokens)):
        edge, share = _best_edge(states, edges, state)
        if edge < 0:
            return place
        tokens[place], shares[place] = edges[edge, _TOKEN], share
        state = edges[edge, _TARGET]
    return len(tokens)


@njit(**_OPTIONS)
def _go_on(
    states: Array, edges: Array, table: Array, sizes: Array, behind: Array, tokens: Array, shares: Array
) -> tuple[int, int]:
    """Fill in what followed the longest suffix that occurred before; how many tokens that are, and its length."""
    state, length = _match(states, edges, table, sizes, behind)
    return _follow(states, edges, state, tokens, shares) if length else 0, length


NO_CONTINUATION = Continuation((), (), ())
_NOTHING = np.empty(0, np.int64)
_FEW_CONTINUED = 128


class SuffixAutomaton:
    """Of texts appended one after another. Ids are in [0, 2**31); `separate` keeps matches from crossing."""

    def __init__(self) -> None:
        self._num_separators = 0
        self._allocate(_FEW_TOKENS)
        self._states[0] = (0, -1, 0, 0, -1)
        self._sizes = np.array([1, 0, 0, 0], np.int64)
        self._table.fill(-1)
        self._tokens, self._shares = np.empty(_FEW_CONTINUED, np.int64), np.empty(_FEW_CONTINUED)

    def _allocate(self, num_tokens: int) -> None:
        self._capacity = num_tokens
        self._states = np.empty((2 * num_tokens + 2, 5), np.int64)
        self._edges = np.empty((3 * num_tokens + 3, 4), np.int64)
        self._table = np.empty(1 << (6 * num_tokens).bit_length(), np.int32)

    @property
    def num_tokens(self) -> int:
        """Appended so far, separators included."""
        return int(self._sizes[_NUM_TOKENS])

    def extend(self, token_ids: Sequence[int]) -> None:
        """Append ids. Amortised constant time per token."""
        self._reserve(self.num_tokens + len(token_ids))
        tokens = np.array(token_ids, np.int64)
        _extend(self._states, self._edges, self._table, self._sizes, tokens)

    def separate(self) -> None:
        """Append a border: no match reaches across, and nothing continues past it."""
        self._num_separators += 1
        self.extend((-self._num_separators,))

    def _reserve(self, num_tokens: int) -> None:
        if num_tokens <= self._capacity:
            return
        states, edges = self._states, self._edges
        num_states, num_edges = int(self._sizes[_NUM_STATES]), int(self._sizes[_NUM_EDGES])
        self._allocate(2 * num_tokens)
        self._states[:num_states], self._edges[:num_edges] = states[:num_states], edges[:num_edges]
        _rehash(self._edges, self._table, num_edges)

    def continuation(self, max_tokens: int, after: Sequence[int] = ()) -> Continuation:
        """What followed the longest suffix of the text that occurred before.

        Args:
            max_tokens: at most so many.
            after: ids that are to be thought of behind the text, without being appended.
        """
        behind = np.array(after, np.int64) if after else _NOTHING
        tokens, shares = self._tokens[:max_tokens], self._shares[:max_tokens]
        if len(tokens) < max_tokens:
            tokens, shares = self._tokens, self._shares = np.empty(max_tokens, np.int64), np.empty(max_tokens)
        count, length = _go_on(self._states, self._edges, self._table, self._sizes, behind, tokens, shares)
        if not count:
            return NO_CONTINUATION
        return Continuation(
            tuple(tokens[:count].tolist()), tuple(shares[:count].tolist()), tuple(range(length, length + count))
        )
