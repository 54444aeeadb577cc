"""The scheduler, driven by a model whose KV can be read back."""

from __future__ import annotations

import random
from collections.abc import Sequence as Run

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.fake_cache import FakeCache
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.plan import BlockCopy, StepEntry, StepPlan
from kodkod_engine.core.prefix_tree import PrefixTree
from kodkod_engine.core.scheduler import Scheduler
from kodkod_engine.core.sequence import Sequence, SequenceStatus

RUNNING, WAITING, FINISHED = SequenceStatus.RUNNING, SequenceStatus.WAITING, SequenceStatus.FINISHED


class Bench:
    """A scheduler with all it stands on, and the step loop around it."""

    def __init__(self, num_blocks: int, block_size: int, max_step_tokens: int, max_running: int) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.tree = PrefixTree(self.pool)
        self.scheduler = Scheduler(self.pool, self.tree, max_step_tokens=max_step_tokens, max_running=max_running)
        self.cache = FakeCache(block_size)
        self.max_step_tokens = max_step_tokens

    def add(self, seq_id: str, token_ids: Run[int], max_new: int = 1000, parent: Sequence | None = None) -> Sequence:
        sequence = Sequence(seq_id, list(token_ids), len(token_ids), max_total_tokens=len(token_ids) + max_new)
        self.scheduler.add(sequence, parent)
        return sequence

    def compute(self, plan: StepPlan) -> None:
        """Copy, write everything, then read everything, as a layer does."""
        assert sum(entry.num_tokens for entry in plan.entries) <= self.max_step_tokens
        for copy in plan.copies:
            self.cache.copy(copy)
        runs = [(entry, entry.sequence) for entry in plan.entries if entry.sequence.status is RUNNING]
        for entry, sequence in runs:
            assert entry.start == sequence.num_computed
            assert entry.samples == (entry.start + entry.num_tokens == sequence.num_tokens)
            end = entry.start + entry.num_tokens
            self.cache.write(sequence.block_ids, sequence.token_ids[:end], entry.start)
        for entry, sequence in runs:
            self.cache.check(sequence.block_ids, sequence.token_ids[: entry.start + entry.num_tokens])

    def commit(self, plan: StepPlan, token_id: int) -> None:
        for entry in plan.entries:
            self.scheduler.commit(entry)
            if entry.samples:
                self.scheduler.append_token(entry.sequence, token_id)
                if entry.sequence.num_tokens >= entry.sequence.max_total_tokens:
                    self.scheduler.finish(entry.sequence)
        self.scheduler.check_integrity()

    def step(self, token_id: int = 7) -> list[tuple[str, int, int]]:
        """One step; what was computed, as (id, start, num_tokens)."""
        plan = self.scheduler.schedule()
        self.scheduler.check_integrity()
        self.compute(plan)
        self.commit(plan, token_id)
        return [(entry.sequence.id, entry.start, entry.num_tokens) for entry in plan.entries]

    def finish_all(self) -> None:
        for sequence in (*self.scheduler.running, *self.scheduler.waiting):
            assert self.scheduler.cancel(sequence.id)
        self.scheduler.check_integrity()
        assert not self.scheduler.has_work
        assert self.pool.num_available == self.pool.num_blocks
        self.tree.clear()
        assert self.pool.num_free == self.pool.num_blocks


def bench(num_blocks: int = 16, block_size: int = 4, max_step_tokens: int = 64, max_running: int = 4) -> Bench:
    return Bench(num_blocks, block_size, max_step_tokens, max_running)


# --- what a step is made of ---


def test_a_prompt_is_computed_then_decoded_token_by_token():
    b = bench()
    sequence = b.add("a", range(6))
    assert b.step() == [("a", 0, 6)]
    assert b.step() == [("a", 6, 1)]
    assert b.step() == [("a", 7, 1)]
    assert sequence.token_ids[6:] == [7, 7, 7]
    assert sequence.reused_tokens == 0
    assert sequence.is_decoding


def test_a_long_prompt_comes_in_chunks_and_samples_at_its_end_alone():
    b = bench(max_step_tokens=5)
    b.add("a", range(12))
    steps = []
    for _ in range(3):
        plan = b.scheduler.schedule()
        steps += [(entry.start, entry.num_tokens, entry.samples) for entry in plan.entries]
        b.compute(plan)
        b.commit(plan, 7)
    assert steps == [(0, 5, False), (5, 5, False), (10, 2, True)]


