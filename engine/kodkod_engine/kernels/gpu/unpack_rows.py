"""Some rows of packed matrices as bf16, in one pass: for products of many rows, which then run as on plain weights.

Codes in pinned host memory go over the bus in that pass, once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.layers.packed import PackedMatrix

BLOCK = 1024
ROWS = 8
"""Of a program: with one alone there would be some thirty million programs in a prompt."""


def reference(matrix: PackedMatrix, first: int, count: int, dtype: torch.dtype) -> Tensor:
    """Rows [first, first + count) of a matrix or of each of a stack: [..., count, in]."""
    return matrix.unpacked()[..., first : first + count, :].to(dtype)


@triton.jit
def _kernel(
    codes, scales, out, first, count, rows, blocks, columns, total,
    GROUP: tl.constexpr, ROW_BLOCK: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    matrix, row = place // count, first + place % count
    code_columns = columns * BITS // 8
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (place < total)[:, None] & (at < code_columns)[None, :]
    own = codes + ((matrix * rows + row) * code_columns)[:, None] + at[None, :]
    code = tl.load(own, mask=inside)
    group = at // (GROUP * BITS // 8)
    of_row = scales + ((matrix * blocks + row // ROW_BLOCK) * (columns // GROUP))[:, None]
    scale = tl.load(of_row + group[None, :], mask=inside, other=0.0).to(tl.float32)
    to = out + (place * columns)[:, None]
    if BITS == 4:
        # Byte j of a group holds value j and, in its high half, value j + GROUP / 2.
        column = group * GROUP + at % (GROUP // 2)
        low, high = code.to(tl.int32) & 15, code.to(tl.int32) >> 4
        tl.store(to + column[None, :], ((low ^ 8) - 8).to(tl.float32) * scale, mask=inside)
        tl.store(to + (column + GROUP // 2)[None, :], ((high ^ 8) - 8).to(tl.float32) * scale, mask=inside)
    else:
        tl.store(to + at[None, :], code.to(tl.float32) * scale, mask=inside)


def unpack_rows(
    matrix: PackedMatrix,
    first: int,
    count: int,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | None = None,
) -> Tensor:
    """See `reference`; `device` is the one that computes where the matrix is in pinned memory."""
    *stack, rows, columns = matrix.shape
    out = torch.empty(*stack, count, columns, dtype=dtype, device=device or matrix.codes.device)
    code_columns = columns * matrix.bits // 8
    block, total = min(BLOCK, triton.next_power_of_2(code_columns)), out.numel() // columns
    grid: Any = (triton.cdiv(total, ROWS), triton.cdiv(code_columns, block))
    _kernel[grid](
        matrix.codes,
        matrix.scales,
        out,
        first,
        count,
        rows,
        matrix.scales.shape[-2],
        columns,
        total,
        GROUP=matrix.group_size,
        ROW_BLOCK=matrix.row_block,
        BITS=matrix.bits,
        ROWS=ROWS,
        BLOCK=block,
    )
    return out
