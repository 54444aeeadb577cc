"""All stretches of a text as one automaton: the smallest one that reads exactly them.

Built online in one pass (Blumer et al.); a text of n bytes has at most 2n states and 3n edges. A stretch is read edge
by edge from the root. Which tokens may go on from a state is found by walking the vocabulary's trie alongside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from kodkod_engine.constraints.vocabulary import Bytes, Ints, Vocabulary, find_child

ROOT = 0
NOWHERE = -1

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "boundscheck": False}


@dataclass(frozen=True, slots=True)
class SuffixAutomaton:
    """Edges of state s are `targets[first_edge[s] : first_edge[s + 1]]`, in the order of their `edge_bytes`."""

    first_edge: Ints
    edge_bytes: Bytes
    targets: Ints

    @classmethod
    def of(cls, data: bytes) -> SuffixAutomaton:
        """Build: about 0.4 s and, while it lasts, 100 bytes of memory for each byte of the text."""
        return cls(*_build(np.frombuffer(data, np.uint8)))

    def read(self, state: int, data: bytes) -> int:
        """The state behind some bytes; NOWHERE when they do not go on from here."""
        return int(_read(self.first_edge, self.edge_bytes, self.targets, state, np.frombuffer(data, np.uint8)))

    def tokens(self, state: int, vocabulary: Vocabulary) -> Ints:
        """Tokens that go on from a state, each once. From the root: those that begin with a whole character."""
        ids = np.empty(vocabulary.size, np.int32)
        count = _tokens(
            *vocabulary.trie.arrays, self.first_edge, self.edge_bytes, self.targets, state, state == ROOT, ids
        )
        return ids[:count]


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _edge_of(heads: Any, next_edge: Any, edge_bytes: Any, state: int, byte: int) -> int:
    edge = heads[state]
    while edge >= 0 and edge_bytes[edge] != byte:
        edge = next_edge[edge]
    return int(edge)


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _build(data: Any) -> Any:
    """States and their edges as linked lists first, for states are split while they grow; then sorted side by side."""
    size = len(data)
    links = np.full(2 * size + 2, -1, np.int32)
    lengths = np.zeros(2 * size + 2, np.int32)
    heads = np.full(2 * size + 2, -1, np.int32)
    next_edge = np.empty(3 * size + 4, np.int32)
    edge_bytes = np.empty(3 * size + 4, np.uint8)
    targets = np.empty(3 * size + 4, np.int32)
    num_states, num_edges, last = 1, 0, 0
    for place in range(size):
        byte = data[place]
        new = num_states
        num_states += 1
        lengths[new] = lengths[last] + 1
        state = last
        edge = _edge_of(heads, next_edge, edge_bytes, state, byte)
        while edge < 0:
            next_edge[num_edges], edge_bytes[num_edges], targets[num_edges] = heads[state], byte, new
            heads[state] = num_edges
            num_edges += 1
            state = links[state]
            if state < 0:
                break
            edge = _edge_of(heads, next_edge, edge_bytes, state, byte)
        last = new
        if state < 0:
            links[new] = 0
            continue
        reached = targets[edge]
        if lengths[reached] == lengths[state] + 1:
            links[new] = reached
            continue
        twin = num_states
        num_states += 1
        lengths[twin], links[twin] = lengths[state] + 1, links[reached]
        copied = heads[reached]
        while copied >= 0:
            next_edge[num_edges], edge_bytes[num_edges] = heads[twin], edge_bytes[copied]
            targets[num_edges] = targets[copied]
            heads[twin] = num_edges
            num_edges += 1
            copied = next_edge[copied]
        while state >= 0:
            edge = _edge_of(heads, next_edge, edge_bytes, state, byte)
            if edge < 0 or targets[edge] != reached:
                break
            targets[edge] = twin
            state = links[state]
        links[reached] = links[new] = twin
    return _sorted_edges(num_states, num_edges, heads, next_edge, edge_bytes, targets)


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _sorted_edges(num_states: int, num_edges: int, heads: Any, next_edge: Any, edge_bytes: Any, targets: Any) -> Any:
    first_edge = np.zeros(num_states + 1, np.int32)
    sorted_bytes = np.empty(num_edges, np.uint8)
    sorted_targets = np.empty(num_edges, np.int32)
    count = 0
    for state in range(num_states):
        begin = count
        edge = heads[state]
        while edge >= 0:
            place = count
            while place > begin and sorted_bytes[place - 1] > edge_bytes[edge]:
                sorted_bytes[place], sorted_targets[place] = sorted_bytes[place - 1], sorted_targets[place - 1]
                place -= 1
            sorted_bytes[place], sorted_targets[place] = edge_bytes[edge], targets[edge]
            count += 1
            edge = next_edge[edge]
        first_edge[state + 1] = count
    return first_edge, sorted_bytes, sorted_targets


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _read(first_edge: Any, edge_bytes: Any, targets: Any, state: int, data: Any) -> int:
    for byte in data:
        state = find_child(first_edge, edge_bytes, targets, state, byte)
        if state < 0:
            break
    return state


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _tokens(
    first_child: Any, child_bytes: Any, children: Any, first_token: Any, token_ids: Any,
    first_edge: Any, edge_bytes: Any, targets: Any, start: int, whole: bool, ids: Any,
) -> int:  # fmt: skip
    """Both automata at once, depth first. `whole`: the first byte begins a character."""
    nodes = np.empty(len(first_token), np.int32)
    states = np.empty(len(first_token), np.int32)
    nodes[0], states[0] = 0, start
    count, height = 0, 1
    while height:
        height -= 1
        node, state = nodes[height], states[height]
        for token in range(first_token[node], first_token[node + 1]):
            ids[count] = token_ids[token]
            count += 1
        child, child_end = first_child[node], first_child[node + 1]
        edge, edge_end = first_edge[state], first_edge[state + 1]
        if edge_end - edge == 1:
            found = find_child(first_child, child_bytes, children, node, edge_bytes[edge])
            if found >= 0 and not (whole and node == 0 and 0x80 <= edge_bytes[edge] < 0xC0):
                nodes[height], states[height] = found, targets[edge]
                height += 1
            continue
        while child < child_end and edge < edge_end:
            if child_bytes[child] < edge_bytes[edge]:
                child += 1
            elif child_bytes[child] > edge_bytes[edge]:
                edge += 1
            else:
                if not (whole and node == 0 and 0x80 <= child_bytes[child] < 0xC0):
                    nodes[height], states[height] = children[child], targets[edge]
                    height += 1
                child += 1
                edge += 1
    return count
