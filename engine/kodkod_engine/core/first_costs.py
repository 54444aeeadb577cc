"""What steps take, before the first answer: steps on blocks that nobody needs, a fraction of a second, once."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Run
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.step import NOBODY, Choice, StepRunner, TokenRun
from kodkod_engine.core.stopwatch import Stopwatch
from kodkod_engine.speculation.costs import CostTable

MEASURED_TOKENS = 128
MEASURING_S = 0.25
"""The longest step whose time is measured, and how long that may take in all."""


def measure_costs(
    costs: CostTable, runner: StepRunner, pool: BlockPool, known_ids: Run[int], max_step_tokens: int
) -> None:
    """Fill the table of costs, as far as the pool has free blocks and the time allows.

    Args:
        costs: to be filled.
        runner: computes the steps.
        pool: what is free of it is borrowed.
        known_ids: at least one id of the vocabulary; they are what is computed.
        max_step_tokens: no step has more.
    """
    ids = list(islice(cycle(known_ids[:MEASURED_TOKENS]), 2 * MEASURED_TOKENS))
    with _borrowed(pool, pool.blocks_for(len(ids))) as block_ids:
        timing = _Timing(runner, ids, block_ids, len(block_ids) * pool.block_size, max_step_tokens)
        costs.measure(timing.step_s, MEASURED_TOKENS, MEASURING_S)


@contextmanager
def _borrowed(pool: BlockPool, num_blocks: int) -> Iterator[list[int]]:
    """So many blocks, or those that are free."""
    block_ids = [block for _ in range(min(num_blocks, pool.num_free)) if (block := pool.allocate()) is not None]
    try:
        yield block_ids
    finally:
        for block_id in block_ids:
            pool.release(block_id)


@dataclass(frozen=True, slots=True)
class _Timing:
    """Steps behind the first half of some ids, which the first and longest of them computes."""

    runner: StepRunner
    ids: list[int]
    block_ids: list[int]
    num_slots: int
    max_step_tokens: int

    def step_s(self, size: int) -> float | None:
        """See `costs.TimeStep`."""
        start = MEASURED_TOKENS if size < MEASURED_TOKENS else 0
        if start + size > self.num_slots or size > self.max_step_tokens:
            return None
        context_ids = self.ids[max(0, start - self.runner.context_tokens) : start]
        choices = [Choice(SamplingParams(), start + 1 + place, None) for place in range(size)]
        run = TokenRun(NOBODY, self.ids[start : start + size], context_ids, start, self.block_ids, choices)
        stopwatch = Stopwatch()
        self.runner.run((), [run])
        return stopwatch.seconds()
