"""Who computes which tokens next, and in which blocks: continuous batching, decided in plain integers.

A step is a mapping from sequence to the run of its tokens to compute now. Prefill, chunked prefill, decode and the
verification of drafts are all that.

    schedule() -> StepPlan -> copies, then forward -> commit(entry) -> append_token(...) -> schedule() ...

Between `schedule` and `commit` the scheduler may be told to `reserve`, `cancel` and `add`. A plan that was handed out
is carried out whole, its copies in order and before anything else is written: later copies, and the forward, may write
blocks that earlier copies read.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Sequence as Run
from dataclasses import dataclass, field

from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.prefix_tree import PrefixMatch, PrefixTree
from kodkod_engine.core.sequence import Sequence, SequenceStatus


@dataclass(frozen=True, slots=True)
class StepEntry:
    """Compute tokens [start, start + num_tokens) of one sequence."""

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    """The run reaches the last token: the next one is to be chosen from its logits."""


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """Copy the first `num_tokens` slots of one block to another."""

    source_block: int
    target_block: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Decodes come first, then prefill runs, each in order of arrival."""

    entries: tuple[StepEntry, ...] = ()
    copies: tuple[BlockCopy, ...] = ()
    """To be executed in this order, before the forward."""
    failed: tuple[tuple[Sequence, str], ...] = ()
    """Sequences that can never fit, finished by now, each with a one-line cause."""


@dataclass(slots=True)
class _Step:
    """A plan in the making."""

    budget: int
    entries: dict[str, StepEntry] = field(default_factory=dict)
    copies: list[BlockCopy] = field(default_factory=list)
    failed: list[tuple[Sequence, str]] = field(default_factory=list)

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        start = sequence.num_computed
        samples = start + num_tokens == sequence.num_tokens
        self.entries[sequence.id] = StepEntry(sequence, start, num_tokens, samples)
        self.budget -= num_tokens

    def drop(self, sequence: Sequence) -> None:
        entry = self.entries.pop(sequence.id, None)
        if entry is not None:
            self.budget += entry.num_tokens

    def plan(self) -> StepPlan:
        return StepPlan(tuple(self.entries.values()), tuple(self.copies), tuple(self.failed))


