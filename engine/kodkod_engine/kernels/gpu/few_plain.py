"""A plain linear map of some tokens on the tensor cores, a warp a stretch of the input, with what stands behind it.

The library's product of so few tokens gives a program a tile of outputs and walks along the input; here its warps share
the input and add their sums up at the end, so that sixteen outputs keep as many loads on their way as memory wants, and
the residual or SwiGLU needs no kernel of its own.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.group_products import ROWS
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there

STRETCH = 128
"""Values of the input that a warp multiplies at a time, where they divide it."""

LEAST_STRETCH = 16
"""The tensor cores multiply no fewer."""

NUM_WARPS = 8

HELD_VALUES = 24_576
"""Of the matrix in a program, on their way or in registers."""


@triton.jit
def _stretch(weight, rows, inside, start, SIZE: tl.constexpr, STRETCH: tl.constexpr, TOGETHER: tl.constexpr):
    """Rows of a matrix, a stretch for each warp: [TOGETHER, rows, STRETCH]."""
    place = start + tl.arange(0, TOGETHER)[:, None, None] * STRETCH + tl.arange(0, STRETCH)[None, None, :]
    return tl.load(weight + rows[None, :, None] * SIZE + place, mask=inside[None, :, None], other=0.0)


@triton.jit
def _values(x, stride, tokens, start, STRETCH: tl.constexpr, TOGETHER: tl.constexpr, TOKENS: tl.constexpr):
    """All tokens' values of the same stretches: [TOGETHER, STRETCH, TOKENS]."""
    place = start + tl.arange(0, TOGETHER)[:, None, None] * STRETCH + tl.arange(0, STRETCH)[None, :, None]
    token = tl.arange(0, TOKENS)[None, None, :]
    return tl.load(x + token * stride + place, mask=token < tokens, other=0.0)


@triton.jit
def _kernel(
    x,
    weight,
    residual,
    also,
    out,
    outputs,
    tokens,
    stride,
    SIZE: tl.constexpr,
    STRETCH: tl.constexpr,
    TOGETHER: tl.constexpr,
    AHEAD: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
    EARLY: tl.constexpr,
):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    own = tl.arange(0, TOKENS)
    inside, mask = rows < outputs, own < tokens
    step: tl.constexpr = TOGETHER * STRETCH
    tiles, more = (), ()
    for start in tl.static_range(0, min(AHEAD * step, SIZE), step):
        tiles = tiles + (_stretch(weight, rows, inside, start, SIZE, STRETCH, TOGETHER),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
        if IS_PAIR:
            more = more + (_stretch(weight, rows + outputs, inside, start, SIZE, STRETCH, TOGETHER),)  # type: ignore[assignment]  # noqa: RUF005  # as above
    if EARLY:
        tl.debug_barrier()  # or the compiler puts the loads above behind the wait
    inputs_are_there(EARLY)
    ahead = _values(x, stride, tokens, 0, STRETCH, TOGETHER, TOKENS)
    total = tl.zeros([TOGETHER, ROWS, TOKENS], dtype=tl.float32)
    above = tl.zeros([TOGETHER, ROWS, TOKENS], dtype=tl.float32)
    for chunk in tl.static_range(SIZE // step):
        if (chunk + AHEAD) * step < SIZE:
            later = (chunk + AHEAD) * step
            tiles = tiles + (_stretch(weight, rows, inside, later, SIZE, STRETCH, TOGETHER),)  # type: ignore[assignment]  # noqa: RUF005  # as above
            if IS_PAIR:
                more = more + (_stretch(weight, rows + outputs, inside, later, SIZE, STRETCH, TOGETHER),)  # type: ignore[assignment]  # noqa: RUF005  # as above
        values = ahead
        if (chunk + 1) * step < SIZE:
            ahead = _values(x, stride, tokens, (chunk + 1) * step, STRETCH, TOGETHER, TOKENS)
        total += tl.dot(tiles[chunk], values, input_precision="ieee")
        if IS_PAIR:
            above += tl.dot(more[chunk], values, input_precision="ieee")
    place = own[None, :] * outputs + rows[:, None]
    whole = mask[None, :] & inside[:, None]
    result, other = tl.sum(total, axis=0), tl.sum(above, axis=0)
    leave(result, other, residual, also, out, place, whole, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


def fits_stretches(weight: Tensor) -> bool:
    """Whether an input is long enough to be cut."""
    return _stretch_of(weight.shape[1]) >= LEAST_STRETCH


def _stretch_of(size: int) -> int:
    return min(STRETCH, size & -size)


def few_plain(x: Tensor, weight: Tensor, around: Around) -> Tensor:
    """See `thin_linear.reference`; for a weight that `fits_stretches`."""
    tokens, size = x.shape
    outputs = around.outputs(len(weight))
    x, out = around.before(x), x.new_empty(tokens, outputs)
    stretch = _stretch_of(size)
    together = min(NUM_WARPS, (size // stretch) & -(size // stretch))
    held = HELD_VALUES // (ROWS * (1 + around.is_pair) * together * stretch)
    grid: Any = (triton.cdiv(outputs, ROWS),)
    _kernel[grid](
        x,
        weight,
        outputs=outputs,
        tokens=tokens,
        stride=x.stride(0),
        SIZE=size,
        STRETCH=stretch,
        TOGETHER=together,
        AHEAD=max(1, held),
        TOKENS=triton.next_power_of_2(tokens),
        ROWS=ROWS,
        **around.behind(out),
        **early(around.follows or around.norm is not None),
        num_warps=NUM_WARPS,
    )
    return out
