"""A step's integers as tensors: ids, positions, slots of the KV cache, N-gram windows, and who attends together."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kodkod_engine.core.step import TokenRun
from kodkod_engine.layers.ngram_hash import ABSENT
from kodkod_engine.layers.step_batch import AttentionGroup, Blocks, StepBatch

Int64s: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Int64Rows: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.int64]]

MAX_GROUPED_TOKENS = 16
"""Runs up to this length attend together with runs of the same length; longer ones alone."""


class BlockRows:
    """The block ids of sequences as integers of a machine, kept from one step to the next.

    A long context has thousands, each an object somewhere in memory: that all are the same ones is soon seen.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Sequence[int], array[int]]] = {}

    def of(self, runs: Sequence[TokenRun]) -> list[array[int]]:
        """Those of the runs of a step."""
        rows = [self._row(run) for run in runs]
        self._known = {run.request_id: row for run, row in zip(runs, rows, strict=True)}
        return [converted for _, converted in rows]

    def _row(self, run: TokenRun) -> tuple[Sequence[int], array[int]]:
        known = self._known.get(run.request_id)
        if known is not None and known[0] == run.block_ids:
            return known
        return run.block_ids[:], array("Q", run.block_ids)  # in half the time of "q"


def build_batch(
    runs: Sequence[TokenRun], rows: BlockRows, *, block_size: int, context_tokens: int, ahead: int = 0
) -> StepBatch:
    """Tensors of one step, on the host.

    Args:
        runs: in ascending order of length.
        rows: of the step before.
        block_size: of the KV cache, in tokens.
        context_tokens: ids before each token that its N-gram rows depend on.
        ahead: tokens after its own for which there are blocks and context.
    """
    lengths = [len(run.token_ids) for run in runs]
    contexts = [run.start + length + ahead for run, length in zip(runs, lengths, strict=True)]
    ids = _int64s([token_id for run in runs for token_id in run.token_ids])
    positions = _int64s([place for run in runs for place in range(run.start, run.end)])
    table = _table([own[: -(-end // block_size)] for own, end in zip(rows.of(runs), contexts, strict=True)])
    row = np.repeat(np.arange(len(runs)), lengths)
    block, place = np.divmod(positions, block_size)
    slots = table[row, block] * block_size + place
    return StepBatch(
        token_ids=torch.from_numpy(ids),
        windows=windows_of(runs, context_tokens),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(slots),
        groups=tuple(_groups(lengths, contexts, table, positions, block_size)),
    )


def _int64s(values: Sequence[int]) -> Int64s:
    """In a third of the time that numpy takes for a list."""
    return np.frombuffer(array("q", values), dtype=np.int64)


def _table(blocks: Sequence[array[int]]) -> Int64Rows:
    """Block ids of several sequences side by side, int64 [sequences, blocks].

    The padding is a block of the sequence itself: it holds finite values, and the causal mask hides it.
    """
    width = max(map(len, blocks))
    table = array("Q")
    for own in blocks:
        table += own
        table += own[-1:] * (width - len(own))
    return np.frombuffer(table, dtype=np.int64).reshape(-1, width)


def windows_of(runs: Sequence[TokenRun], depth: int) -> Tensor | None:
    """int64 [tokens, 1 + depth], over [the last accepted ids | the ids of the run] of each sequence."""
    if not depth:
        return None
    flat: list[int] = []
    places: list[int] = []
    for run in runs:
        flat += [ABSENT] * (depth - len(run.context_ids))
        flat += run.context_ids
        places += range(len(flat), len(flat) + len(run.token_ids))
        flat += run.token_ids
    return torch.from_numpy(_int64s(flat)[_int64s(places)[:, None] - np.arange(depth + 1)])


def _groups(
    lengths: Sequence[int], contexts: Sequence[int], table: Int64Rows, positions: Int64s, block_size: int
) -> Iterator[AttentionGroup]:
    """Of neighbouring runs of the same length; the group's rows of the table, as wide as its context."""
    row = 0
    for members in _together(lengths):
        query_len, context_len = lengths[members.start], max(contexts[members])
        num_sequences = members.stop - members.start
        rows = slice(row, row + num_sequences * query_len)
        own = table[members, : -(-context_len // block_size)]
        yield AttentionGroup(
            rows=rows,
            num_sequences=num_sequences,
            query_len=query_len,
            places=Blocks(torch.from_numpy(own), block_size),
            context_len=context_len,
            positions=torch.from_numpy(positions[rows].reshape(num_sequences, query_len)),
        )
        row = rows.stop


def _together(lengths: Sequence[int]) -> Iterator[slice]:
    first = 0
    for length, members in groupby(lengths):
        num_runs = len(list(members))
        size = num_runs if length <= MAX_GROUPED_TOKENS else 1
        yield from (slice(start, start + size) for start in range(first, first + num_runs, size))
        first += num_runs
