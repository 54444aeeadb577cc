"""Exponentials and SiLU inside numba kernels, without a call, so that loops over them vectorise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kodkod_engine.kernels.bf16 import FAST_MATH
from kodkod_engine.kernels.tile_products import float_of

_F = np.float32
_I = np.int32

LOG2_E = np.float32(1.44269504)
"""exp(x) is 2 ** (x * this)."""


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def power_of_two(x: Any) -> Any:
    """2 ** x in fp32, right to 2e-7 of itself; of what lies beyond +-126, that of 126."""
    power = min(max(x, _F(-126)), _F(126))
    whole = np.floor(power + _F(0.5))
    rest = _F(power - whole)
    # 2 ** rest by its Taylor series: rest is at most a half.
    two = rest * _F(1.5403530e-4) + _F(1.3333558e-3)
    two = rest * two + _F(9.6181291e-3)
    two = rest * two + _F(5.5504109e-2)
    two = rest * two + _F(2.4022651e-1)
    two = rest * two + _F(6.9314718e-1)
    two = rest * two + _F(1)
    return two * float_of(_I((_I(whole) + _I(127)) << _I(23)))


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def silu(x: Any) -> Any:
    """x / (1 + exp(-x)) in fp32; the exponential is right to 2e-7 of itself."""
    return x / (_F(1) + power_of_two(x * -LOG2_E))
