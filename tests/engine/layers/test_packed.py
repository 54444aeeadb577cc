"""A packed matrix cut by rows: the parts stand for the rows they are named by, in every precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision, Precisions

PACKED = [Precision.FP8, Precision.INT8, Precision.INT4]


def _filled(shape: tuple[int, ...], precision: Precision, part_rows: int = 0) -> tuple[PackedMatrix, torch.Tensor]:
    matrix = PackedParameter(shape, precision, part_rows).matrix
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix.copy_(values)
    return matrix, values


@pytest.mark.parametrize("precision", PACKED)
def test_stacks_are_indexed_and_halves_cut(precision: Precision) -> None:
    matrix, _ = _filled((3, 48, 96), precision, part_rows=24)
    whole = matrix.unpacked()
    assert matrix.shape == whole.shape == (3, 48, 96)
    for index in range(3):
        gate, up = matrix[index].chunk(2)
        assert torch.equal(torch.cat([gate.unpacked(), up.unpacked()]), whole[index])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PACKED), st.integers(1, 400), st.integers(1, 3))
def test_tiles_of_whole_blocks_make_up_the_matrix(precision: Precision, rows: int, tile_blocks: int) -> None:
    matrix, _ = _filled((rows, 64), precision)
    tiles = matrix.split(tile_blocks * 128)
    assert torch.equal(torch.cat([tile.unpacked() for tile in tiles]), matrix.unpacked())


@pytest.mark.parametrize("precision", PACKED)
def test_a_part_is_filled_in_place(precision: Precision) -> None:
    matrix, values = _filled((256, 128), precision)
    before = matrix.unpacked()
    matrix[128:].copy_(2 * values[128:])
    assert torch.equal(matrix[:128].unpacked(), before[:128])
    assert torch.equal(matrix[128:].unpacked(), 2 * before[128:])


def test_scales_belong_to_blocks_of_the_published_size() -> None:
    gate_up = PackedParameter((4, 2048, 3072), Precision.FP8, 1024).matrix
    assert gate_up.scales.shape == (4, 16, 24)
    assert (gate_up.row_block, gate_up.group_size) == (128, 128)
    assert gate_up.nbytes == gate_up.codes.numel() + 4 * gate_up.scales.numel()
    qkv_a = PackedParameter((1536 + 576, 3072), Precision.FP8, 1536).matrix
    assert qkv_a[1536:].scales.shape == (5, 24)


def test_a_cut_through_a_block_is_refused() -> None:
    matrix, _ = _filled((256, 64), Precision.FP8)
    for rows in (slice(0, 100), slice(100, 256)):
        with pytest.raises(ValueError, match="cut a block of 128"):
            matrix[rows]


def test_fp8_leaves_the_head_as_the_published_checkpoint_does() -> None:
    assert Precisions.of("fp8").head is Precision.BF16
    assert Precisions.of("fp8").experts is Precision.FP8
