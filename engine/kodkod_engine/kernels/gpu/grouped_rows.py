"""Rows that are sorted by group, each through its group's matrix, in one launch.

torch has such a product for Hopper and for Blackwell of data centres. Elsewhere its own waits for the host to say how
many rows each group has, and multiplies one group after another: hundreds of launches for each layer's experts.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 128
"""Outputs of a program."""

INNER = 64
"""Of the inputs at a time."""

LEAST_ROWS, MOST_ROWS = 16, 64
"""Of a program. Three steps of the largest tiles take 72 KiB of shared memory, which consumer cards have."""

STAGES = 3


def reference(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Group by group; rows of no group are left zero.

    Args:
        x: [rows, in].
        weight: [groups, out, in].
        ends: int32 [groups], the row behind each group's last.

    Returns:
        [rows, out].
    """
    out, first = x.new_zeros(len(x), weight.shape[1]), 0
    for matrix, end in zip(weight, ends.tolist(), strict=True):
        out[first:end] = x[first:end] @ matrix.T
        first = end
    return out


@triton.jit
def own_rows(ends, groups, GROUPS: tl.constexpr, ROWS: tl.constexpr):
    """The group of this program, its own first row and the row behind the group's last; no rows behind all groups."""
    index = tl.arange(0, GROUPS)
    end = tl.load(ends + index, mask=index < groups, other=0)
    begin = tl.load(ends + index - 1, mask=(index > 0) & (index < groups), other=0)
    tiles = (end - begin + ROWS - 1) // ROWS
    upto = tl.cumsum(tiles, axis=0)
    program = tl.program_id(0)
    group = tl.sum((upto <= program).to(tl.int32), axis=0)
    own = index == group
    first = tl.sum(tl.where(own, begin + (program - upto + tiles) * ROWS, 0), axis=0)
    return group, first, tl.sum(tl.where(own, end, 0), axis=0)


@triton.jit
def _kernel(
    x, weight, ends, out, groups, outputs,
    LENGTH: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    group, first, end = own_rows(ends, groups, GROUPS, ROWS)
    if first < end:
        rows = first + tl.arange(0, ROWS)
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        is_row, is_column = (rows < end)[:, None], (columns < outputs)[:, None]
        of_rows = x + rows.to(tl.int64)[:, None] * LENGTH
        of_columns = weight + (group.to(tl.int64) * outputs + columns)[:, None] * LENGTH
        total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for start in range(0, LENGTH, INNER):
            at = start + tl.arange(0, INNER)[None, :]
            inside = at < LENGTH
            values = tl.load(of_rows + at, mask=is_row & inside, other=0.0)
            weights = tl.load(of_columns + at, mask=is_column & inside, other=0.0)
            total = tl.dot(values, tl.trans(weights), total, input_precision="ieee")
        to = out + rows.to(tl.int64)[:, None] * outputs + columns[None, :]
        tl.store(to, total, mask=is_row & (columns < outputs)[None, :])


def row_tiles(rows: int, groups: int) -> tuple[int, int]:
    """Rows of a tile, as many as a group has on average, and the most tiles there can be: a group may leave one partly
    empty.
    """
    size = min(MOST_ROWS, max(LEAST_ROWS, int(triton.next_power_of_2(triton.cdiv(rows, groups)))))
    return size, min(groups, rows) + rows // size


def grouped_rows(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """See `reference`; all contiguous. Rows of no group are left unset."""
    groups, outputs, length = weight.shape
    out = torch.empty(len(x), outputs, dtype=x.dtype, device=x.device)
    rows, tiles = row_tiles(len(x), groups)
    grid: Any = (tiles, triton.cdiv(outputs, COLUMNS))
    _kernel[grid](
        x,
        weight,
        ends,
        out,
        groups,
        outputs,
        LENGTH=length,
        GROUPS=triton.next_power_of_2(groups),
        ROWS=rows,
        COLUMNS=COLUMNS,
        INNER=INNER,
        num_stages=STAGES,
    )
    return out
