"""Which steps take the Triton kernels, and what those need of packed weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from kodkod_engine.layers.packed import PackedMatrix

PIECES = 32
"""Packed weights are unpacked in pieces of so small a part of the device's memory, for products of many rows."""

LEAST_PIECE_BYTES = 1 << 29

PIECE_ROWS = 128
"""A piece is a multiple of it, as blocks of rows that share a scale are."""


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def has_kernels(device: torch.device) -> bool:
    """A CUDA device, where triton is installed (extra `gpu`)."""
    return device.type == "cuda" and _has_triton()


def takes_kernels(x: Tensor) -> bool:
    """Where there are kernels, without gradients."""
    return has_kernels(x.device) and not torch.is_grad_enabled()


def fits_tile(*sizes: int) -> bool:
    """Whether tensor cores take these sizes as sides of a tile: powers of two, 16 at least."""
    return all(size >= 16 and size & (size - 1) == 0 for size in sizes)


def by_pieces(x: Tensor, home: PackedMatrix, multiply: Callable[[Tensor], Tensor]) -> Tensor:
    """Products of x with the pieces of a packed matrix, or stack of them, side by side: [rows, out].

    Args:
        x: on the device that computes.
        home: there, or in pinned memory.
        multiply: x with a piece of its dtype.
    """
    out, first = x.new_empty(len(x), home.shape[-2]), 0
    for piece in unpacked_pieces(home, x.dtype, piece_bytes(x.device), x.device):
        # In place: kept side by side, all parts and the whole would be there at once.
        out[:, first : first + piece.shape[-2]] = multiply(piece)
        first += piece.shape[-2]
    return out


@cache
def piece_bytes(device: torch.device) -> int:
    """Of unpacked weights at a time."""
    if device.type != "cuda":
        return LEAST_PIECE_BYTES
    return max(LEAST_PIECE_BYTES, torch.cuda.get_device_properties(device).total_memory // PIECES)


def unpacked_pieces(
    home: PackedMatrix, dtype: torch.dtype, num_bytes: int, device: torch.device | None = None
) -> Iterator[Tensor]:
    """A matrix, or all of a stack, [..., some rows, in] at a time, in order; on another device than its own if said."""
    from kodkod_engine.kernels.gpu.unpack_rows import unpack_rows

    *stack, rows, columns = home.shape
    size = num_bytes // (dtype.itemsize * columns * math.prod(stack)) // PIECE_ROWS * PIECE_ROWS
    size = max(PIECE_ROWS, size)
    for first in range(0, rows, size):
        yield unpack_rows(home, first, min(size, rows - first), dtype, device)
