"""Some rows of packed matrices as bf16, in one pass: for products of many rows, which then run as on plain weights."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.layers.packed import PackedMatrix

BLOCK = 1024


def reference(matrix: PackedMatrix, first: int, count: int, dtype: torch.dtype) -> Tensor:
    """Rows [first, first + count) of a matrix or of each of a stack: [..., count, in]."""
    return matrix.unpacked()[..., first : first + count, :].to(dtype)


@triton.jit
def _kernel(
    codes, scales, out, first, count, rows, blocks, columns,
    GROUP: tl.constexpr, ROW_BLOCK: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    matrix, row = program // count, first + program % count
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    own = codes + (matrix * rows + row) * (columns * BITS // 8)
    if BITS == 4:
        # Byte j of a group holds value j and, in its high half, value j + GROUP / 2.
        within = column % GROUP
        at = column // GROUP * (GROUP // 2) + within % (GROUP // 2)
        byte = tl.load(own + at, mask=inside, other=0).to(tl.int32)
        nibble = tl.where(within < GROUP // 2, byte, byte >> 4) & 15
        values = ((nibble ^ 8) - 8).to(tl.float32)
    else:
        values = tl.load(own + column, mask=inside, other=0.0).to(tl.float32)
    of_row = scales + (matrix * blocks + row // ROW_BLOCK) * (columns // GROUP)
    scale = tl.load(of_row + column // GROUP, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + program * columns + column, values * scale, mask=inside)


def unpack_rows(matrix: PackedMatrix, first: int, count: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """See `reference`."""
    *stack, rows, columns = matrix.shape
    out = torch.empty(*stack, count, columns, dtype=dtype, device=matrix.codes.device)
    block = min(BLOCK, triton.next_power_of_2(columns))
    grid: Any = (out.numel() // columns, triton.cdiv(columns, block))
    _kernel[grid](
        matrix.codes,
        matrix.scales,
        out,
        first,
        count,
        rows,
        matrix.scales.shape[-2],
        columns,
        GROUP=matrix.group_size,
        ROW_BLOCK=matrix.row_block,
        BITS=matrix.bits,
        BLOCK=block,
    )
    return out
