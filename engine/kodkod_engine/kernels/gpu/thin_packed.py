"""A packed linear map of one or two tokens on the tensor cores, fused with what stands before and behind it.

What `thin_linear` does in one kernel, for packed weights alone: there it is bound by turning codes into numbers.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.group_products import (
    ROWS,
    group_meta,
    group_products,
    group_scales,
    group_tiles,
    group_values,
    largest,
    power_of,
)
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored, normed_row
from kodkod_engine.layers.packed import PackedMatrix


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
    PER: tl.constexpr,
    HALVES: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
    INTERPRETED: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
    EARLY: tl.constexpr,
):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside = rows < outputs
    groups: tl.constexpr = LENGTH // PER
    tiles = group_tiles(codes, rows, inside, LENGTH, PER, TOGETHER)
    factors = group_scales(scales, rows, inside, groups, ROW_BLOCK, TOGETHER)
    more, more_factors = tiles, factors
    if IS_PAIR:
        more = group_tiles(codes, rows + outputs, inside, LENGTH, PER, TOGETHER)
        more_factors = group_scales(scales, rows + outputs, inside, groups, ROW_BLOCK, TOGETHER)
    weights = tiles
    if HAS_NORM:
        weights = group_values(norm, True, SIZE, PER * HALVES, TOGETHER)
    # Without it the compiler puts the loads above behind the first sum, which waits for the input.
    tl.debug_barrier()
    inputs_are_there(EARLY)
    for token in tl.static_range(TOKENS):
        values = group_values(x + token * stride, True, SIZE, PER * HALVES, TOGETHER)
        if HAS_NORM:
            values = normed_row(values, weights, eps, SIZE)
        power = power_of(largest(values))
        result = group_products(tiles, factors, values, power, HALVES, INTERPRETED)
        above = result
        if IS_PAIR:
            above = group_products(more, more_factors, values, power, HALVES, INTERPRETED)
        place = token * outputs + rows
        leave(result, above, residual, also, out, place, inside, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


def thin_packed(x: Tensor, weight: PackedMatrix, around: Around) -> Tensor:
    """See `thin_linear.reference`; for a weight and an input that `fits_groups`."""
    stored = Stored.of(weight)
    outputs = around.outputs(stored.outputs)
    out = x.new_empty(len(x), outputs)
    grid: Any = (triton.cdiv(outputs, ROWS),)
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
        ROWS=ROWS,
        HAS_NORM=around.norm is not None,
        **group_meta(stored, ROWS * (1 + around.is_pair)),
        **around.behind(out),
        **early(around.follows),
    )
    return out
