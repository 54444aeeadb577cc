"""Rows that are sorted by group, each through its group's packed matrix, whose codes are read as they lie.

For turns: a hundred tokens take nearly every expert, each for a few rows. To unpack them all first, as long prompts do,
writes and reads each weight once more in bf16: eight times the bytes of 4-bit codes, four of 8-bit ones.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.grouped_rows import own_rows, row_tiles
from kodkod_engine.kernels.gpu.grouped_rows import reference as plain_reference
from kodkod_engine.kernels.gpu.packed_tiles import fits_tiles, group_products
from kodkod_engine.kernels.gpu.tiles import Stored
from kodkod_engine.layers.packed import PackedMatrix

MOST_ROWS_OF_GROUP = 48
"""On average; more take a second tile, which reads the group's codes again."""

MOST_ROWS_OF_ONE = 128
"""Of a matrix alone, which the library multiplies better once the unpacking is worth it."""

OUTPUTS = 64
"""Of a program."""

STAGES = 3


def reference(x: Tensor, home: PackedMatrix, ends: Tensor) -> Tensor:
    """As `grouped_rows.reference`, in fp32: [rows, in], a stack [groups, out, in] and int32 [groups] -> [rows, out]."""
    return plain_reference(x.float(), home.unpacked(), ends).to(x.dtype)


@triton.jit
def _kernel(
    x, codes, scales, ends, out, experts, outputs, blocks, stride,
    LENGTH: tl.constexpr, PER: tl.constexpr, HALVES: tl.constexpr, ROW_BLOCK: tl.constexpr, EXPERTS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    expert, first, end = own_rows(ends, experts, EXPERTS, ROWS)
    if first < end:
        groups: tl.constexpr = LENGTH // PER
        own = (first + tl.arange(0, ROWS)).to(tl.int64)
        place = (tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)).to(tl.int64)
        mask, inside = own < end, place < outputs
        row = codes + (expert.to(tl.int64) * outputs + place)[:, None] * LENGTH
        factors = scales + (expert.to(tl.int64) * blocks + place // ROW_BLOCK) * groups
        total = tl.zeros([OUTPUTS, ROWS], dtype=tl.float32)
        for group in tl.range(0, groups, num_stages=STAGES):
            scale = tl.load(factors + group, mask=inside, other=0.0).to(tl.float32)
            at = x + own[None, :] * stride + group * (HALVES * PER)
            total += group_products(at, row + group * PER, mask, inside, HALVES, PER) * scale[:, None]
        tl.store(out + own[None, :] * outputs + place[:, None], total, mask=mask[None, :] & inside[:, None])


def takes_grouped_packed(x: Tensor, home: PackedMatrix) -> bool:
    """Whether codes are better read as they lie: few rows a group, in the memory of the device that computes."""
    return len(x) <= MOST_ROWS_OF_GROUP * home.shape[0] and _has_room(x, home)


def grouped_packed(x: Tensor, home: PackedMatrix, ends: Tensor) -> Tensor:
    """See `reference`; all contiguous. Rows of no group are left unset."""
    stored = Stored.of(home)
    out = torch.empty(len(x), stored.outputs, dtype=x.dtype, device=x.device)
    rows, tiles = row_tiles(len(x), home.shape[0])
    grid: Any = (tiles, triton.cdiv(stored.outputs, OUTPUTS))
    meta = stored.meta()
    del meta["INNER"]
    _kernel[grid](
        x,
        stored.codes,
        stored.scales,
        ends,
        out,
        home.shape[0],
        stored.outputs,
        stored.scales.shape[-2],
        x.stride(0),
        **meta,
        EXPERTS=triton.next_power_of_2(home.shape[0]),
        ROWS=rows,
        OUTPUTS=OUTPUTS,
        STAGES=STAGES,
    )
    return out


def takes_packed_rows(x: Tensor, home: PackedMatrix) -> bool:
    """The same of one matrix [out, in]."""
    return len(x) <= MOST_ROWS_OF_ONE and x.stride(1) == 1 and _has_room(x, home)


def _has_room(x: Tensor, home: PackedMatrix) -> bool:
    """Rows of 16-bit numbers: twice as long ones have no room in shared memory."""
    return x.element_size() == 2 and home.codes.device == x.device and fits_tiles(home)


def packed_rows(x: Tensor, home: PackedMatrix) -> Tensor:
    """Rows through one matrix: [rows, in] and [out, in] -> [rows, out]."""
    alone = PackedMatrix(home.codes[None], home.scales[None], home.bits, home.row_block)
    return grouped_packed(x, alone, torch.full((1,), len(x), dtype=torch.int32, device=x.device))
