"""Rows of tables (N-grams, words) that lie in pinned host memory, read by the device where they are."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def reference(table: Tensor, rows: Tensor) -> Tensor:
    """[all rows, width] and int64 [tokens, tables] -> [tokens, tables * width]."""
    return table[rows.to(table.device)].flatten(1).to(rows.device)


@triton.jit
def _kernel(table, rows, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    row = tl.load(rows + place)
    values = tl.load(table + row * WIDTH + columns, mask=columns < WIDTH, other=0.0)
    tl.store(out + place * WIDTH + columns, values, mask=columns < WIDTH)


def table_rows(table: Tensor, rows: Tensor) -> Tensor:
    """See `reference`; both contiguous. No id comes to the host and no row is staged there."""
    width = table.shape[1]
    out = torch.empty(len(rows), rows.shape[1] * width, dtype=table.dtype, device=rows.device)
    grid: Any = (rows.numel(),)
    _kernel[grid](table, rows, out, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=1)
    return out
