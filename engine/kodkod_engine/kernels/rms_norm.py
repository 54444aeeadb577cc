"""Root-mean-square normalisation of few rows in one call: torch needs eight for it, which cost more than the sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kodkod_engine.kernels.bf16 import FAST_MATH


def reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, fp32: [..., size] -> [..., size]."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@njit(fastmath=FAST_MATH, cache=True, nogil=True, boundscheck=False)
def _kernel(x: Any, weight: Any, eps: Any, out: Any) -> None:
    size = x.shape[1]
    for row in range(x.shape[0]):
        total = np.float32(0)
        for i in range(size):
            total += x[row, i] * x[row, i]
        scale = np.float32(1) / math.sqrt(total / np.float32(size) + eps)
        for i in range(size):
            out[row, i] = x[row, i] * scale * weight[i]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference`; x fp32 [rows, size], its rows may be part of a wider matrix; weight fp32 [size]. On the host."""
    out = torch.empty(x.shape)
    _kernel(x.numpy(), weight.numpy(), np.float32(eps), out.numpy())
    return out
