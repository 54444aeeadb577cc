"""A step's integers as tensors."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kodkod_engine.core.batch import MAX_GROUPED_TOKENS, BlockRows, build_batch
from kodkod_engine.core.step import TokenRun
from kodkod_engine.layers.step_batch import Blocks, StepBatch

SIZE = 4


def built(runs: list[TokenRun], rows: BlockRows) -> StepBatch:
    return build_batch(runs, rows, block_size=SIZE, context_tokens=0)


def tables(batch: StepBatch) -> list[list[list[int]]]:
    found = [group.places for group in batch.groups]
    assert all(isinstance(places, Blocks) for places in found)
    return [places.table.tolist() for places in found]


def test_blocks_are_those_of_now_though_the_list_is_the_sequences_own():
    rows, blocks = BlockRows(), [5, 6]
    run = TokenRun("a", [1], [], 6, blocks)
    assert tables(built([run], rows)) == [[[5, 6]]]
    blocks[1] = 9
    assert tables(built([run], rows)) == [[[5, 9]]]
    blocks.append(3)
    batch = built([replace(run, start=8)], rows)
    assert (tables(batch), batch.slots.tolist()) == ([[[5, 9, 3]]], [12])


def test_shorter_rows_are_padded_with_a_block_of_their_own():
    runs = [TokenRun("a", [1], [], 2, [7]), TokenRun("b", [2], [], 9, [4, 5, 6])]
    assert tables(built(runs, BlockRows())) == [[[7, 7, 7], [4, 5, 6]]]


@given(st.lists(st.integers(1, MAX_GROUPED_TOKENS + 3), min_size=1, max_size=8).map(sorted))
def test_groups_cover_all_rows_once_and_long_runs_are_alone(lengths):
    runs = [TokenRun(str(n), [0] * length, [], 0, list(range(9))) for n, length in enumerate(lengths)]
    batch = built(runs, BlockRows())
    rows = [row for group in batch.groups for row in range(group.rows.start, group.rows.stop)]
    assert rows == list(range(sum(lengths)))
    assert [group.query_len for group in batch.groups for _ in range(group.num_sequences)] == lengths
    alone = [group for group in batch.groups if group.query_len > MAX_GROUPED_TOKENS]
    assert all(group.num_sequences == 1 for group in alone)
    short = [group.query_len for group in batch.groups if group.query_len <= MAX_GROUPED_TOKENS]
    assert len(short) == len(set(short))