def test_decodes_come_first_and_prefill_gets_the_rest_in_order_of_arrival():
    b = bench(max_step_tokens=8, max_running=4)
    b.add("a", range(4))
    b.step()
    b.add("long", range(100, 110))
    b.add("late", range(200, 204))
    assert b.step() == [("a", 4, 1), ("long", 0, 7)]
    assert b.step() == [("a", 5, 1), ("long", 7, 3), ("late", 0, 4)]
    assert b.step() == [("a", 6, 1), ("long", 10, 1), ("late", 4, 1)]


def test_an_older_prefill_waits_for_a_younger_decode_and_then_goes_on():
    b = bench(max_step_tokens=4)
    old = b.add("old", range(9), max_new=20)
    b.step()
    assert b.step() == [("old", 4, 4)]
    b.add("young", range(50, 52))
    assert b.step() == [("old", 8, 1), ("young", 0, 2)]
    for token_id in (1, 2, 3):
        b.scheduler.append_token(old, token_id)
    assert b.step() == [("young", 2, 1), ("old", 9, 3)]


def test_no_more_run_than_allowed():
    b = bench(max_running=2)
    for seq_id in "abc":
        b.add(seq_id, [ord(seq_id)] * 3, max_new=2)
    assert [entry[0] for entry in b.step()] == ["a", "b"]
    assert [sequence.id for sequence in b.scheduler.waiting] == ["c"]
    b.step()
    assert b.step() == [("c", 0, 3)]


# --- reuse ---


def test_a_second_turn_computes_its_new_tokens_and_no_other():
    b = Bench(num_blocks=256, block_size=16, max_step_tokens=512, max_running=4)
    first = b.add("turn 1", range(1990))
    while first.num_computed < 2000:
        b.step()
    prefix = first.token_ids[:2000]
    b.scheduler.finish(first)
    second = b.add("turn 2", [*prefix, *range(5000, 5020)])
    assert b.step() == [("turn 2", 2000, 20)]
    assert second.reused_tokens == 2000


def test_reuse_is_exact_to_the_token_and_the_last_token_is_always_computed():
    b = bench()
    b.scheduler.finish(first := b.add("nothing computed", range(11)))
    assert first.status is FINISHED
    b.add("a", range(11), max_new=1)
    b.step()
    b.add("same", range(11))
    assert b.step() == [("same", 10, 1)]
    b.add("other", [*range(6), 99, 98])
    plan = b.scheduler.schedule()
    entry = next(entry for entry in plan.entries if entry.sequence.id == "other")
    assert (entry.start, entry.num_tokens) == (6, 2)
    assert [copy.num_tokens for copy in plan.copies] == [2]
    b.compute(plan)
    b.commit(plan, 7)


def test_a_prompt_that_is_being_computed_is_shared_block_by_block():
    b = bench(num_blocks=32, max_step_tokens=8)
    b.add("a", range(20))
    for _ in range(3):
        b.step()
    second = b.add("b", [*range(18), 99])
    b.step()
    assert second.reused_tokens == 18, "four full blocks, and two tokens of the fifth, whose 20 tokens are all known"
    assert second.block_ids[:4] == b.scheduler.running[0].block_ids[:4]


def test_two_that_start_alike_at_once_leave_both_endings_behind():
    b = bench()
    b.add("a", range(9), max_new=3)
    b.add("b", range(9), max_new=3)
    plan = b.scheduler.schedule()
    b.compute(plan)
    for entry, token_id in zip(plan.entries, (1, 2), strict=True):
        b.scheduler.commit(entry)
        b.scheduler.append_token(entry.sequence, token_id)
    b.step()
    b.step()
    b.add("c", [*range(9), 1, 7, 50])
    b.add("d", [*range(9), 2, 7, 50])
    assert b.step() == [("c", 11, 1), ("d", 11, 1)]


def test_reused_tokens_are_those_of_the_first_admission():
    b = bench(num_blocks=6, max_running=2)
    b.add("old", range(8), max_new=30)
    young = b.add("young", [*range(8), *range(20, 24)], max_new=30)
    while not young.preemptions:
        b.step()
    b.scheduler.cancel("old")
    b.step()
    assert young.status is RUNNING
    assert young.num_computed > 0
    assert young.reused_tokens == 0


# --- forks ---


