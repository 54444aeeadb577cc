"""A linear map of few tokens, bound by reading its weight, fused with what stands before and behind it.

Before: the root-mean-square norm of the input. Behind: SwiGLU of a gate and an up half, or the residual. A program owns
a few outputs and asks for all their weights at once, so that many loads are on their way before the first is used; the
norm is worked out meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.digit_products import fits_digits
from kodkod_engine.kernels.gpu.few_digits import MOST_TOKENS, few_digits
from kodkod_engine.kernels.gpu.few_packed import few_packed
from kodkod_engine.kernels.gpu.few_plain import few_plain, fits_stretches
from kodkod_engine.kernels.gpu.few_walks import WALKS, fits_walks
from kodkod_engine.kernels.gpu.group_products import fits_groups
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.packed_tiles import fits_tiles, packed_tiles
from kodkod_engine.kernels.gpu.thin_digits import BY_DIGITS
from kodkod_engine.kernels.gpu.tiles import Stored, normed_row, row_of, scales_of, tiles_of, times
from kodkod_engine.kernels.gpu.tuning import name_of, tuner_of
from kodkod_engine.layers.packed import PackedMatrix, Slot

Way: TypeAlias = "Callable[[Tensor, Any, Around], Tensor]"
"""A kernel, or several, that computes the map of some tokens."""

THIN_ROWS = 2
"""Tokens up to which one kernel does it all; above, products of tiles and a kernel for the norm."""

CROWDED_TOKENS = 2
"""Above, a program of a packed weight owns half as many outputs."""


def reference(
    x: Tensor,
    weight: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    also: Tensor | None = None,
    is_pair: bool = False,
) -> Tensor:
    """The map, with what is fused around it.

    Args:
        x: [tokens, in]; rows may lie apart.
        weight: [out, in]; of a pair, gate rows and then as many up rows.
        norm: [in]: x is normalised with these factors first.
        eps: of the norm.
        residual: [tokens, out], added.
        also: the same, added with the residual.
        is_pair: silu(gate) * up of the two halves comes out.

    Returns:
        [tokens, out], half as many of a pair; x's dtype.
    """
    if norm is not None:
        wide = x.float()
        x = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * norm
    out = F.linear(x, weight)
    if is_pair:
        gate, up = out.chunk(2, dim=-1)
        out = F.silu(gate) * up
    if also is not None:
        out = out + also
    return out if residual is None else residual + out


@triton.jit
def _kernel(
    x,
    codes,
    scales,
    norm,
    residual,
    also,
    out,
    outputs,
    stride,
    eps,
    TOKENS: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    INNER: tl.constexpr,
    HALVES: tl.constexpr,
    PER: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
    EARLY: tl.constexpr,
):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside = rows < outputs
    tiles = tiles_of(codes, rows, inside, LENGTH, INNER)
    factors = scales_of(scales, rows, inside, LENGTH, INNER, PER, ROW_BLOCK)
    more, more_factors = tiles, factors
    if IS_PAIR:
        more = tiles_of(codes, rows + outputs, inside, LENGTH, INNER)
        more_factors = scales_of(scales, rows + outputs, inside, LENGTH, INNER, PER, ROW_BLOCK)
    weights = tiles
    if HAS_NORM:
        weights = row_of(norm, LENGTH, INNER, HALVES, PER)
        # Without it the compiler puts the loads above behind the norm's sum, which waits for the input.
        tl.debug_barrier()
    inputs_are_there(EARLY)
    for token in tl.static_range(TOKENS):
        values = row_of(x + token * stride, LENGTH, INNER, HALVES, PER)
        if HAS_NORM:
            values = normed_row(values, weights, eps, SIZE)
        result = times(tiles, factors, values, HALVES, PER)
        above = result
        if IS_PAIR:
            above = times(more, more_factors, values, HALVES, PER)
        place = token * outputs + rows
        leave(result, above, residual, also, out, place, inside, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


@triton.jit
def _swiglu(pair, out, width, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    inputs_are_there(EARLY)
    token = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(pair + token * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(pair + token * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * width + columns, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)


def swiglu(pair: Tensor) -> Tensor:
    """silu(first half) * second half: [tokens, 2 * width] -> [tokens, width], in one kernel."""
    tokens, width = len(pair), pair.shape[1] // 2
    out = pair.new_empty(tokens, width)
    grid: Any = (tokens, triton.cdiv(width, 1024))
    _swiglu[grid](pair, out, width, BLOCK=1024, **early())
    return out


def thin_linear(
    x: Tensor,
    weight: Slot,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    also: Tensor | None = None,
    is_pair: bool = False,
    follows: bool = True,
) -> Tensor:
    """See `reference`; the weight contiguous or packed, `also` beside a residual only.

    In the way that the device finds quickest; for a token always in one kernel. `follows` as `overlap.early` has it.
    """
    around = Around(norm, eps, residual, also, is_pair, follows)
    ways = ways_of(x, weight)
    if len(ways) == 1:
        return ways[0](x, weight, around)
    codes = weight.codes if isinstance(weight, PackedMatrix) else weight
    about = triton.next_power_of_2(len(x))  # tokens of a tile, which are what counts
    key = (name_of(ways[-1]), about, x.dtype, weight.shape, codes.dtype, *around.kind)
    return tuner_of(x.device).quickest(key, ways, lambda way: way(x, weight, around))(x, weight, around)


def ways_of(x: Tensor, weight: Slot) -> list[Way]:
    """Kernels for so many tokens and a weight like this; the first serves all sizes."""
    if isinstance(weight, PackedMatrix):
        return _packed_ways(x, weight)
    if len(x) == 1:
        return [in_one_kernel, *OTHER_TILES]
    in_stretches = [few_plain] if fits_stretches(weight) else []
    return [*([in_one_kernel] if len(x) <= THIN_ROWS else []), by_library, *in_stretches]


def _packed_ways(x: Tensor, weight: PackedMatrix) -> list[Way]:
    stored, tokens = Stored.of(weight), len(x)
    by_digits = _digit_ways(tokens) if fits_digits(stored, x.dtype) else ()
    walks = WALKS if tokens > 1 and fits_walks(stored, x.dtype) else ()
    if tokens <= THIN_ROWS:
        return [in_one_kernel, *(by_digits or OTHER_TILES), *walks]
    if fits_groups(stored, x.dtype):
        return [few_packed, *by_digits, *walks]
    return [packed_tiles if fits_tiles(weight) else in_one_kernel]


def _digit_ways(tokens: int) -> Sequence[Way]:
    if tokens == 1:
        return BY_DIGITS
    return (few_digits,) if tokens <= MOST_TOKENS else ()


def by_library(x: Tensor, weight: Tensor, around: Around) -> Tensor:
    """`thin_linear` of a plain weight by the library's product, with single kernels around it."""
    x, residual, also = around.before(x), around.residual, around.also
    if residual is not None:
        return torch.addmm(residual if also is None else residual + also, x, weight.t())
    out = F.linear(x, weight)
    return swiglu(out) if around.is_pair else out


