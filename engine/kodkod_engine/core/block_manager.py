"""Which blocks a sequence's tokens lie in: taken from the pool, shared through the prefix tree, given back to it.

    claim(sequence) -> PrefixMatch -> take_over -> grow -> advance -> grow -> advance ... -> give_up

Nothing here knows who else there is, or whose turn it is: where blocks run out, the answer is False or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Run

from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.plan import BlockCopy
from kodkod_engine.core.prefix_store import PrefixStore
from kodkod_engine.core.prefix_tree import PrefixMatch, PrefixTree
from kodkod_engine.core.sequence import Sequence


class BlockManager:
    """One block pool and one prefix tree, and the blocks of the sequences over them.

    Cached prefixes are evicted as soon as a sequence needs their room. One thread owns the manager, its pool and its
    tree.
    """

    def __init__(self, pool: BlockPool, tree: PrefixTree) -> None:
        self._pool = pool
        self._tree = tree
        self._refused: tuple[Sequence, int] | None = None
        """The sequence that last did not fit, and how many blocks were available then."""

    @property
    def num_slots(self) -> int:
        """The longest sequence that can ever fit, in tokens."""
        return self._pool.num_slots

    # --- the beginning: what is cached already ------------------------------------------------------------------------

    def claim(self, sequence: Sequence, parent: Sequence | None) -> PrefixMatch | None:
        """The best match, its full blocks retained; None when the blocks for the other tokens cannot be had.

        Looking up a long prefix takes milliseconds: it is not looked up again until more blocks are available.
        """
        num_available = self._pool.num_available
        if self._refused is not None and self._refused[0] is sequence and num_available <= self._refused[1]:
            return None
        match = self._best_match(sequence, parent)
        for block_id in match.full_blocks:
            self._pool.retain(block_id)
        if self._pool.blocks_for(sequence.num_tokens) - len(match.full_blocks) <= self._pool.num_available:
            self._refused = None
            return match
        for block_id in match.full_blocks:
            self._pool.release(block_id)
        self._refused = sequence, num_available
        return None

    def take_over(self, sequence: Sequence, match: PrefixMatch) -> BlockCopy | None:
        """Make a claimed match the beginning of an empty sequence; the copy that this needs, if any."""
        sequence.block_ids.extend(match.full_blocks)
        sequence.num_computed = len(match.full_blocks) * self._pool.block_size
        copy = self._copy_partial(match)
        if copy is not None:
            sequence.block_ids.append(copy.target_block)
            sequence.num_computed = match.num_tokens
        sequence.num_slots = sequence.num_computed
        return copy

    def has_room_for(self, num_tokens: int) -> bool:
        """Whether so many tokens of which nothing is cached could have blocks now."""
        return self._pool.blocks_for(num_tokens) <= self._pool.num_available

    def restore(self, token_ids: Run[int], store: PrefixStore) -> int:
        """Read back what a store has of a prompt beyond what is cached; how many tokens of it are cached more now.

        Between two steps alone: a plan's copies may still have to read blocks that are free already. What is read
        belongs to the prefix tree, so nobody waits for its room.
        """
        cached = self._tree.match(token_ids, len(token_ids) - 1)
        size, first = self._pool.block_size, len(cached.full_blocks)
        num_missing = store.num_stored(token_ids[: len(token_ids) - 1]) // size - first
        if num_missing <= 0:
            return 0
        held = list(cached.full_blocks)
        for block_id in held:
            self._pool.retain(block_id)
        while len(held) < first + num_missing and (block := self._take_block(held[-1] if held else None)) is not None:
            held.append(block)
        num_blocks = first + store.read(token_ids, first * size, held[first:])
        self._tree.insert(token_ids, held[:num_blocks], num_blocks * size)
        for block_id in held:
            self._pool.release(block_id)
        return max(0, num_blocks * size - cached.num_tokens)

    def _best_match(self, sequence: Sequence, parent: Sequence | None) -> PrefixMatch:
        """What is cached of all tokens but the last, which has to be computed for its logits. The longer match wins."""
        limit = sequence.num_tokens - 1
        cached = self._tree.match(sequence.token_ids, limit)
        if parent is None:
            return cached
        return max(cached, self._match_parent(sequence, parent, limit), key=lambda match: match.num_tokens)

    def _match_parent(self, sequence: Sequence, parent: Sequence, limit: int) -> PrefixMatch:
        """What the parent holds that is the sequence's too, generated tokens and unfinished block included."""
        num_tokens = _num_common(sequence.token_ids, parent.token_ids, min(limit, parent.num_computed))
        num_full, partial_tokens = divmod(num_tokens, self._pool.block_size)
        return PrefixMatch(
            num_tokens=num_tokens,
            full_blocks=tuple(parent.block_ids[:num_full]),
            partial_block=parent.block_ids[num_full] if partial_tokens else None,
            partial_tokens=partial_tokens,
        )

    def _copy_partial(self, match: PrefixMatch) -> BlockCopy | None:
        """To a block of the sequence's own. None where nothing is to be copied.

        Nor is it where the source is the only block to be had: its tokens are then computed anew.
        """
        if match.partial_block is None:
            return None
        self._pool.retain(match.partial_block)
        target = self._take_block(after=next(reversed(match.full_blocks), None))
        self._pool.release(match.partial_block)
        return None if target is None else BlockCopy(match.partial_block, target, match.partial_tokens)

    # --- from step to step --------------------------------------------------------------------------------------------

    def grow(self, sequence: Sequence, num_slots: int) -> bool:
        """Take free or evicted blocks until the slots are there. When they do not suffice, what was taken is kept."""
        num_blocks = self._pool.blocks_for(num_slots)
        while len(sequence.block_ids) < num_blocks:
            block_id = self._take_block(after=sequence.block_ids[-1] if sequence.block_ids else None)
            if block_id is None:
                break
            sequence.block_ids.append(block_id)
        held_slots = len(sequence.block_ids) * self._pool.block_size
        sequence.num_slots = max(sequence.num_slots, min(num_slots, held_slots))
        return num_slots <= held_slots

    def reserve(self, sequence: Sequence, num_extra_tokens: int) -> bool:
        """Grow by `num_extra_tokens` slots after the last token; False, and nothing changed, when there is no room."""
        num_slots = sequence.num_tokens + num_extra_tokens
        num_missing = self._pool.blocks_for(num_slots) - len(sequence.block_ids)
        return num_missing <= self._pool.num_available and self.grow(sequence, num_slots)

    def reclaim(self, sequence: Sequence) -> None:
        """Take back the slots after the last token."""
        sequence.num_slots = min(sequence.num_slots, sequence.num_tokens)
        while len(sequence.block_ids) > self._pool.blocks_for(sequence.num_slots):
            self._pool.release(sequence.block_ids.pop())

    def advance(self, sequence: Sequence, num_tokens: int) -> None:
        """`num_tokens` more tokens have their KV in the sequence's blocks. Blocks that are full now can be shared."""
        num_full_before = sequence.num_computed // self._pool.block_size
        sequence.num_computed += num_tokens
        assert sequence.num_computed <= min(sequence.num_tokens, sequence.num_slots), f"{sequence.id}: advanced too far"
        if sequence.num_computed // self._pool.block_size > num_full_before:
            self._tree.insert(sequence.token_ids, sequence.block_ids, sequence.num_computed, in_use=True)

    def give_up(self, sequence: Sequence) -> None:
        """Let go of all blocks. What was computed stays in the tree for as long as nobody needs the room."""
        self._tree.insert(sequence.token_ids, sequence.block_ids, sequence.num_computed)
        for block_id in sequence.block_ids:
            self._pool.release(block_id)
        sequence.block_ids.clear()
        sequence.num_computed = sequence.num_slots = 0

    def _take_block(self, after: int | None) -> int | None:
        if not self._pool.num_free:
            self._tree.evict(1)
        return self._pool.allocate(after)

    # --- invariants ---------------------------------------------------------------------------------------------------

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Assert that every block is held by these sequences and the tree alone, and that no block has two writers."""
        sequences = tuple(sequences)
        self._pool.check_integrity()
        self._tree.check_integrity()
        holders = Counter(self._tree.block_ids)
        for sequence in sequences:
            sequence.check_invariants(self._pool.block_size)
            holders.update(sequence.block_ids)
        for block_id in range(self._pool.num_blocks):
            assert holders[block_id] == self._pool.ref_count(block_id), f"block {block_id} is held by someone unknown"
        for sequence in sequences:
            for block_id in sequence.block_ids[sequence.num_computed // self._pool.block_size :]:
                assert holders[block_id] == 1, f"{sequence.id} would write block {block_id}, which it shares"
        assert self._pool.num_free + len(+holders) == self._pool.num_blocks, "blocks lost or made up"


def _num_common(left: Run[int], right: Run[int], limit: int) -> int:
    """Length of the longest common prefix, `limit` at most. Bisects, so that slices do the comparing: O(limit)."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
