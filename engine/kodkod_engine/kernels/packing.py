"""Weights in 8 or 4 bits: codes, and scales that several of them share. Value = code * its scale.

Integers: signed codes with one bf16 scale per group of neighbours along the input. 4-bit codes lie two in a byte: in a
group of g values byte j holds value j in its low half and value j + g / 2 in its high half, so that a vector of bytes
unpacks into two vectors of neighbours.

FP8: codes are e4m3 numbers with one fp32 scale per block of rows x neighbours along the input, as Meituan's checkpoint
has them (blocks of 128 x 128).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP_SIZE = 128
"""Neighbours that share a scale, where the input's size is a multiple of it; in FP8 as many rows share it too."""

HIGHEST_FP8 = 448.0
"""The largest finite e4m3 number."""


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


def pack_fp8(values: Tensor, row_block: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix in FP8: the value of greatest magnitude in a block becomes the largest code.

    Args:
        values: [..., out, in], any float dtype; `in` a multiple of the group size.
        row_block: rows that share a scale; the last block may have fewer.

    Returns:
        Codes, float8_e4m3fn [..., out, in]; scales, fp32 [..., out / row_block rounded up, in / group_size].
    """
    rows = values.shape[-2]
    groups = values.float().unflatten(-1, (-1, group_size))
    highest = F.pad(groups.abs().amax(dim=-1), (0, 0, 0, -rows % row_block))
    scales = highest.unflatten(-2, (-1, row_block)).amax(dim=-2) / HIGHEST_FP8
    of_group = spread_rows(scales, row_block, rows)[..., None]
    codes = torch.where(of_group == 0, 0.0, groups / of_group).to(torch.float8_e4m3fn)
    return codes.flatten(-2), scales


def unpack_fp8(codes: Tensor, scales: Tensor, row_block: int) -> Tensor:
    """The matrix that codes and scales stand for: fp32 [..., out, in]. Arguments as `pack_fp8` returns them."""
    groups = widen_fp8(codes).unflatten(-1, (scales.shape[-1], -1))
    matrix: Tensor = (groups * spread_rows(scales, row_block, codes.shape[-2])[..., None]).flatten(-2)
    return matrix


def widen_fp8(codes: Tensor) -> Tensor:
    """e4m3 as fp32, on a processor quicker than torch does it; the two codes for NaN come out as +-480 there."""
    if codes.device.type != "cpu":
        return codes.float()
    # The bits lie in a half-precision number's place, which makes it 256 times too small; bit 14 is the sign's copy.
    halves = (codes.view(torch.int8).to(torch.int16) << 7) & ~(1 << 14)
    return halves.view(torch.float16).float() * 256


def scaled_rows(codes: Tensor, scales: Tensor, numbers: Tensor) -> Tensor:
    """Some rows of a published FP8 matrix as fp32.

    Args:
        codes: float8 [rows, in].
        scales: fp32 [out / 128, in / 128], rounded up.
        numbers: int64 [rows], which rows of the matrix they are.
    """
    of_row = scales[numbers // GROUP_SIZE].repeat_interleave(GROUP_SIZE, dim=1)
    return widen_fp8(codes) * of_row[:, : codes.shape[1]]


def spread_rows(scales: Tensor, row_block: int, rows: int) -> Tensor:
    """Scales of blocks of rows [..., blocks, groups] as scales of rows [..., rows, groups]."""
    return scales.repeat_interleave(row_block, dim=-2)[..., :rows, :]


def refine(scales: Tensor, shape: tuple[int, int], row_block: int, group_size: int) -> Tensor:
    """Scales of blocks of 128 x 128 as those of smaller blocks that divide them: the same values, exactly.

    Args:
        scales: [out / 128, in / 128], rounded up.
        shape: of the matrix, (out, in).

    Returns:
        [out / row_block, in / group_size], rounded up.
    """
    rows = scales.repeat_interleave(GROUP_SIZE // row_block, dim=0)[: -(-shape[0] // row_block)]
    return rows.repeat_interleave(GROUP_SIZE // group_size, dim=1)[:, : shape[1] // group_size]
