"""Drafts from the model's own draft block, a few tokens at a time.

The block reads the target's hidden state at each position together with the token that follows there, and attends over
its own KV in the cache layer after the target's. It is fed lazily: hidden states are kept as they are computed, and go
through the block when it is next asked. What it attends to begins where this request began to be computed, and goes
back `WINDOW_TOKENS` at most: a prefix that was found in the cache has target KV, but no hidden states to draft from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Run
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.sampler import draw, filtered_probabilities
from kodkod_engine.core.step import NOBODY, TokenRun
from kodkod_engine.layers.step_batch import AttentionGroup, StepBatch
from kodkod_engine.models.mtp import MtpBlock
from kodkod_engine.speculation.drafter import NO_DRAFT, Draft, DraftTask
from kodkod_engine.speculation.hot_head import HotHead

MAX_STEPS = 3
"""The block was trained to look one token ahead; fed with its own output it still says something useful thrice."""

WINDOW_TOKENS = 512
"""Positions the block attends to at most."""

HOPELESS = 0.15
"""A draft is not continued when all of it is less likely than this by the block's own word."""


@dataclass(slots=True)
class _Tail:
    """Hidden states of one stream that the block has not seen yet, and where its KV begins and ends.

    Every step adds to it, whether the block is asked or not: so nothing here depends on how much is kept.
    """

    first: int
    """Positions [first, done) have the block's KV."""
    done: int
    rows: deque[Tensor] = field(default_factory=deque)
    """Of positions done, done + 1, ...: each [some, hidden], before the final norm."""
    num_rows: int = 0

    @property
    def end(self) -> int:
        return self.done + self.num_rows

    def append(self, rows: Tensor) -> None:
        """Of the next positions. What lies further back than the block attends to is let go of."""
        self.rows.append(rows)
        self.num_rows += len(rows)
        while self.num_rows - len(self.rows[0]) >= WINDOW_TOKENS:
            self._drop_first(len(self.rows[0]))

    def truncate(self, end: int) -> None:
        """Forget positions from `end` on: they were drafts."""
        while self.rows and self.end > end:
            part = self.rows.pop()
            self.num_rows -= len(part)
            if self.end < end:
                kept = part[: end - self.end]
                self.rows.append(kept)
                self.num_rows += len(kept)

    def take(self) -> tuple[Tensor, int]:
        """What the block is given now: [rows, hidden], `WINDOW_TOKENS` at most, and the first one's position."""
        hidden, end = torch.cat(tuple(self.rows))[-WINDOW_TOKENS:], self.end
        start = end - len(hidden)
        # Where some were left out, its KV before them does not join on.
        self.first = max(self.first if start == self.done else start, end - WINDOW_TOKENS)
        self.done, self.num_rows = end, 0
        self.rows.clear()
        return hidden, start

    def _drop_first(self, num_tokens: int) -> None:
        """What the block attends to then begins behind it."""
        self.rows.popleft()
        self.num_rows -= num_tokens
        self.done += num_tokens
        self.first = self.done


@dataclass(slots=True)
class _Drafting:
    """One stream while it is drafted for."""

    task: DraftTask
    tail: _Tail
    slots: Tensor
    """int64 [positions]: of all the sequence's slots."""
    hidden: Tensor
    """[rows, hidden]: what the block reads next, of the positions from `start` on."""
    start: int
    next_ids: list[int]
    """Of each of these positions, the token that follows it."""
    token_ids: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)


