"""Linear maps, each by the quickest road on its device that computes the same function.

On a processor activations are fp32 and the large matrices bf16. Few rows go through our own kernel, which is bound by
reading the weight. More are narrowed to bf16 where the processor multiplies that: some dozens in tiles of a kernel of
ours, many by torch. Elsewhere they are multiplied in fp32 over tiles of the weight that are widened while they are in
cache. Packed matrices take the same roads: read as they lie for few rows, unpacked in registers or in cache for dozens,
to memory for many. Figures: engine/adr/0001-bf16-on-processors.md, 0002-packed-weights.md.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kodkod_engine.kernels.bf16 import bits_of
from kodkod_engine.kernels.few_rows import few_rows, takes_few_rows
from kodkod_engine.kernels.packed_linear import packed_arrays, packed_linear
from kodkod_engine.kernels.thin_linear import thin_linear
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.kernels.tiled_linear import takes_tiled_linear, tiled_linear
from kodkod_engine.kernels.unpack_bf16 import unpack_bf16
from kodkod_engine.kernels.vector_code import VECTOR_GROUP
from kodkod_engine.layers.on_device import by_pieces, takes_kernels
from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision, Slot, map_rows

MAX_THIN_ROWS = 64
"""Up to here the kernel wins where torch has no bf16 arithmetic."""

MAX_THIN_ROWS_BESIDE_BF16 = 16
"""Up to here it wins where torch has."""

MAX_THIN_ROWS_BESIDE_TILES = 4
"""Up to here it wins where tokens can be multiplied in tiles, if the matrix is large. Measured, whole steps of 8, 12
and 16 rows in bf16: 68, 96 and 115 ms by the kernel and 51, 56 and 62 in tiles; of 4 rows 44 and 41."""

MAX_STEP_ROWS_BESIDE_TILES = 8
"""The same of a whole step whose weights meet several rows in registers, packed or bf16. Measured in turns, one call a
layer against the modules: of 5, 6, 7 and 8 rows in bf16 0.76, 0.79, 0.84 and 0.88 of the time."""

MAX_PACKED_ROWS_BESIDE_TILES = 7
"""Rows up to which a packed matrix that has no code in registers is read as it lies beside tiles."""

MAX_ROWS_IN_REGISTERS = 64
"""Up to here a packed matrix is unpacked in registers for six rows at a time, beyond in cache for tiles of sixteen.
Measured on one thread, [12288, 3072], registers against tiles: 8 rows in 4 bits 2.3 ms against 3.7, in FP8 3.1 against
7.9; 16 rows 4.0 against 3.9, in 8 bits 5.1 against 6.2, in FP8 4.8 against 7.9; 64 rows 14.6 against 15.5, 17.2 against
17.9, 16.1 against 19.3."""

MIN_TILED_VALUES = 1 << 20
"""Of a matrix; smaller ones lie in cache, and what is asked of them is over before the tokens are turned."""

MIN_LARGE_VALUES = 1 << 22
"""Of the matrices of a model whose steps of more rows go through the modules, one call each, instead of one a layer."""

MAX_TILED_ROWS = 192
"""From here torch's product is as quick; tiles bring a third at 32 rows, a tenth at 128."""

MAX_EXPERT_MIX_ROWS_BESIDE_BF16 = 64
"""The same of the experts' kernel: a step's rows are spread over many experts, and products of one or two rows each
gain nothing from bf16 arithmetic. Measured, kernel against products: a whole step with 64 experts and 32 identity
experts takes 0.91 of the time at 48 rows and 0.97 at 64; experts alone, 256 and 128 at full width, 0.75 at 32, 0.83 at
64 and 1.06 at 128."""

MAX_PACKED_ROWS_BESIDE_BF16 = 12
"""The same of a packed matrix in a longer step: from here it is quicker to unpack it and let torch multiply."""

UNPACKED_ROWS = 2048
"""Rows of a packed matrix unpacked at a time for that: an expert's gate and up projections whole."""

