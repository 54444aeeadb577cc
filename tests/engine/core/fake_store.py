"""A store of prefixes in memory, over a cache whose KV can be read back."""

from __future__ import annotations

from collections.abc import Sequence as Run
from itertools import takewhile

from engine.core.fake_cache import FakeCache


class FakeStore:
    """See `core.prefix_store.PrefixStore`; a segment is so many blocks."""

    def __init__(self, cache: FakeCache, segment_blocks: int = 2) -> None:
        self.cache = cache
        self.segment_tokens = segment_blocks * cache.block_size
        self.segments: dict[tuple[int, ...], list[int]] = {}
        """What stands in the slots of the last segment of a prefix, by the prefix."""
        self.offered: set[str] = set()
        self.is_closed = False

    def num_stored(self, token_ids: Run[int]) -> int:
        ends = range(self.segment_tokens, len(token_ids) + 1, self.segment_tokens)
        known = takewhile(lambda end: tuple(token_ids[:end]) in self.segments, ends)
        return max(known, default=0)

    def read(self, token_ids: Run[int], start: int, block_ids: Run[int]) -> int:
        size = self.cache.block_size
        for index, block_id in enumerate(block_ids):
            place = start + index * size
            begin = place // self.segment_tokens * self.segment_tokens
            held = self.segments.get(tuple(token_ids[: begin + self.segment_tokens]))
            if held is None:
                return index
            for offset in range(size):
                self.cache.slots[block_id * size + offset] = held[place - begin + offset]
        return len(block_ids)

    def offer(self, sequence_id: str, token_ids: Run[int], num_computed: int, block_ids: Run[int]) -> None:
        self.offered.add(sequence_id)
        for end in range(self.segment_tokens, num_computed + 1, self.segment_tokens):
            places = range(end - self.segment_tokens, end)
            held = [self.cache.slots[self.cache.slot(block_ids, place)] for place in places]
            self.segments.setdefault(tuple(token_ids[:end]), held)

    def forget(self, sequence_id: str) -> None:
        self.offered.discard(sequence_id)

    def close(self) -> None:
        self.is_closed = True
