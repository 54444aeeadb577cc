"""A cache whose KV can be read back.

The KV of a position depends on every token up to it. So does what `FakeCache` writes: a digest of the whole prefix.
A slot that holds another prefix's digest, whoever put it there, is seen at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Run

from kodkod_engine.core.plan import BlockCopy
from kodkod_engine.core.prefix_tree import PrefixTree


def digests(token_ids: Run[int]) -> list[int]:
    """Per position, what stands for all tokens up to it."""
    found, digest = [], 0
    for position, token_id in enumerate(token_ids):
        digest = hash((digest, position, token_id))
        found.append(digest)
    return found


class FakeCache:
    """Slots with digests in them."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.slots: dict[int, int] = {}

    def slot(self, block_ids: Run[int], position: int) -> int:
        return block_ids[position // self.block_size] * self.block_size + position % self.block_size

    def copy(self, copy: BlockCopy) -> None:
        for offset in range(copy.num_tokens):
            value = self.slots[copy.source_block * self.block_size + offset]
            self.slots[copy.target_block * self.block_size + offset] = value

    def write(self, block_ids: Run[int], token_ids: Run[int], start: int) -> None:
        for position, digest in list(enumerate(digests(token_ids)))[start:]:
            self.slots[self.slot(block_ids, position)] = digest

    def check(self, block_ids: Run[int], token_ids: Run[int]) -> None:
        held = [self.slots.get(self.slot(block_ids, position)) for position in range(len(token_ids))]
        assert held == digests(token_ids)

    def check_cached(self, tree: PrefixTree, token_ids: Run[int]) -> None:
        """What the tree says is cached of a sequence holds that sequence's KV."""
        match = tree.match(token_ids, len(token_ids))
        blocks = [*match.full_blocks, *([] if match.partial_block is None else [match.partial_block])]
        self.check(blocks, token_ids[: match.num_tokens])
