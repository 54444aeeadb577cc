"""Weights in 8 or 4 bits: signed codes with one bf16 scale per group of neighbours along the input.

Value = code * scale of its group. 4-bit codes lie two in a byte: in a group of g values byte j holds value j in its low
half and value j + g / 2 in its high half, so that a vector of bytes unpacks into two vectors of neighbours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GROUP_SIZE = 128
"""Values that share a scale, where the input's size is a multiple of it."""


def group_size_for(in_features: int) -> int:
    """The largest power of two that divides the input, at most `GROUP_SIZE`."""
    return math.gcd(in_features, GROUP_SIZE)


def pack(values: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix.

    The value of greatest magnitude in a group gets the most negative code, which has no positive twin: so all codes of
    a group are used. The error of a value is at most half its group's scale, for one value of opposite sign and the
    same magnitude a whole one.

    Args:
        values: [..., out, in], any float dtype; `in` a multiple of the group size.
        bits: 8 or 4.

    Returns:
        Codes, int8 [..., out, in] or uint8 [..., out, in / 2]; scales, bf16 [..., out, in / group_size].
    """
    groups = values.float().unflatten(-1, (-1, group_size))
    lowest, highest = groups.aminmax(dim=-1, keepdim=True)
    extreme = torch.where(-lowest > highest, lowest, highest)
    scales = (extreme / -(1 << (bits - 1))).bfloat16()
    wide = scales.float()
    codes = torch.where(wide == 0, 0.0, groups / wide).round_().clamp_(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    codes = codes.to(torch.int8)
    if bits == 4:
        low, high = codes.view(torch.uint8).chunk(2, dim=-1)
        codes = (low & 15) | (high << 4)
    return codes.flatten(-2), scales.squeeze(-1)


def unpack(codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The matrix that codes and scales stand for: fp32 [..., out, in]. Arguments as `pack` returns them."""
    groups = codes.view(torch.int8).unflatten(-1, (scales.shape[-1], -1))
    if bits == 4:
        # Shifts of signed bytes keep the sign.
        groups = torch.cat([(groups << 4) >> 4, groups >> 4], dim=-1)
    matrix: Tensor = (groups * scales.float()[..., None]).flatten(-2)
    return matrix
