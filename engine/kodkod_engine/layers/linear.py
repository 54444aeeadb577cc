"""Linear maps, each by the quickest road on its device that computes the same function.

Processors without bf16 arithmetic multiply bf16 matrices some five times slower than fp32 ones. There, few rows go
through our own kernel, which is bound by reading the weight, and many rows are multiplied in fp32 over tiles of the
weight that are widened while they are in cache. Figures: engine/adr/0001-bf16-on-processors-without-it.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kodkod_engine.kernels.thin_linear import thin_linear

MAX_THIN_ROWS = 64
"""Up to here the kernel wins; from here on widening does."""

TILE_ROWS = 256
"""Weight rows widened at a time; 256 x 4096 fp32 values are 4 MiB, inside a common last-level cache."""


def has_native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 run at full speed on this device."""
    if device.type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


_CPU_HAS_NATIVE_BF16 = has_native_bf16(torch.device("cpu"))


def is_slow_bf16(weight: Tensor) -> bool:
    """Whether torch multiplies this matrix without bf16 arithmetic."""
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and not _CPU_HAS_NATIVE_BF16


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x times weight transposed.

    Args:
        x: [rows, in].
        weight: [out, in].

    Returns:
        [rows, out], dtype of x.
    """
    if not is_slow_bf16(weight) or torch.is_grad_enabled():
        return F.linear(x, weight.to(x.dtype))
    return thin_linear(x, weight) if x.shape[0] <= MAX_THIN_ROWS else widened_linear(x, weight)


def widened_linear(x: Tensor, weight: Tensor) -> Tensor:
    """As `linear`, in fp32 over tiles of a bf16 weight; for many rows."""
    wide_x = x.float()
    out = x.new_empty(x.shape[0], weight.shape[0])
    for start in range(0, weight.shape[0], TILE_ROWS):
        tile = weight[start : start + TILE_ROWS].float()
        out[:, start : start + TILE_ROWS] = wide_x @ tile.t()
    return out


class Linear(nn.Module):
    """A bias-free linear map with weight [out, in]."""

    def __init__(self, in_features: int, out_features: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]."""
        return linear(x, self.weight)
