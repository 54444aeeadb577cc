"""A linear map of two to four tokens and a weight of packed integers, by four-way integer products (`digit_products`).

As `thin_digits` has it for one, with all codes of a program on their way at once; digits of every token meet them while
they are there. Made by each program they would cost as much again as the products: they are made once (`few_packed`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.digit_products import (
    digit_meta,
    four_of,
    held_rows,
    part_product,
    part_scales,
    parts_of,
    ready_words,
    words_of,
)
from kodkod_engine.kernels.gpu.few_packed import prepared
from kodkod_engine.kernels.gpu.group_products import scale_down
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored
from kodkod_engine.layers.packed import PackedMatrix

MOST_TOKENS = 4
"""A value costs an instruction for each token, at four twice what the tensor cores ask for."""

HELD_KIB, NUM_WARPS = 64, 8
"""Of codes of 8 bits in a program, and half of both of 4-bit ones: more in a warp leave registers short."""


@triton.jit
def _kernel(
    x,
    powers,
    words,
    scales,
    residual,
    also,
    out,
    outputs,
    TOKENS: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_PARTS: tl.constexpr,
    PARTS: tl.constexpr,
    HALVES: tl.constexpr,
    PER: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
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
    if IS_PAIR:
        tiles = tiles + parts_of(words, own + outputs, None, ALL_PARTS, PARTS)
        factors = factors + part_scales(scales, own + outputs, None, ALL_PARTS, PARTS, PER, ROW_BLOCK)
    tl.debug_barrier()  # or the compiler puts the loads above behind the wait, or behind the first products
    inputs_are_there(EARLY)
    sides: tl.constexpr = 2 if IS_PAIR else 1
    chunks: tl.constexpr = len(tiles) // sides
    totals = ()
    for _ in tl.static_range(TOKENS * sides):
        totals = totals + (tl.zeros([PARTS, ROWS], dtype=tl.float32),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    for chunk in tl.static_range(chunks):
        sums = ()
        for token in tl.static_range(TOKENS):
            highs = ready_words(x + token * (SIZE // 4), chunk * PARTS, ALL_PARTS, PARTS, HALVES, PER)
            lows = ready_words(x + (TOKENS + token) * (SIZE // 4), chunk * PARTS, ALL_PARTS, PARTS, HALVES, PER)
            for side in tl.static_range(sides):
                codes, scale = four_of(tiles[side * chunks + chunk]), factors[side * chunks + chunk]
                product = part_product(codes, highs, lows, HALVES, IS_LOW_SIGNED=True)
                sums = sums + (totals[token * sides + side] + product * scale.to(tl.float32),)  # type: ignore[assignment]  # noqa: RUF005  # as above
        totals = sums
    for token in tl.static_range(TOKENS):
        factor = scale_down(tl.load(powers + token), HALVES)
        result = tl.sum(totals[token * sides], axis=0) * factor
        above = tl.sum(totals[token * sides + sides - 1], axis=0) * factor
        leave(result, above, residual, also, out, token * outputs + rows, inside, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


def few_digits(x: Tensor, weight: PackedMatrix, around: Around) -> Tensor:
    """See `thin_linear.reference`; for a weight and at most `MOST_TOKENS` that `fits_digits`."""
    stored, tokens = Stored.of(weight), len(x)
    outputs = around.outputs(stored.outputs)
    out = x.new_empty(tokens, outputs)
    ready, powers = prepared(x, weight, around)
    rows = max(1, held_rows(stored, HELD_KIB // stored.halves) >> around.is_pair)
    grid: Any = (triton.cdiv(outputs, rows),)
    _kernel[grid](
        ready.view(torch.int32),
        powers,
        words_of(stored),
        stored.scales,
        outputs=outputs,
        TOKENS=tokens,
        SIZE=stored.size,
        ROWS=rows,
        **digit_meta(stored),
        **around.behind(out),
        **early(),
        num_warps=NUM_WARPS // stored.halves,
    )
    return out