class MtpDrafter:
    """See `drafter.Drafter`."""

    name = "mtp"

    def __init__(self, runner: ModelRunner, block: MtpBlock, *, reads_normed: bool = True) -> None:
        """`reads_normed`: the hidden states after the final norm, as the block was trained; else before it."""
        self._runner = runner
        self._block = block
        self._head = HotHead(runner.loaded.model)
        self._reads_normed = reads_normed
        self._tails: dict[str, _Tail] = {}
        runner.watchers.append(self._watch)

    def _watch(self, runs: Run[TokenRun], hidden: Run[Tensor]) -> None:
        for run, rows in zip(runs, hidden, strict=True):
            if run.request_id == NOBODY:
                continue
            tail = self._tails.get(run.request_id)
            if tail is not None:
                tail.truncate(run.start)
            if tail is None or tail.end != run.start:
                # New, or preempted and begun anew: blocks and what the block wrote into them are gone.
                tail = self._tails[run.request_id] = _Tail(run.start, run.start)
            tail.append(rows)

    def end(self, request_id: str) -> None:
        """See `Drafter`."""
        self._tails.pop(request_id, None)
        self._head.end(request_id)

    @torch.inference_mode()
    def draft(self, tasks: Run[DraftTask]) -> list[Draft]:
        """See `Drafter`."""
        found = [self._prepared(task) for task in tasks]
        live = [one for one in found if one is not None]
        for step in range(MAX_STEPS):
            live = [one for one in live if step < one.task.max_tokens and np.prod(one.confidences) >= HOPELESS]
            if not live:
                break
            self._step(live)
        return [NO_DRAFT if one is None else Draft(tuple(one.token_ids), tuple(one.confidences)) for one in found]

    def _prepared(self, task: DraftTask) -> _Drafting | None:
        sequence = task.sequence
        tail = self._tails.get(sequence.id)
        if tail is None or not sequence.is_decoding or task.prefix_ids:
            return None
        tail.truncate(sequence.num_computed)
        if not tail.rows or tail.end != sequence.num_computed:
            return None
        hidden, start = tail.take()
        if self._reads_normed:
            hidden = self._runner.loaded.model.norm(hidden)
        size = self._runner.layout.block_size
        blocks = torch.tensor(sequence.block_ids, device=hidden.device)
        slots = (blocks[:, None] * size + torch.arange(size, device=hidden.device)).flatten()
        return _Drafting(task, tail, slots, hidden, start, sequence.token_ids[start + 1 : tail.done + 1])

    def _step(self, live: list[_Drafting]) -> None:
        """One pass of the block for all streams: their new positions at first, then one position each."""
        batch = _batch(live)
        table = self._runner.loaded.model.rope_table(batch.positions)
        hidden = torch.cat([one.hidden for one in live])
        with self._runner.threads(len(hidden)):
            out = self._block(hidden, batch, table, self._runner.cache)
            last = [group.rows.stop - 1 for group in batch.groups]
            for one, normed in zip(live, out[last].split(1), strict=True):
                self._take(one, normed)

    def _take(self, one: _Drafting, normed: Tensor) -> None:
        sequence, sampling = one.task.sequence, one.task.request.sampling
        ids, logits = self._head.logits(sequence.id, sequence.token_ids, normed)
        if sampling.temperature == 0:
            place = int(logits.argmax())
            confidence = float(logits.softmax(dim=-1)[place])
        else:
            # The draw that the target will make: where the two distributions agree, so do the tokens.
            place = draw(logits, sampling, sequence.num_tokens + len(one.token_ids))
            confidence = float(filtered_probabilities(logits, sampling)[place])
        token_id = place if ids is None else int(ids[place])
        one.token_ids.append(token_id)
        one.confidences.append(confidence)
        one.start, one.hidden, one.next_ids = one.start + len(one.next_ids), normed, [token_id]


def _batch(live: list[_Drafting]) -> StepBatch:
    device = live[0].hidden.device
    groups: list[AttentionGroup] = []
    row = 0
    for one in live:
        count, end = len(one.next_ids), one.start + len(one.next_ids)
        first = one.tail.first
        groups.append(
            AttentionGroup(
                rows=slice(row, row + count),
                num_sequences=1,
                query_len=count,
                places=one.slots[None, first:end],
                context_len=end - first,
                positions=torch.arange(one.start - first, end - first, device=device)[None],
            )
        )
        row += count
    return StepBatch(
        token_ids=torch.tensor([token_id for one in live for token_id in one.next_ids], device=device),
        windows=None,
        positions=torch.cat([torch.arange(one.start, one.start + len(one.next_ids), device=device) for one in live]),
        slots=torch.cat([one.slots[one.start : one.start + len(one.next_ids)] for one in live]),
        groups=tuple(groups),
    )