def test_fork_in_the_middle_of_a_block_while_the_parent_runs_on():
    b = bench()
    parent = b.add("parent", range(5))
    b.step(token_id=60)
    b.step(token_id=61)
    assert parent.token_ids == [0, 1, 2, 3, 4, 60, 61]
    child = b.add("child", [*parent.token_ids[:6], 99], parent=parent)
    plan = b.scheduler.schedule()
    assert plan.copies == (BlockCopy(parent.block_ids[1], child.block_ids[1], 2),)
    assert child.block_ids[0] == parent.block_ids[0]
    assert [(entry.sequence.id, entry.start, entry.num_tokens) for entry in plan.entries] == [
        ("parent", 6, 1),
        ("child", 6, 1),
    ]
    b.compute(plan)
    b.commit(plan, 62)
    for _ in range(6):
        b.step()
    assert parent.token_ids[6:8] == [61, 62]
    assert child.token_ids[6:8] == [99, 62]


@pytest.mark.parametrize("num_shared", [6, 7])
def test_a_fork_shares_what_is_computed_and_nothing_beyond(num_shared):
    b = bench()
    parent = b.add("parent", range(5))
    b.step()
    b.step()
    assert (parent.num_tokens, parent.num_computed) == (7, 6)
    b.add("child", [*parent.token_ids[:num_shared], 98, 99], parent=parent)
    assert b.step() == [("parent", 6, 1), ("child", 6, num_shared - 4)]


def test_a_fork_of_a_half_computed_prompt_shares_that_half():
    b = bench(max_step_tokens=10)
    parent = b.add("parent", range(16), max_new=9)
    b.step()
    b.add("child", range(17), parent=parent)
    assert b.step() == [("parent", 10, 6), ("child", 10, 4)]


def test_fork_of_a_fork_in_one_step_copies_the_copy():
    b = bench()
    first = b.add("first", range(5))
    b.step()
    b.step()
    second = b.add("second", [*first.token_ids[:6], 40], parent=first)
    third = b.add("third", [*first.token_ids[:6], 41], parent=second)
    plan = b.scheduler.schedule()
    assert plan.copies == (
        BlockCopy(first.block_ids[1], second.block_ids[1], 2),
        BlockCopy(second.block_ids[1], third.block_ids[1], 2),
    )
    b.compute(plan)
    b.commit(plan, 7)
    assert b.step() == [("first", 7, 1), ("second", 7, 1), ("third", 7, 1)]


def test_the_longer_of_tree_and_parent_wins():
    b = bench(num_blocks=32)
    b.add("before", range(12), max_new=1)
    b.step()
    parent = b.add("parent", [*range(4), 50, 51, 52])
    b.step()
    through_tree = b.add("through tree", range(13), parent=parent)
    through_parent = b.add("through parent", [*range(4), 50, 51, 52, 53], parent=parent)
    b.step()
    assert through_tree.reused_tokens == 12
    assert through_parent.reused_tokens == 7


def test_many_branches_of_one_parent_share_its_blocks():
    b = bench(num_blocks=16, max_running=8)
    parent = b.add("parent", range(30))
    b.step()
    for branch in range(5):
        b.add(str(branch), [*range(30), 100 + branch], parent=parent)
    assert b.step() == [("parent", 30, 1), *((str(branch), 30, 1) for branch in range(5))]
    assert b.pool.num_blocks - b.pool.num_free == 8 + 5


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "waiting"])
def test_a_parent_that_does_not_run_is_no_obstacle(is_finished):
    b = bench(max_running=1)
    parent = b.add("parent", range(6), max_new=1)
    if is_finished:
        b.step()
        assert parent.status is FINISHED
    child = b.add("child", range(10), parent=parent)
    while child.status is WAITING:
        b.step()
    assert child.reused_tokens == 6


# --- when blocks run out ---


def test_the_tree_is_evicted_from_before_anybody_is_preempted():
    b = bench(num_blocks=4)
    b.add("gone", range(12), max_new=1)
    b.step()
    assert b.tree.num_blocks == 3
    b.add("a", range(50, 58), max_new=20)
    b.add("b", range(70, 74), max_new=20)
    b.step()
    assert [sequence.preemptions for sequence in b.scheduler.running] == [0, 0]
    assert len(b.scheduler.running) == 2


def test_the_youngest_is_preempted_and_finds_its_tokens_again():
    b = bench(num_blocks=5, max_running=2)
    old = b.add("old", range(8), max_new=4)
    young = b.add("young", range(50, 58), max_new=20)
    late = b.add("late", range(90, 94), max_new=1)
    b.step()
    assert old.status is young.status is RUNNING
    assert b.step() == [("old", 8, 1)], "the fifth block goes to the older one"
    assert b.scheduler.waiting == (young, late), "to the front of the queue"
    assert (young.preemptions, young.num_computed, young.block_ids) == (1, 0, [])
    while old.status is RUNNING:
        b.step()
    assert b.step()[0] == ("young", 8, 1), "eight tokens were still in the tree"
    assert young.reused_tokens == 0