@dataclass(frozen=True, slots=True)
class InOneKernel:
    """`thin_linear` whatever the weight and the number of tokens: a program owns so many outputs as its warps hold."""

    times: float = 1.0
    """Outputs of a program against the usual: more of them share what is done to the input, fewer end sooner."""
    num_warps: int = 4

    def __call__(self, x: Tensor, weight: Slot, around: Around) -> Tensor:
        """See `reference`."""
        stored = Stored.of(weight)
        outputs = around.outputs(stored.outputs)
        out = x.new_empty(len(x), outputs)
        # Of unpacked values and of several tokens' sums registers run short.
        is_crowded = stored.per_group > 0 and len(x) > CROWDED_TOKENS
        rows = max(1, int(self.times * stored.tile_rows) >> (around.is_pair + is_crowded))
        grid: Any = (triton.cdiv(outputs, rows),)
        _kernel[grid](
            x,
            stored.codes,
            stored.scales,
            out if around.norm is None else around.norm,
            outputs=outputs,
            stride=x.stride(0),
            eps=around.eps,
            TOKENS=len(x),
            SIZE=stored.size,
            ROWS=rows,
            HAS_NORM=around.norm is not None,
            num_warps=self.num_warps,
            **stored.meta(),
            **around.behind(out),
            **early(around.follows),
        )
        return out


in_one_kernel = InOneKernel()

OTHER_TILES = (InOneKernel(2, 4), InOneKernel(2, 8), InOneKernel(0.5, 4))
"""Of a program, for a token or two, that a device may find quicker."""
