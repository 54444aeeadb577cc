"""Who computes which tokens next: continuous batching, decided in plain integers.

A step is a mapping from sequence to the run of its tokens to compute now. Prefill, chunked prefill, decode and the
verification of drafts are all that.

    schedule() -> StepPlan -> copies, then forward -> commit(entry) -> append_token(...) -> schedule() ...

Between `schedule` and `commit` the scheduler may be told to `reserve`, `cancel` and `add`. A plan that was handed out
is carried out whole, its copies in order and before anything else is written: later copies, and the forward, may write
blocks that earlier copies read.
"""

from __future__ import annotations

import itertools
from collections import deque

from kodkod_engine.core.block_manager import BlockManager
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.plan import PlanBuilder, StepEntry, StepPlan
from kodkod_engine.core.prefix_store import PrefixStore
from kodkod_engine.core.prefix_tree import PrefixTree
from kodkod_engine.core.sequence import Sequence, SequenceStatus


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
        self._blocks = BlockManager(pool, tree)
        self._max_step_tokens = max_step_tokens
        self._max_running = max_running
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._by_id: dict[str, Sequence] = {}
        self._parents: dict[str, Sequence] = {}
        self._arrivals = itertools.count()

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

    def restore(self, store: PrefixStore) -> int:
        """Read back what a store has of those who are admitted next, once for each wait; tokens in all.

        To be called before `schedule`, when the last plan has been carried out.
        """
        num_tokens = 0
        for sequence in itertools.islice(self._waiting, self._max_running - len(self._running)):
            # Whoever has to wait for room would find it gone again.
            if sequence.looked_up != sequence.preemptions and self._blocks.has_room_for(sequence.num_tokens):
                sequence.looked_up = sequence.preemptions
                num_tokens += self._blocks.restore(sequence.token_ids, store)
        return num_tokens

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
            self._blocks.give_up(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED

    def schedule(self) -> StepPlan:
        """Plan the next step. While there is work, every plan has an entry or a failure.

        Decodes first, then prefill of what runs, then admissions, each in order of arrival, until `max_step_tokens`
        are given out. When blocks run out the tree is evicted from, then the youngest running sequence is preempted.
        """
        step = PlanBuilder(budget=self._max_step_tokens)
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
        if sequence.status is SequenceStatus.RUNNING:
            self._blocks.advance(sequence, num_tokens)

    def append_token(self, sequence: Sequence, token_id: int) -> None:
        """The sequence goes on with this token. A sequence that was cancelled meanwhile is left as it is."""
        if sequence.status is SequenceStatus.RUNNING:
            sequence.token_ids.append(token_id)

    def reserve(self, sequence: Sequence, num_extra_tokens: int) -> bool:
        """Make slots for `num_extra_tokens` drafts after the last token of a running sequence.

        Drafts are worth an eviction, never a preemption: False, and nothing changed, when there is no room. What is
        written there does not count until `advance`.
        """
        return sequence.status is SequenceStatus.RUNNING and self._blocks.reserve(sequence, num_extra_tokens)

    def reclaim(self, sequence: Sequence) -> None:
        """Take back the slots after a sequence's last token: drafts that were rejected lie there, or nothing."""
        if sequence.status is SequenceStatus.RUNNING:
            self._blocks.reclaim(sequence)

    def check_integrity(self) -> None:
        """Assert that everybody is queued once, and what `BlockManager.check_integrity` asserts."""
        self._check_order()
        self._blocks.check_integrity(self._by_id.values())

    def _check_order(self) -> None:
        line = [*self._running, *self._waiting]
        assert {sequence.id: sequence for sequence in line} == self._by_id, "a sequence is lost or here twice"
        assert len(line) == len(self._by_id), "a sequence is queued twice"
        assert all(a.arrival < b.arrival for a, b in itertools.pairwise(line)), "out of order of arrival"
        assert all(sequence.status is SequenceStatus.RUNNING for sequence in self._running)
        assert all(sequence.status is SequenceStatus.WAITING for sequence in self._waiting)
        assert self._parents.keys() <= {sequence.id for sequence in self._waiting}, "a parent kept for nothing"

    def _plan(self, step: PlanBuilder, sequence: Sequence) -> None:
        """Give a running sequence its tokens of this step, as far as budget and blocks go."""
        num_tokens = min(step.budget, sequence.num_uncomputed)
        if num_tokens and self._make_room(step, sequence, sequence.num_computed + num_tokens):
            step.add(sequence, num_tokens)

    def _make_room(self, step: PlanBuilder, sequence: Sequence, num_slots: int) -> bool:
        """Grow a sequence, at the cost of younger ones; False when it had to go itself."""
        while not self._blocks.grow(sequence, num_slots):
            youngest = self._running[-1]
            if youngest is sequence and len(self._running) == 1:
                self._fail(step, sequence)
                return False
            self._preempt(step, youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, step: PlanBuilder, sequence: Sequence) -> None:
        """Back to the front of the queue. What it computed stays in the tree for as long as nobody needs the room."""
        step.drop(sequence)
        self._running.remove(sequence)
        self._blocks.give_up(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.preemptions += 1
        self._waiting.appendleft(sequence)

    def _fail(self, step: PlanBuilder, sequence: Sequence) -> None:
        self.finish(sequence)
        cause = (
            f"{sequence.num_tokens} tokens do not fit a KV cache of {self._blocks.num_slots}: "
            "shorten the prompt, ask for fewer tokens or give the cache more memory"
        )
        step.failed.append((sequence, cause))

    def _admit(self, step: PlanBuilder, sequence: Sequence) -> bool:
        """Start the first in the queue, or fail it; False when it has to wait for blocks.

        It needs blocks for all its tokens, not for its first run alone: one that would soon be preempted waits.
        """
        if sequence.num_tokens > self._blocks.num_slots:
            self._fail(step, sequence)
            return True
        match = self._blocks.claim(sequence, self._parents.get(sequence.id))
        if match is None:
            return False
        self._waiting.popleft()
        self._parents.pop(sequence.id, None)
        self._running.append(sequence)
        sequence.status = SequenceStatus.RUNNING
        copy = self._blocks.take_over(sequence, match)
        if copy is not None:
            step.copies.append(copy)
        if not sequence.preemptions:
            sequence.reused_tokens = sequence.num_computed
        self._plan(step, sequence)
        return True