def test_a_younger_one_never_takes_from_an_older_one():
    b = bench(num_blocks=4)
    old = b.add("old", range(9), max_new=3)
    young = b.add("young", range(50, 54), max_new=20)
    b.step()
    assert b.step() == [("old", 9, 1)]
    assert (old.preemptions, young.preemptions) == (0, 1)


def test_a_preempted_sequence_leaves_the_step_it_was_in():
    b = bench(num_blocks=4, max_step_tokens=5)
    old = b.add("old", range(8), max_new=20)
    b.step()
    b.step()
    young = b.add("young", range(50, 53), max_new=20)
    b.step()
    for token_id in (1, 2, 3, 4, 5):
        b.scheduler.append_token(old, token_id)
    assert young.is_decoding
    assert b.step() == [("old", 9, 4)], "the decode is planned first, then its block is taken from it"
    assert young.status is WAITING
    assert b.step() == [("old", 13, 2)]


def test_alone_and_too_long_fails_with_a_cause():
    b = bench(num_blocks=2)
    b.add("a", range(7), max_new=20)
    assert b.step() == [("a", 0, 7)]
    assert b.step() == [("a", 7, 1)]
    plan = b.scheduler.schedule()
    assert plan.entries == ()
    [(sequence, cause)] = plan.failed
    assert sequence.status is FINISHED
    assert cause.startswith("9 tokens do not fit a KV cache of 8: ")
    b.scheduler.check_integrity()
    assert not b.scheduler.has_work


def test_a_prompt_that_never_fits_does_not_hold_up_the_next():
    b = bench(num_blocks=2)
    giant = b.add("giant", range(9))
    b.add("small", range(3))
    plan = b.scheduler.schedule()
    assert [sequence for sequence, _ in plan.failed] == [giant]
    assert [entry.sequence.id for entry in plan.entries] == ["small"]


def test_nobody_overtakes_the_first_in_the_queue():
    b = bench(num_blocks=4)
    b.add("a", range(8), max_new=4)
    b.step()
    b.add("big", range(20, 32), max_new=2)
    b.add("small", range(40, 42), max_new=1)
    for start in (8, 9, 10):
        assert b.step() == [("a", start, 1)], "the small one would fit, and waits"
    assert b.step() == [("big", 0, 12), ("small", 0, 2)]


def test_a_source_that_is_the_only_block_left_is_computed_anew():
    b = bench(num_blocks=2)
    b.add("a", range(8), max_new=1)
    b.step()
    again = b.add("again", range(8), max_new=1)
    plan = b.scheduler.schedule()
    assert plan.copies == ()
    assert [(entry.start, entry.num_tokens) for entry in plan.entries] == [(4, 4)]
    assert again.reused_tokens == 4
    b.compute(plan)
    b.commit(plan, 7)


# --- drafts ---


def test_reserve_makes_slots_that_do_not_count():
    b = bench(num_blocks=4)
    sequence = b.add("a", range(7), max_new=9)
    b.step()
    assert sequence.num_computed == 7
    assert b.scheduler.reserve(sequence, 5)
    assert (sequence.num_slots, len(sequence.block_ids), sequence.num_computed) == (13, 4, 7)
    b.scheduler.check_integrity()
    assert not b.scheduler.reserve(sequence, 9)
    assert (sequence.num_slots, len(sequence.block_ids)) == (13, 4), "17 slots do not fit, and nothing changed"
    b.scheduler.check_integrity()


def test_reserve_evicts_and_does_not_preempt():
    b = bench(num_blocks=4)
    b.add("gone", range(4), max_new=1)
    b.step()
    a = b.add("a", range(20, 24))
    other = b.add("other", range(30, 34))
    plan = b.scheduler.schedule()
    assert b.scheduler.reserve(a, 4)
    assert b.scheduler.reserve(other, 4), "what the tree alone held"
    assert not b.scheduler.reserve(a, 5)
    assert other.preemptions == 0
    b.compute(plan)
    b.commit(plan, 7)


