"""A linear map of one token and a weight of packed integers, by four-way integer products (`digit_products`).

As `thin_linear` has it: a program owns a few outputs and asks for all their weights at once; meanwhile it norms the
token and makes digits of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.digit_products import (
    digit_meta,
    digits_of,
    held_rows,
    largest,
    part_scales,
    parts_of,
    times_digits,
    values_of,
    words_of,
)
from kodkod_engine.kernels.gpu.group_products import power_of, scale_down
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored, normed_row
from kodkod_engine.layers.packed import PackedMatrix


@triton.jit
def _kernel(
    x,
    words,
    scales,
    norm,
    residual,
    also,
    out,
    outputs,
    eps,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_PARTS: tl.constexpr,
    PARTS: tl.constexpr,
    HALVES: tl.constexpr,
    PER: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
    EARLY: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < outputs
    own = tl.minimum(rows, outputs - 1)  # cheaper than a mask
    tiles = parts_of(words, own, None, ALL_PARTS, PARTS)
    factors = part_scales(scales, own, None, ALL_PARTS, PARTS, PER, ROW_BLOCK)
    more, more_factors = tiles, factors
    if IS_PAIR:
        more = parts_of(words, own + outputs, None, ALL_PARTS, PARTS)
        more_factors = part_scales(scales, own + outputs, None, ALL_PARTS, PARTS, PER, ROW_BLOCK)
    weights = tiles
    if HAS_NORM:
        weights = values_of(norm, None, ALL_PARTS, PARTS, HALVES, PER)
    # Without it the compiler puts the loads above behind sums that wait for the input.
    tl.debug_barrier()
    inputs_are_there(EARLY)
    values = values_of(x, None, ALL_PARTS, PARTS, HALVES, PER)
    if HAS_NORM:
        values = normed_row(values, weights, eps, SIZE)
    power = power_of(largest(values))
    digits = digits_of(values, power)
    factor = scale_down(power, HALVES)
    result = tl.sum(times_digits(tiles, factors, digits, HALVES), axis=0) * factor
    above = result
    if IS_PAIR:
        above = tl.sum(times_digits(more, more_factors, digits, HALVES), axis=0) * factor
    leave(result, above, residual, also, out, rows, inside, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


@dataclass(frozen=True, slots=True)
class ByDigits:
    """`thin_linear` of one token, for a weight and an input that `fits_digits`."""

    held_kib: int
    """Of codes in a program, at most: more of them share the token's digits, fewer end sooner."""

    def __call__(self, x: Tensor, weight: PackedMatrix, around: Around) -> Tensor:
        """See `thin_linear.reference`."""
        stored = Stored.of(weight)
        outputs = around.outputs(stored.outputs)
        out = x.new_empty(len(x), outputs)
        rows = max(1, held_rows(stored, self.held_kib) >> around.is_pair)
        grid: Any = (triton.cdiv(outputs, rows),)
        _kernel[grid](
            x,
            words_of(stored),
            stored.scales,
            out if around.norm is None else around.norm,
            outputs=outputs,
            eps=around.eps,
            SIZE=stored.size,
            ROWS=rows,
            HAS_NORM=around.norm is not None,
            **digit_meta(stored),
            **around.behind(out),
            **early(around.follows),
        )
        return out


BY_DIGITS = (ByDigits(32), ByDigits(64))
"""Of a program, that a device may find quicker."""
