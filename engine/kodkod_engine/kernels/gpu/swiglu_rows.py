"""SwiGLU of many rows in one pass: gate and up are read once, in place, and only their product is written."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def reference(wide: Tensor) -> Tensor:
    """silu(first half) * second half, in fp32: [rows, 2 * width] -> [rows, width], dtype of `wide`."""
    gate, up = wide.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(wide.dtype)


@triton.jit
def _kernel(wide, num_rows, out, width, COUNTED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    if COUNTED:
        inside = inside & (row < tl.load(num_rows))
    gate = tl.load(wide + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(wide + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)


def swiglu_rows(wide: Tensor, num_rows: Tensor | None = None) -> Tensor:
    """See `reference`; `wide` contiguous. With `num_rows`, int32 [1] on the device, later rows are left unset."""
    rows, width = wide.shape[0], wide.shape[1] // 2
    out = torch.empty(rows, width, dtype=wide.dtype, device=wide.device)
    block = min(BLOCK, triton.next_power_of_2(width))
    grid: Any = (rows, triton.cdiv(width, block))
    is_counted = num_rows is not None
    _kernel[grid](wide, num_rows if is_counted else wide, out, width, COUNTED=is_counted, BLOCK=block)
    return out