def test_accepted_drafts_advance_together_with_the_token_before_them():
    b = bench()
    sequence = b.add("a", range(7))
    b.step()
    plan = b.scheduler.schedule()
    assert b.scheduler.reserve(sequence, 3)
    b.compute(plan)
    b.cache.write(sequence.block_ids, [*sequence.token_ids, 1, 2, 3], 8)
    for token_id in (1, 2):
        b.scheduler.append_token(sequence, token_id)
    b.scheduler.advance(sequence, 3)
    b.scheduler.append_token(sequence, 50)
    b.scheduler.check_integrity()
    assert b.step() == [("a", 10, 1)]


# --- ends ---


def test_cancel_frees_what_runs_and_forgets_what_waits():
    b = bench(max_running=1)
    running, waiting = b.add("running", range(5)), b.add("waiting", range(5))
    b.step()
    assert b.scheduler.cancel("waiting")
    assert b.scheduler.cancel("running")
    assert not b.scheduler.cancel("running")
    assert not b.scheduler.cancel("unknown")
    b.scheduler.finish(running)
    assert running.status is waiting.status is FINISHED
    assert not b.scheduler.has_work
    b.finish_all()


def test_cancel_between_schedule_and_commit():
    b = bench()
    gone, stays = b.add("gone", range(5)), b.add("stays", range(20, 25))
    b.step()
    plan = b.scheduler.schedule()
    b.scheduler.cancel("gone")
    b.compute(plan)
    b.commit(plan, 9)
    assert gone.token_ids == [0, 1, 2, 3, 4, 7]
    assert stays.token_ids[-1] == 9
    b.add("again", range(6))
    assert b.step()[-1] == ("again", 5, 1)


def test_refuses_what_cannot_be_scheduled():
    b = bench()
    sequence = b.add("a", range(3))
    with pytest.raises(ValueError, match="another id"):
        b.add("a", range(3))
    with pytest.raises(ValueError, match="no prompt"):
        b.add("b", [])
    b.scheduler.cancel("a")
    with pytest.raises(ValueError, match="make a new one"):
        b.scheduler.add(sequence)
    with pytest.raises(ValueError, match="max_step_tokens"):
        bench(max_step_tokens=3, max_running=4)


def test_integrity_notices_a_block_with_two_writers():
    b = bench()
    first, second = b.add("a", range(5)), b.add("b", range(20, 25))
    b.step()
    b.pool.release(second.block_ids[1])
    second.block_ids[1] = first.block_ids[1]
    b.pool.retain(first.block_ids[1])
    with pytest.raises(AssertionError, match="which it shares"):
        b.scheduler.check_integrity()


def test_integrity_notices_a_lost_block():
    b = bench()
    b.add("a", range(5))
    b.step()
    b.pool.allocate()
    with pytest.raises(AssertionError, match="someone unknown"):
        b.scheduler.check_integrity()


# --- everything at once ---

few_tokens = st.lists(st.integers(0, 1), min_size=1, max_size=20)
MAX_LIVE = 5
"""Requests at a time: so many that some wait, so few that most rules meet one that runs."""


@given(
    prompts=st.lists(st.tuples(few_tokens, st.integers(1, 8)), min_size=1, max_size=6),
    num_blocks=st.integers(1, 8),
    block_size=st.integers(1, 5),
    max_running=st.integers(1, 4),
    spare_tokens=st.integers(0, 8),
)
@settings(max_examples=150, deadline=None)
def test_everything_ends_and_the_oldest_always_goes_on(prompts, num_blocks, block_size, max_running, spare_tokens):
    b = Bench(num_blocks, block_size, max_running + spare_tokens, max_running)
    sequences = [b.add(str(index), *prompt) for index, prompt in enumerate(prompts)]
    # The oldest computes a token per step at least, or fails.
    for _ in range(sum(sequence.max_total_tokens + 1 for sequence in sequences)):
        if not b.scheduler.has_work:
            break
        plan = b.scheduler.schedule()
        oldest = [*b.scheduler.running, *b.scheduler.waiting][:1]
        assert plan.failed or [oldest[0]] == [e.sequence for e in plan.entries if e.sequence is oldest[0]]
        b.compute(plan)
        b.commit(plan, 1)
    assert not b.scheduler.has_work
    for sequence in sequences:
        fits = sequence.max_total_tokens - 1 <= b.pool.num_slots
        assert fits == (sequence.num_tokens == sequence.max_total_tokens), "all that fit were served in full"
    b.finish_all()


