"""The block manager, driven by a model whose KV can be read back. There is no queue, and nobody is asked in turn."""

from __future__ import annotations

from collections.abc import Sequence as Run

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.fake_cache import FakeCache
from engine.core.fake_store import FakeStore
from kodkod_engine.core.block_manager import BlockManager
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.plan import BlockCopy
from kodkod_engine.core.prefix_tree import PrefixMatch, PrefixTree
from kodkod_engine.core.sequence import Sequence, SequenceStatus


class CountingTree(PrefixTree):
    """Counts how often it is looked into."""

    num_matches = 0

    def match(self, token_ids: Run[int], limit: int) -> PrefixMatch:
        self.num_matches += 1
        return super().match(token_ids, limit)


class Bench:
    """A block manager with all it stands on, and sequences that are computed at once."""

    def __init__(self, num_blocks: int = 16, block_size: int = 4) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.tree = CountingTree(self.pool)
        self.blocks = BlockManager(self.pool, self.tree)
        self.cache = FakeCache(block_size)
        self.store = FakeStore(self.cache)
        self.held: list[Sequence] = []

    def start(self, token_ids: Run[int], parent: Sequence | None = None) -> tuple[Sequence, BlockCopy | None] | None:
        """A new sequence with what is cached of it, copied if need be; None when there is no room for the rest."""
        sequence = Sequence(f"s{len(self.held)}", list(token_ids), len(token_ids), max_total_tokens=1_000)
        match = self.blocks.claim(sequence, parent)
        if match is None:
            return None
        sequence.status = SequenceStatus.RUNNING
        copy = self.blocks.take_over(sequence, match)
        if copy is not None:
            self.cache.copy(copy)
        self.held.append(sequence)
        return sequence, copy

    def compute(self, sequence: Sequence, num_tokens: int | None = None) -> bool:
        """The next tokens, or all that are left; False when the blocks run out."""
        end = sequence.num_tokens if num_tokens is None else sequence.num_computed + num_tokens
        if not self.blocks.grow(sequence, end):
            return False
        self.cache.write(sequence.block_ids, sequence.token_ids[:end], sequence.num_computed)
        self.blocks.advance(sequence, end - sequence.num_computed)
        return True

    def computed(self, token_ids: Run[int]) -> Sequence:
        """A new sequence of which everything is computed."""
        started = self.start(token_ids)
        assert started is not None
        assert self.compute(started[0])
        return started[0]

    def give_up(self, sequence: Sequence) -> None:
        self.blocks.give_up(sequence)
        sequence.status = SequenceStatus.WAITING
        self.held.remove(sequence)

    def check(self) -> None:
        self.blocks.check_integrity(self.held)
        for sequence in self.held:
            self.cache.check(sequence.block_ids, sequence.token_ids[: sequence.num_computed])


# --- the beginning ---


def test_a_sequence_begins_with_what_another_left_behind_but_for_its_last_token():
    b = Bench()
    first = b.computed(range(10))
    left = list(first.block_ids)
    b.give_up(first)
    second, copy = b.start(range(10))
    assert (second.num_computed, second.num_slots) == (9, 9)
    assert second.block_ids[:2] == left[:2], "whole blocks are shared"
    assert copy == BlockCopy(left[2], second.block_ids[2], 1), "what will be written on is the sequence's own"
    b.check()


def test_a_parent_shares_what_the_tree_has_not_yet():
    b = Bench()
    parent = b.computed(range(6))
    assert b.tree.num_blocks == 1
    child, copy = b.start([*range(6), 99], parent)
    assert child.num_computed == 6
    assert child.block_ids[0] == parent.block_ids[0]
    assert copy == BlockCopy(parent.block_ids[1], child.block_ids[1], 2)
    b.check()


def test_a_parent_that_holds_no_blocks_is_as_good_as_none():
    b = Bench()
    parent = b.computed(range(6))
    b.give_up(parent)
    b.tree.clear()
    child, copy = b.start([*range(6), 99], parent)
    assert (child.num_computed, child.block_ids, copy) == (0, [], None)


def test_what_cannot_have_all_its_blocks_gets_none():
    b = Bench(num_blocks=4)
    first = b.computed(range(8))
    assert b.start([*range(8), *range(50, 59)]) is None, "three more blocks, and there are two"
    assert [b.pool.ref_count(block_id) for block_id in first.block_ids] == [2, 2], "nothing stays retained"
    b.check()


def test_nobody_is_looked_up_again_before_there_is_more_room():
    b = Bench(num_blocks=4)
    first = b.computed(range(12))
    big = Sequence("big", list(range(50, 60)), 10, max_total_tokens=20)
    before = b.tree.num_matches
    assert b.blocks.claim(big, None) is None
    assert b.blocks.claim(big, None) is None
    assert b.tree.num_matches == before + 1
    b.give_up(first)
    assert b.blocks.claim(big, None) == PrefixMatch()
    assert b.tree.num_matches == before + 2


