"""Whether a tensor's step takes the Triton kernels."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def takes_kernels(x: Tensor) -> bool:
    """On a CUDA device, without gradients, where triton is installed (extra `gpu`)."""
    return x.device.type == "cuda" and not torch.is_grad_enabled() and _has_triton()


def fits_tile(*sizes: int) -> bool:
    """Whether tensor cores take these sizes as sides of a tile: powers of two, 16 at least."""
    return all(size >= 16 and size & (size - 1) == 0 for size in sizes)