class SchedulerMachine(RuleBasedStateMachine):
    """Random requests, forks, drafts and cancellations over a pool that is nearly always too small."""

    @initialize(
        num_blocks=st.integers(2, 16),
        block_size=st.integers(2, 5),
        max_running=st.integers(1, 4),
        spare_tokens=st.integers(0, 20),
    )
    def start(self, num_blocks: int, block_size: int, max_running: int, spare_tokens: int) -> None:
        self.b = Bench(num_blocks, block_size, max_running + spare_tokens, max_running)
        self.live: list[Sequence] = []
        self.known: list[list[int]] = []
        self.num_added = 0

    def add(self, token_ids: Run[int], max_new: int, parent: Sequence | None = None) -> None:
        self.num_added += 1
        self.live.append(self.b.add(f"s{self.num_added}", token_ids, max_new, parent))

    @precondition(lambda self: len(self.live) < MAX_LIVE)
    @rule(token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=12), max_new=st.integers(1, 12))
    def add_new(self, token_ids: list[int], max_new: int) -> None:
        self.add(token_ids, max_new)

    @precondition(lambda self: self.known and len(self.live) < MAX_LIVE)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), max_size=6), max_new=st.integers(1, 12))
    def next_turn(self, data: st.DataObject, more: list[int], max_new: int) -> None:
        self.add([*data.draw(st.sampled_from(self.known)), *more], max_new)

    @precondition(lambda self: 0 < len(self.live) < MAX_LIVE)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), max_size=4), max_new=st.integers(1, 12))
    def fork(self, data: st.DataObject, more: list[int], max_new: int) -> None:
        parent = data.draw(st.sampled_from(self.live))
        cut = parent.num_tokens - data.draw(st.integers(0, min(parent.num_tokens - 1, 6)))
        self.add([*parent.token_ids[:cut], *more], max_new, parent)

    @precondition(lambda self: self.live)
    @rule(num_steps=st.integers(1, 5), seed=st.integers(0, 2**16))
    def steps(self, num_steps: int, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(num_steps):
            self.step(rng)
            self.b.scheduler.check_integrity()

    def step(self, rng: random.Random) -> None:
        plan = self.b.scheduler.schedule()
        assert bool(plan.entries or plan.failed) == bool(self.live)
        planned = {entry.sequence.id for entry in plan.entries}
        assert planned >= {sequence.id for sequence in self.b.scheduler.running if sequence.is_decoding}
        drafts = {entry.sequence.id: self.draft(rng, entry) for entry in plan.entries}
        if plan.entries and rng.random() < 0.05:
            self.b.scheduler.cancel(rng.choice(plan.entries).sequence.id)
        self.b.compute(plan)
        for entry in plan.entries:
            self.verify(rng, entry, drafts[entry.sequence.id])
        self.live = [sequence for sequence in self.live if sequence.status is not FINISHED]

    def draft(self, rng: random.Random, entry: StepEntry) -> list[int]:
        sequence = entry.sequence
        room = sequence.max_total_tokens - sequence.num_tokens - 1
        drafts = rng.choices((0, 1), k=min(rng.choice((0, 0, 2, 4)), max(room, 0)))
        return drafts if drafts and entry.samples and self.b.scheduler.reserve(sequence, len(drafts)) else []

    def verify(self, rng: random.Random, entry: StepEntry, drafts: list[int]) -> None:
        sequence, scheduler = entry.sequence, self.b.scheduler
        if sequence.status is FINISHED:
            scheduler.commit(entry)
            return
        token_ids = [*sequence.token_ids, *drafts]
        if drafts:
            self.b.cache.write(sequence.block_ids, token_ids, sequence.num_tokens)
            self.b.cache.check(sequence.block_ids, token_ids)
        num_accepted = rng.randint(0, len(drafts))
        for token_id in drafts[:num_accepted]:
            scheduler.append_token(sequence, token_id)
        scheduler.advance(sequence, entry.num_tokens + num_accepted)
        if entry.samples:
            scheduler.append_token(sequence, rng.choice((0, 1)))
        if sequence.num_tokens >= sequence.max_total_tokens:
            self.known.append(list(sequence.token_ids))
            scheduler.finish(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.known.append(list(sequence.token_ids))
        self.live.remove(sequence)
        assert self.b.scheduler.cancel(sequence.id) == (sequence.status is FINISHED)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        self.b.cache.check_cached(self.b.tree, data.draw(st.sampled_from(self.known)))

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        self.b.scheduler.check_integrity()

    @invariant()
    def every_sequence_holds_its_own_prefix(self) -> None:
        for sequence in self.b.scheduler.running:
            self.b.cache.check(sequence.block_ids, sequence.token_ids[: sequence.num_computed])

    def teardown(self) -> None:
        if hasattr(self, "b"):
            self.b.finish_all()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