def test_a_source_that_is_the_only_block_left_is_not_copied():
    b = Bench(num_blocks=2)
    b.give_up(b.computed(range(8)))
    again, copy = b.start(range(8))
    assert (again.num_computed, len(again.block_ids), copy) == (4, 1, None)
    assert b.compute(again), "the block that could not be copied makes room"
    b.check()


# --- from step to step ---


def test_full_blocks_can_be_shared_at_once_and_the_last_one_when_it_is_given_up():
    b = Bench()
    sequence = b.computed(range(6))
    assert b.tree.match(list(range(6)), 6).num_tokens == 4
    b.give_up(sequence)
    assert b.tree.match(list(range(6)), 6).num_tokens == 6
    assert (sequence.block_ids, sequence.num_computed, sequence.num_slots) == ([], 0, 0)
    assert b.pool.num_available == b.pool.num_blocks


def test_growing_evicts_and_keeps_what_it_could_get():
    b = Bench(num_blocks=4)
    b.give_up(b.computed(range(50, 62)))
    sequence = b.computed(range(4))
    assert b.tree.num_blocks == 4, "all blocks are in use or cached"
    assert b.blocks.grow(sequence, 9)
    assert not b.blocks.grow(sequence, 17)
    assert (sequence.num_slots, len(sequence.block_ids)) == (16, 4)
    b.check()


def test_a_reserve_that_does_not_fit_changes_nothing():
    b = Bench(num_blocks=4)
    sequence = b.computed(range(6))
    blocks = list(sequence.block_ids)
    assert not b.blocks.reserve(sequence, 11)
    assert (sequence.num_slots, sequence.block_ids) == (6, blocks)
    assert b.blocks.reserve(sequence, 10)
    assert (sequence.num_slots, len(sequence.block_ids)) == (16, 4)
    b.blocks.reclaim(sequence)
    assert (sequence.num_slots, sequence.block_ids) == (6, blocks)
    b.check()


def test_more_tokens_than_slots_cannot_be_computed():
    b = Bench()
    sequence = b.computed(range(6))
    sequence.token_ids.append(6)
    with pytest.raises(AssertionError, match="s0: advanced too far"):
        b.blocks.advance(sequence, 1)


# --- invariants ---


def test_integrity_notices_a_holder_that_was_not_named():
    b = Bench()
    b.computed(range(5))
    with pytest.raises(AssertionError, match="held by someone unknown"):
        b.blocks.check_integrity([])


def test_integrity_notices_a_block_with_two_writers():
    b = Bench()
    first, second = b.computed(range(5)), b.computed(range(20, 25))
    b.pool.release(second.block_ids[1])
    second.block_ids[1] = first.block_ids[1]
    b.pool.retain(first.block_ids[1])
    with pytest.raises(AssertionError, match="which it shares"):
        b.check()


# --- what is stored beyond the cache ---


def stored(b: Bench, token_ids: Run[int]) -> None:
    """All of it is in the store, and nothing in the cache."""
    sequence = b.computed(token_ids)
    b.store.offer(sequence.id, sequence.token_ids, sequence.num_computed, sequence.block_ids)
    b.give_up(sequence)
    b.tree.clear()


def test_what_is_stored_is_read_back_in_whole_segments():
    b = Bench()
    stored(b, range(30))
    assert b.blocks.restore([*range(30), 99], b.store) == 24
    second, copy = b.start([*range(30), 99])
    assert (second.num_computed, copy) == (24, None)
    b.check()


def test_what_is_cached_is_not_read_again():
    b = Bench()
    stored(b, range(24))
    b.give_up(b.computed(range(10)))
    kept = list(b.tree.match(range(10), 10).full_blocks)
    assert b.blocks.restore(range(24), b.store) == 16 - 10, "two of three segments: the last token is computed"
    match = b.tree.match(range(24), 24)
    assert (match.num_tokens, list(match.full_blocks[:2])) == (16, kept)
    b.check()
    assert b.blocks.restore(range(24), b.store) == 0


def test_as_much_is_read_back_as_there_is_room_for():
    b = Bench(num_blocks=6)
    stored(b, range(24))
    other = b.computed(range(50, 60))
    assert b.blocks.restore([*range(24), 99], b.store) == 12, "three blocks of four tokens"
    b.check()
    assert b.compute(other, 0)


def test_a_segment_that_is_gone_when_it_is_read_ends_the_prefix():
    b = Bench()
    stored(b, range(24))
    del b.store.segments[tuple(range(16))]
    b.store.num_stored = lambda _: 24
    assert b.blocks.restore([*range(24), 99], b.store) == 8
    assert b.tree.match(range(24), 24).num_tokens == 8
    b.check()


# --- everything at once ---