TILE_ROWS = 256
"""Weight rows widened at a time; 256 x 4096 fp32 values are 4 MiB, inside a common last-level cache."""


def has_native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 run at full speed on this device."""
    if device.type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


_CPU_HAS_NATIVE_BF16 = has_native_bf16(torch.device("cpu"))


def is_host_bf16(weight: Slot) -> bool:
    """Whether this matrix has the roads of bf16 weights on a processor."""
    return isinstance(weight, Tensor) and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"


def is_on_host(weight: Slot) -> bool:
    """Whether this matrix is bf16 or packed, and read by a processor."""
    return is_host_bf16(weight) or (isinstance(weight, PackedMatrix) and weight.codes.device.type == "cpu")


def max_thin_rows() -> int:
    """Rows up to which what stands around the products is quickest in our kernels, on this processor."""
    return MAX_THIN_ROWS_BESIDE_BF16 if _CPU_HAS_NATIVE_BF16 else MAX_THIN_ROWS


def max_expert_mix_rows() -> int:
    """Rows of a step up to which the experts' kernel is the quicker road, on this processor."""
    return MAX_EXPERT_MIX_ROWS_BESIDE_BF16 if _CPU_HAS_NATIVE_BF16 else MAX_THIN_ROWS


def kernel_rows(weight: Slot) -> int:
    """Rows up to which a step with this weight runs in our own kernels; 0 where there are none for it."""
    if not is_on_host(weight):
        return 0
    if not has_tile_products() or math.prod(weight.shape) < MIN_LARGE_VALUES:
        return max_thin_rows()
    has_code = isinstance(weight, PackedMatrix) or weight.shape[-1] % VECTOR_GROUP == 0
    return MAX_STEP_ROWS_BESIDE_TILES if has_code else MAX_THIN_ROWS_BESIDE_TILES


def _takes_tiles(x: Tensor, weight: Slot, few: int) -> bool:
    """Whether tokens in tiles are the quickest road for these rows: more than a `few`, and not very many."""
    is_large = len(weight.shape) == 2 and math.prod(weight.shape) >= MIN_TILED_VALUES
    if isinstance(weight, Tensor) and not weight.is_contiguous():
        return False
    return is_large and few < len(x) <= MAX_TILED_ROWS and takes_tiled_linear(weight.shape)


def _has_few_rows_code(arrays: Any) -> bool:
    return _CPU_HAS_NATIVE_BF16 and takes_few_rows(arrays)


def linear(x: Tensor, weight: Slot) -> Tensor:
    """x times weight transposed.

    Args:
        x: [rows, in].
        weight: [out, in].

    Returns:
        [rows, out], dtype of x.
    """
    if isinstance(weight, PackedMatrix):
        return _packed(x, weight)
    if not is_host_bf16(weight) or torch.is_grad_enabled():
        return F.linear(x, weight.to(x.dtype))
    assert isinstance(weight, Tensor)
    if len(x) <= MAX_THIN_ROWS_BESIDE_TILES and weight.is_contiguous() and _has_few_rows_code(bits_of(weight)):
        return few_rows(x, weight, weight.shape[0])
    if _takes_tiles(x, weight, MAX_THIN_ROWS_BESIDE_TILES):
        return tiled_linear(x, weight, weight.shape[0])
    return thin_linear(x, weight) if x.shape[0] <= max_thin_rows() else many_rows_linear(x, weight)


def many_rows_linear(x: Tensor, weight: Slot) -> Tensor:
    """As `linear`, for many rows and a weight that is bf16 on a processor."""
    assert isinstance(weight, Tensor)
    if _CPU_HAS_NATIVE_BF16:
        return F.linear(x.bfloat16(), weight).to(x.dtype)
    return widened_linear(x, weight)


def narrowed(x: Tensor, weight: Slot, num_rows: int) -> Tensor:
    """x in the dtype that a step of `num_rows` beside `weight` takes its products in, so that a chain converts once.

    In a step of a few rows that is x itself: what is narrowed takes the road of many rows.
    """
    is_many = is_on_host(weight) and num_rows > kernel_rows(weight) and not torch.is_grad_enabled()
    return x.to(product_dtype(weight, x.dtype)) if is_many else x


