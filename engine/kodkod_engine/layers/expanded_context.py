"""Keys and values of one conversation, kept as they were rebuilt from its latents.

A turn attends over keys and values of everything before it, and rebuilding them costs as much as some hundred tokens'
attention over them, turn after turn, and part after part of a long prompt. What is kept here leaves the new tokens
alone to be rebuilt. It takes 14 times the memory of the latents in bf16 (18 on a processor, with the rope keys
per head), so there is one conversation and as much of its beginning as memory is left for.

What a position holds depends on nothing but the ids up to it. So the ids alone say what is still right: nobody has to
tell of blocks that were freed, copied, written anew or read back, of forks, or of drafts that were rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Empty: TypeAlias = Callable[[int], Tensor]
"""Makes room for so many tokens, which lie along one dimension of it."""

Fill: TypeAlias = Callable[[Tensor, int], object]
"""Writes all tokens from the given one on into such a room."""

GROWTH = 1.25
"""Of the room, each time it is too small: copying what is there costs less than rebuilding it, but not nothing."""

ROUND_TOKENS = 64
"""Rooms that memory does not bound are multiples of it."""


class ExpandedContext:
    """Of all attention blocks of a model. One thread owns it."""

    def __init__(
        self, num_layers: int, token_bytes: int, spare_bytes: Callable[[], float], most_bytes: float = math.inf
    ) -> None:
        """
        Args:
            token_bytes: of a token in all layers.
            spare_bytes: memory that may be taken now, beside what is held; asked when there is too little room.
            most_bytes: never to be exceeded.
        """
        self._layers = [ExpandedLayer() for _ in range(num_layers)]
        self._token_bytes = token_bytes
        self._spare_bytes = spare_bytes
        self._most_bytes = most_bytes
        self._ids: list[int] = []
        self._room = 0

    @property
    def num_tokens(self) -> int:
        """Kept in all layers."""
        return min(layer.num_tokens for layer in self._layers)

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return sum(layer.num_bytes for layer in self._layers)

    def layer(self, index: int) -> ExpandedLayer:
        """Of one attention block."""
        return self._layers[index]

    def follow(self, token_ids: list[int]) -> None:
        """The next step computes the last of these ids: what is kept behind where they part from those before goes."""
        common = common_length(self._ids, token_ids)
        self._ids = token_ids
        self._make_room(len(token_ids))
        for layer in self._layers:
            layer.keep(common, self._room)

    def _make_room(self, num_tokens: int) -> None:
        if num_tokens > self._room:
            wanted = int(num_tokens * GROWTH) // ROUND_TOKENS * ROUND_TOKENS + ROUND_TOKENS
            affordable = int(min(self._most_bytes, self.num_bytes + self._spare_bytes()) / self._token_bytes)
            self._room = max(self._room, min(wanted, affordable))


class ExpandedLayer:
    """Of one attention block."""

    def __init__(self) -> None:
        self.num_tokens = 0
        """The first so many of the conversation are there."""
        self._room = 0
        self._held: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return 0 if self._held is None else self._held.nbytes

    def keep(self, num_tokens: int, room: int) -> None:
        """Of what is there no more than the first tokens, and from now on no more than there is room for."""
        self.num_tokens = min(self.num_tokens, num_tokens)
        self._room = room

    def whole(self, num_tokens: int, empty: Empty, fill: Fill, dim: int) -> Tensor:
        """Keys and values of the first `num_tokens` of the conversation; those that are not there are filled in.

        Args:
            dim: along which tokens lie in what `empty` makes.
        """
        kept = self.num_tokens = min(self.num_tokens, num_tokens)
        held = self._grown(num_tokens, empty, dim)
        fits = held.shape[dim] >= num_tokens
        out = held.narrow(dim, 0, num_tokens) if fits else empty(num_tokens)
        if not fits:
            out.narrow(dim, 0, kept).copy_(held.narrow(dim, 0, kept))
        fill(out.narrow(dim, kept, num_tokens - kept), kept)
        if not fits:
            more = held.shape[dim] - kept
            held.narrow(dim, kept, more).copy_(out.narrow(dim, kept, more))
        self.num_tokens = min(num_tokens, held.shape[dim])
        return out

    def _grown(self, num_tokens: int, empty: Empty, dim: int) -> Tensor:
        """What is held, in all the room there may be if it is too small for so many tokens."""
        held = empty(0) if self._held is None else self._held
        if num_tokens > held.shape[dim] < self._room:
            grown = empty(self._room)
            grown.narrow(dim, 0, self.num_tokens).copy_(held.narrow(dim, 0, self.num_tokens))
            held = grown
        self._held = held
        return held


def common_length(first: list[int], second: list[int]) -> int:
    """Of the longest beginning that both share."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:  # the first `low` are the same, the first `high` are not
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low