class BlockManagerMachine(RuleBasedStateMachine):
    """Sequences that come, grow, guess, fork and go in any order, over a pool that is nearly always too small."""

    @initialize(num_blocks=st.integers(1, 12), block_size=st.integers(1, 5))
    def begin(self, num_blocks: int, block_size: int) -> None:
        self.b = Bench(num_blocks, block_size)
        self.known: list[list[int]] = [[0]]

    def num_missing(self, sequence: Sequence, num_slots: int) -> int:
        return self.b.pool.blocks_for(num_slots) - len(sequence.block_ids)

    def any_held(self, data: st.DataObject) -> Sequence:
        return data.draw(st.sampled_from(self.b.held))

    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=12))
    def start(self, data: st.DataObject, more: list[int]) -> None:
        token_ids = [*data.draw(st.sampled_from(self.known)), *more]
        before = self.b.pool.num_available
        if self.b.start(token_ids) is None:
            assert self.b.pool.blocks_for(len(token_ids)) > before
            assert self.b.pool.num_available == before

    @precondition(lambda self: self.b.held)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=4))
    def fork(self, data: st.DataObject, more: list[int]) -> None:
        parent = self.any_held(data)
        num_shared = data.draw(st.integers(0, parent.num_computed))
        started = self.b.start([*parent.token_ids[:num_shared], *more], parent)
        if started is not None and started[1] is not None:
            assert started[0].num_computed >= num_shared, "what the parent has computed is not computed again"

    @precondition(lambda self: self.b.held)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        sequence = self.any_held(data)
        if not sequence.num_uncomputed:
            sequence.token_ids.append(data.draw(st.integers(0, 1)))
        num_tokens = data.draw(st.integers(1, sequence.num_uncomputed))
        has_room = self.num_missing(sequence, sequence.num_computed + num_tokens) <= self.b.pool.num_available
        assert self.b.compute(sequence, num_tokens) == has_room

    @precondition(lambda self: self.b.held)
    @rule(data=st.data(), drafts=st.lists(st.integers(0, 1), max_size=6))
    def guess(self, data: st.DataObject, drafts: list[int]) -> None:
        """Drafts are written behind the last token, and some are accepted."""
        sequence = self.any_held(data)
        before = sequence.num_slots, list(sequence.block_ids)
        has_room = self.num_missing(sequence, sequence.num_tokens + len(drafts)) <= self.b.pool.num_available
        assert self.b.blocks.reserve(sequence, len(drafts)) == has_room
        if not has_room:
            assert (sequence.num_slots, sequence.block_ids) == before
            return
        self.b.cache.write(sequence.block_ids, [*sequence.token_ids, *drafts], sequence.num_computed)
        accepted = drafts[: data.draw(st.integers(0, len(drafts)))]
        sequence.token_ids.extend(accepted)
        self.b.blocks.advance(sequence, sequence.num_uncomputed)
        self.b.blocks.reclaim(sequence)
        assert self.num_missing(sequence, sequence.num_tokens) == 0

    @precondition(lambda self: self.b.held)
    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        sequence = self.any_held(data)
        self.known.append(list(sequence.token_ids))
        self.b.store.offer(sequence.id, sequence.token_ids, sequence.num_computed, sequence.block_ids)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        token_ids, pool = data.draw(st.sampled_from(self.known)), self.b.pool
        limit, available = len(token_ids) - 1, self.b.pool.num_available
        cached, in_store = self.b.tree.match(token_ids, limit), self.b.store.num_stored(token_ids[:limit])
        gained = self.b.blocks.restore(token_ids, self.b.store)
        found = self.b.tree.match(token_ids, limit).num_tokens
        assert found == cached.num_tokens + gained
        assert pool.num_available == available, "what is read back is in nobody's way"
        if pool.blocks_for(in_store) <= available:
            assert found >= in_store

    @precondition(lambda self: self.b.held)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        sequence = self.any_held(data)
        computed = sequence.token_ids[: sequence.num_computed]
        self.known.append(list(sequence.token_ids))
        # Behind a block that the tree has in another copy it takes none that somebody else holds too.
        others = {block for other in self.b.held if other is not sequence for block in other.block_ids}
        is_alone = others.isdisjoint(sequence.block_ids)
        self.b.give_up(sequence)
        if is_alone:
            assert self.b.tree.match(computed, len(computed)).num_tokens == len(computed), "nothing computed is lost"

    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        self.b.cache.check_cached(self.b.tree, data.draw(st.sampled_from(self.known)))

    @invariant()
    def every_block_is_accounted_for_and_holds_what_it_should(self) -> None:
        if hasattr(self, "b"):
            self.b.check()

    def teardown(self) -> None:
        if hasattr(self, "b"):
            for sequence in tuple(self.b.held):
                self.b.give_up(sequence)
            assert self.b.pool.num_available == self.b.pool.num_blocks


TestBlockManager = BlockManagerMachine.TestCase
TestBlockManager.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