class Scheduler:
    """Sequences in order of arrival over one block pool and one prefix tree.

    Sequences are admitted strictly in that order, and the youngest is preempted first, so all that wait are younger
    than all that run: nobody is preempted for a younger one, and the oldest always goes on.

    One thread owns the scheduler, its pool and its tree.
    """

    def __init__(self, pool: BlockPool, tree: PrefixTree, *, max_step_tokens: int, max_running: int) -> None:
        if not 1 <= max_running <= max_step_tokens:
            raise ValueError(
                f"a step of {max_step_tokens} tokens cannot give each of {max_running} running sequences one: "
                "raise max_step_tokens or lower max_running"
            )
        self._pool = pool
        self._tree = tree
        self._max_step_tokens = max_step_tokens
        self._max_running = max_running
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._by_id: dict[str, Sequence] = {}
        self._parents: dict[str, Sequence] = {}
        self._arrivals = itertools.count()
        self._refused: tuple[Sequence, int] | None = None
        """The sequence that last did not fit, and how many blocks were available then."""

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences that hold blocks, oldest first."""
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Sequences to be admitted, oldest first."""
        return tuple(self._waiting)

    @property
    def has_work(self) -> bool:
        """Anything runs or waits."""
        return bool(self._by_id)

    def add(self, sequence: Sequence, parent: Sequence | None = None) -> None:
        """Queue a new sequence.

        What it has in common with what `parent` has computed by the time of admission is shared, even if the parent
        runs on; a parent that does not run then is found through the prefix tree, like anything else.

        Raises:
            ValueError: an id that is in use, no prompt, or a sequence that was scheduled before.
        """
        if sequence.id in self._by_id:
            raise ValueError(f"sequence {sequence.id} is here already: give the new one another id")
        if not sequence.token_ids:
            raise ValueError(f"sequence {sequence.id} has no prompt: give it a token at least")
        if sequence.status is not SequenceStatus.WAITING or sequence.num_slots:
            raise ValueError(f"sequence {sequence.id} was scheduled before: make a new one")
        sequence.arrival = next(self._arrivals)
        self._by_id[sequence.id] = sequence
        self._waiting.append(sequence)
        if parent is not None:
            self._parents[sequence.id] = parent

    def cancel(self, seq_id: str) -> bool:
        """Finish a sequence by its id, running or waiting; False when it is neither."""
        sequence = self._by_id.get(seq_id)
        if sequence is not None:
            self.finish(sequence)
        return sequence is not None

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out: what it computed stays in the prefix tree. May be called twice."""
        if self._by_id.pop(sequence.id, None) is None:
            return
        self._parents.pop(sequence.id, None)
        if sequence.status is SequenceStatus.RUNNING:
            self._running.remove(sequence)
            self._give_up_blocks(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED

    def schedule(self) -> StepPlan:
        """Plan the next step. While there is work, every plan has an entry or a failure.

        Decodes first, then prefill of what runs, then admissions, each in order of arrival, until `max_step_tokens`
        are given out. When blocks run out the tree is evicted from, then the youngest running sequence is preempted.
        """
        step = _Step(budget=self._max_step_tokens)
        for sequence in sorted(self._running, key=lambda sequence: not sequence.is_decoding):
            if sequence.status is SequenceStatus.RUNNING:
                self._plan(step, sequence)
        while self._waiting and step.budget and len(self._running) < self._max_running:
            if not self._admit(step, self._waiting[0]):
                break
        return step.plan()

    def commit(self, entry: StepEntry) -> None:
        """The runner has computed this entry."""
        self.advance(entry.sequence, entry.num_tokens)

    def advance(self, sequence: Sequence, num_tokens: int) -> None:
        """`num_tokens` more tokens of the sequence have their KV in its blocks.

        After a verification: append the accepted drafts, advance by the last token and them, then append the token
        chosen after them. A sequence that was cancelled meanwhile is left as it is.
        """
        if sequence.status is not SequenceStatus.RUNNING:
            return
        num_full_before = sequence.num_computed // self._pool.block_size
        sequence.num_computed += num_tokens
        assert sequence.num_computed <= min(sequence.num_tokens, sequence.num_slots), f"{sequence.id}: advanced too far"
        if sequence.num_computed // self._pool.block_size > num_full_before:
            self._tree.insert(sequence.token_ids, sequence.block_ids, sequence.num_computed, in_use=True)

    def append_token(self, sequence: Sequence, token_id: int) -> None:
        """The sequence goes on with this token. A sequence that was cancelled meanwhile is left as it is."""
        if sequence.status is SequenceStatus.RUNNING:
            sequence.token_ids.append(token_id)

    def reserve(self, sequence: Sequence, num_extra_tokens: int) -> bool:
        """Make slots for `num_extra_tokens` drafts after the last token of a running sequence.

        Drafts are worth an eviction, never a preemption: False, and nothing changed, when there is no room. What is
        written there does not count until `advance`.
        """
        num_slots = sequence.num_tokens + num_extra_tokens
        num_missing = self._pool.blocks_for(num_slots) - len(sequence.block_ids)
        if sequence.status is not SequenceStatus.RUNNING or num_missing > self._pool.num_available:
            return False
        return self._grow(sequence, num_slots)

    def reclaim(self, sequence: Sequence) -> None:
        """Take back the slots after a sequence's last token: drafts that were rejected lie there, or nothing."""
        if sequence.status is not SequenceStatus.RUNNING:
            return
        sequence.num_slots = min(sequence.num_slots, sequence.num_tokens)
        while len(sequence.block_ids) > self._pool.blocks_for(sequence.num_slots):
            self._pool.release(sequence.block_ids.pop())

    def check_integrity(self) -> None:
        """Assert that every block is accounted for, and that no block has two writers."""
        self._pool.check_integrity()
        self._tree.check_integrity()
        self._check_order()
        holders = Counter(self._tree.block_ids)
        for sequence in self._by_id.values():
            sequence.check_invariants(self._pool.block_size)
            holders.update(sequence.block_ids)
        for block_id in range(self._pool.num_blocks):
            assert holders[block_id] == self._pool.ref_count(block_id), f"block {block_id} is held by someone unknown"
        for sequence in self._running:
            for block_id in sequence.block_ids[sequence.num_computed // self._pool.block_size :]:
                assert holders[block_id] == 1, f"{sequence.id} would write block {block_id}, which it shares"
        assert self._pool.num_free + len(+holders) == self._pool.num_blocks, "blocks lost or made up"

    def _check_order(self) -> None:
        line = [*self._running, *self._waiting]
        assert {sequence.id: sequence for sequence in line} == self._by_id, "a sequence is lost or here twice"
        assert len(line) == len(self._by_id), "a sequence is queued twice"
        assert all(a.arrival < b.arrival for a, b in itertools.pairwise(line)), "out of order of arrival"
        assert all(sequence.status is SequenceStatus.RUNNING for sequence in self._running)
        assert all(sequence.status is SequenceStatus.WAITING for sequence in self._waiting)
        assert self._parents.keys() <= {sequence.id for sequence in self._waiting}, "a parent kept for nothing"

    def _plan(self, step: _Step, sequence: Sequence) -> None:
        """Give a running sequence its tokens of this step, as far as budget and blocks go."""
        num_tokens = min(step.budget, sequence.num_uncomputed)
        if num_tokens and self._make_room(step, sequence, sequence.num_computed + num_tokens):
            step.add(sequence, num_tokens)

    def _make_room(self, step: _Step, sequence: Sequence, num_slots: int) -> bool:
        """Grow a sequence, at the cost of younger ones; False when it had to go itself."""
        while not self._grow(sequence, num_slots):
            youngest = self._running[-1]
            if youngest is sequence and len(self._running) == 1:
                self._fail(step, sequence)
                return False
            self._preempt(step, youngest)
            if youngest is sequence:
                return False
        return True

    def _grow(self, sequence: Sequence, num_slots: int) -> bool:
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

    def _take_block(self, after: int | None) -> int | None:
        if not self._pool.num_free:
            self._tree.evict(1)
        return self._pool.allocate(after)

    def _preempt(self, step: _Step, sequence: Sequence) -> None:
        """Back to the front of the queue. What it computed stays in the tree for as long as nobody needs the room."""
        step.drop(sequence)
        self._running.remove(sequence)
        self._give_up_blocks(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.preemptions += 1
        self._waiting.appendleft(sequence)

    def _fail(self, step: _Step, sequence: Sequence) -> None:
        self.finish(sequence)
        cause = (
            f"{sequence.num_tokens} tokens do not fit a KV cache of {self._pool.num_slots}: "
            "shorten the prompt, ask for fewer tokens or give the cache more memory"
        )
        step.failed.append((sequence, cause))

    def _give_up_blocks(self, sequence: Sequence) -> None:
        self._tree.insert(sequence.token_ids, sequence.block_ids, sequence.num_computed)
        for block_id in sequence.block_ids:
            self._pool.release(block_id)
        sequence.block_ids.clear()
        sequence.num_computed = sequence.num_slots = 0

    def _admit(self, step: _Step, sequence: Sequence) -> bool:
        """Start the first in the queue, or fail it; False when it has to wait for blocks.

        It needs blocks for all its tokens, not for its first run alone: one that would soon be preempted waits.
        """
        if sequence.num_tokens > self._pool.num_slots:
            self._fail(step, sequence)
            return True
        match = self._claim_match(sequence)
        if match is None:
            return False
        self._waiting.popleft()
        self._parents.pop(sequence.id, None)
        self._running.append(sequence)
        sequence.status = SequenceStatus.RUNNING
        self._take_over(step, sequence, match)
        self._plan(step, sequence)
        return True

    def _claim_match(self, sequence: Sequence) -> PrefixMatch | None:
        """The best match, its full blocks retained; None when the blocks for the other tokens cannot be had.

        Looking up a long prefix takes milliseconds: it is not looked up again until more blocks are available.
        """
        num_available = self._pool.num_available
        if self._refused is not None and self._refused[0] is sequence and num_available <= self._refused[1]:
            return None
        match = self._best_match(sequence)
        for block_id in match.full_blocks:
            self._pool.retain(block_id)
        if self._pool.blocks_for(sequence.num_tokens) - len(match.full_blocks) <= self._pool.num_available:
            self._refused = None
            return match
        for block_id in match.full_blocks:
            self._pool.release(block_id)
        self._refused = sequence, num_available
        return None

    def _best_match(self, sequence: Sequence) -> PrefixMatch:
        """What is cached of all tokens but the last, which has to be computed for its logits. The longer match wins."""
        limit = sequence.num_tokens - 1
        return max(
            self._tree.match(sequence.token_ids, limit),
            self._match_parent(sequence, limit),
            key=lambda match: match.num_tokens,
        )

    def _match_parent(self, sequence: Sequence, limit: int) -> PrefixMatch:
        """What a running parent has computed of the sequence, generated tokens and unfinished block included."""
        parent = self._parents.get(sequence.id)
        if parent is None or parent.status is not SequenceStatus.RUNNING:
            return PrefixMatch()
        num_tokens = _num_common(sequence.token_ids, parent.token_ids, min(limit, parent.num_computed))
        num_full, partial_tokens = divmod(num_tokens, self._pool.block_size)
        return PrefixMatch(
            num_tokens=num_tokens,
            full_blocks=tuple(parent.block_ids[:num_full]),
            partial_block=parent.block_ids[num_full] if partial_tokens else None,
            partial_tokens=partial_tokens,
        )

    def _take_over(self, step: _Step, sequence: Sequence, match: PrefixMatch) -> None:
        """Make the match, whose full blocks are retained already, the beginning of an empty sequence."""
        sequence.block_ids.extend(match.full_blocks)
        sequence.num_computed = len(match.full_blocks) * self._pool.block_size
        if match.partial_block is not None:
            target = self._take_block_beside(match.partial_block, after=next(reversed(match.full_blocks), None))
            if target is not None:
                step.copies.append(BlockCopy(match.partial_block, target, match.partial_tokens))
                sequence.block_ids.append(target)
                sequence.num_computed = match.num_tokens
        sequence.num_slots = sequence.num_computed
        if not sequence.preemptions:
            sequence.reused_tokens = sequence.num_computed

    def _take_block_beside(self, source_block: int, after: int | None) -> int | None:
        """A block to copy to. None when the source is the only one to be had: its tokens are then computed anew."""
        self._pool.retain(source_block)
        target = self._take_block(after)
        self._pool.release(source_block)
        return target


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
