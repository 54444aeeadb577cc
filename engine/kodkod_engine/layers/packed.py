"""Large matrices in 8 or 4 bits, in place of bf16 ones: what is packed, and how the layers hold it.

A packed matrix can be sliced by rows and filled piece by piece like the tensor it stands for, so a checkpoint streams
into it without a second copy. The format is `kernels/packing.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kodkod_engine.kernels.packing import group_size_for, pack, unpack


class Precision(StrEnum):
    """How the weights of a part are kept."""

    BF16 = "bf16"
    """As they are stored: bf16, fp16 or fp32."""
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Per weight, scales not counted."""
        return {Precision.BF16: 16, Precision.INT8: 8, Precision.INT4: 4}[self]


@dataclass(frozen=True, slots=True)
class Precisions:
    """Of each part. Norms, router, words, N-gram tables and the latent key and value maps are never packed."""

    experts: Precision = Precision.BF16
    attention: Precision = Precision.BF16
    dense: Precision = Precision.BF16
    head: Precision = Precision.BF16

    @classmethod
    def of(cls, name: str) -> Precisions:
        """The usual set for a name: 4 bits leave the head, which chooses the token, at 8."""
        whole = Precision(name)
        return cls(whole, whole, whole, Precision.INT8 if whole is Precision.INT4 else whole)

    @property
    def is_packed(self) -> bool:
        """Whether any part is."""
        return any(part is not Precision.BF16 for part in (self.experts, self.attention, self.dense, self.head))


class PackedMatrix:
    """A matrix [..., out, in] as codes and scales, or some of its rows; not a copy."""

    __slots__ = ("bits", "codes", "scales")

    def __init__(self, codes: Tensor, scales: Tensor, bits: int) -> None:
        """See `kernels.packing.pack`."""
        self.codes, self.scales, self.bits = codes, scales, bits

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix it stands for."""
        return (*self.codes.shape[:-1], self.codes.shape[-1] * 8 // self.bits)

    @property
    def is_meta(self) -> bool:
        """Whether it has no memory yet."""
        return self.codes.is_meta

    @property
    def nbytes(self) -> int:
        """Codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    @property
    def group_size(self) -> int:
        """Values that share a scale."""
        return self.shape[-1] // self.scales.shape[-1]

    def __getitem__(self, rows: int | slice) -> PackedMatrix:
        return PackedMatrix(self.codes[rows], self.scales[rows], self.bits)

    def chunk(self, count: int) -> tuple[PackedMatrix, ...]:
        """Parts of equally many rows."""
        parts = zip(self.codes.chunk(count), self.scales.chunk(count), strict=True)
        return tuple(PackedMatrix(codes, scales, self.bits) for codes, scales in parts)

    def split(self, rows: int) -> tuple[PackedMatrix, ...]:
        """Parts of so many rows, the last perhaps of fewer."""
        parts = zip(self.codes.split(rows), self.scales.split(rows), strict=True)
        return tuple(PackedMatrix(codes, scales, self.bits) for codes, scales in parts)

    def copy_(self, values: Tensor) -> None:
        """Pack values [..., out, in] into its memory."""
        codes, scales = pack(values, self.bits, self.group_size)
        self.codes.copy_(codes)
        self.scales.copy_(scales)

    def unpacked(self) -> Tensor:
        """The matrix it stands for: fp32 [..., out, in]."""
        return unpack(self.codes, self.scales, self.bits)


Slot: TypeAlias = Tensor | PackedMatrix
"""A place for a checkpoint's tensor: a view of a weight."""


class PackedParameter(nn.Module):
    """A packed matrix as a module owns it."""

    def __init__(self, shape: tuple[int, ...], precision: Precision) -> None:
        super().__init__()
        *rows, columns = shape
        self.bits = precision.bits
        dtype = torch.uint8 if self.bits == 4 else torch.int8
        codes = torch.empty(*rows, columns * self.bits // 8, dtype=dtype)
        scales = torch.empty(*rows, columns // group_size_for(columns), dtype=torch.bfloat16)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)

    @property
    def matrix(self) -> PackedMatrix:
        """All of it."""
        return PackedMatrix(self.codes.detach(), self.scales.detach(), self.bits)


def map_rows(x: Tensor, matrix: PackedMatrix, tile_rows: int, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """x times a packed matrix transposed, unpacked tile by tile: for many rows.

    Args:
        x: [rows, in].
        matrix: [out, in].
        tile_rows: rows of the matrix unpacked at a time.
        multiply: of x and an unpacked tile.
    """
    return torch.cat([multiply(x, tile.unpacked()) for tile in matrix.split(tile_rows)], dim=1)
