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


def build_batch(runs: Sequence[TokenRun], *, block_size: int, context_tokens: int, ahead: int = 0) -> StepBatch:
    """Tensors of one step, on the host.

    Args:
        runs: in ascending order of length.
        block_size: of the KV cache, in tokens.
        context_tokens: ids before each token that its N-gram rows depend on.
        ahead: tokens after its own for which there are blocks and context.
    """
    blocks = [_int64s(run.block_ids)[: -(-(run.end + ahead) // block_size)] for run in runs]
    lengths = [len(run.token_ids) for run in runs]
    ids = _int64s([token_id for run in runs for token_id in run.token_ids])
    positions = _int64s([place for run in runs for place in range(run.start, run.end)])
    table = _table(blocks)
    row = np.repeat(np.arange(len(runs)), lengths)
    slots = table[row, positions // block_size] * block_size + positions % block_size
    return StepBatch(
        token_ids=torch.from_numpy(ids),
        windows=windows_of(runs, context_tokens),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(slots),
        groups=tuple(_groups(runs, table, positions, block_size, ahead)),
    )


def _int64s(values: Sequence[int]) -> Int64s:
    """In a third of the time that numpy takes for a list."""
    return np.frombuffer(array("q", values), dtype=np.int64)


def _table(blocks: Sequence[Int64s]) -> Int64Rows:
    """Block ids of several sequences side by side, int64 [sequences, blocks].

    The padding is a block of the sequence itself: it holds finite values, and the causal mask hides it.
    """
    table = np.empty((len(blocks), max(len(own) for own in blocks)), dtype=np.int64)
    for row, own in zip(table, blocks, strict=True):
        row[: len(own)], row[len(own) :] = own, own[-1]
    return table


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
    runs: Sequence[TokenRun], table: Int64Rows, positions: Int64s, block_size: int, ahead: int
) -> Iterator[AttentionGroup]:
    """Of neighbouring runs of the same length; the group's rows of the table, as wide as its context."""
    row = 0
    for members in _together(runs):
        query_len = len(runs[members[0]].token_ids)
        context_len = max(runs[index].end for index in members) + ahead
        rows = slice(row, row + len(members) * query_len)
        own = table[members[0] : members[-1] + 1, : -(-context_len // block_size)]
        yield AttentionGroup(
            rows=rows,
            num_sequences=len(members),
            query_len=query_len,
            places=Blocks(torch.from_numpy(own), block_size),
            context_len=context_len,
            positions=torch.from_numpy(positions[rows].reshape(len(members), query_len)),
        )
        row = rows.stop


def _together(runs: Sequence[TokenRun]) -> Iterator[list[int]]:
    for length, members in groupby(range(len(runs)), key=lambda index: len(runs[index].token_ids)):
        if length <= MAX_GROUPED_TOKENS:
            yield list(members)
        else:
            yield from ([index] for index in members)