def product_dtype(weight: Slot, activation_dtype: torch.dtype) -> torch.dtype:
    """Of large products beside a matrix: bf16 where that is bf16 or packed and the processor multiplies it."""
    return torch.bfloat16 if is_on_host(weight) and _CPU_HAS_NATIVE_BF16 else activation_dtype


def _packed(x: Tensor, weight: PackedMatrix) -> Tensor:
    if is_on_host(weight):
        arrays = packed_arrays(weight.codes, weight.scales, weight.bits, weight.row_block)
        if len(x) <= MAX_ROWS_IN_REGISTERS and _has_few_rows_code(arrays) and not torch.is_grad_enabled():
            return few_rows(x, arrays, weight.shape[0])
        if _takes_tiles(x, weight, MAX_PACKED_ROWS_BESIDE_TILES) and not torch.is_grad_enabled():
            return tiled_linear(x, arrays, weight.shape[0])
        thin = MAX_PACKED_ROWS_BESIDE_BF16 if _CPU_HAS_NATIVE_BF16 else MAX_THIN_ROWS
        if x.shape[0] <= thin:
            return packed_linear(x, weight.codes, weight.scales, weight.bits, weight.row_block)
        if _CPU_HAS_NATIVE_BF16:
            return _unpacked_linear(x.bfloat16(), weight).to(x.dtype)
    if takes_kernels(x):
        return _on_device(x, weight)
    return map_rows(x, weight, TILE_ROWS, lambda rows, tile: F.linear(rows, tile.to(x.dtype)))


def _on_device(x: Tensor, weight: PackedMatrix) -> Tensor:
    from kodkod_engine.kernels.gpu.grouped_packed import packed_rows, takes_packed_rows

    if takes_packed_rows(x, weight):
        return packed_rows(x, weight)
    return by_pieces(x, weight, lambda piece: F.linear(x, piece))


class _Scratch(threading.local):
    """Room for unpacked weights, a thread's own and kept: fresh pages would take longer than filling them."""

    def __init__(self) -> None:
        self._values = torch.empty(0, dtype=torch.bfloat16)

    def matrix(self, rows: int, columns: int) -> Tensor:
        """bf16 [rows, columns], with anything in it."""
        if self._values.numel() < rows * columns:
            self._values = torch.empty(rows * columns, dtype=torch.bfloat16)
        return self._values[: rows * columns].view(rows, columns)


_scratch = _Scratch()


def _unpacked_linear(x: Tensor, weight: PackedMatrix) -> Tensor:
    """Piece by piece, unpacked to bf16: x bf16 [rows, in] -> bf16 [rows, out]."""
    out = x.new_empty(x.shape[0], weight.shape[0])
    for first, piece in zip(range(0, weight.shape[0], UNPACKED_ROWS), weight.split(UNPACKED_ROWS), strict=True):
        room = _scratch.matrix(*piece.shape)
        unpack_bf16(piece.codes, piece.scales, piece.bits, piece.row_block, room)
        out[:, first : first + UNPACKED_ROWS] = F.linear(x, room)
    return out


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

    @property
    def home(self) -> Slot:
        """Where its weight [out, in] lies."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]."""
        return linear(x, self.weight)


class PackedLinear(Linear):
    """The same with a weight in 8 or 4 bits; it has a `home` and no `weight`."""

    def __init__(self, in_features: int, out_features: int, precision: Precision, part_rows: int = 0) -> None:
        """`part_rows`: see `PackedParameter`."""
        nn.Module.__init__(self)
        self.packed = PackedParameter((out_features, in_features), precision, part_rows)

    @property
    def home(self) -> Slot:
        """See `Linear`."""
        return self.packed.matrix

    def forward(self, x: Tensor) -> Tensor:
        """See `Linear`."""
        return linear(x, self.packed.matrix)
