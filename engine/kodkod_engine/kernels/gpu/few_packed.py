"""A packed linear map of some tokens on the tensor cores, a warp a group of codes: every code is read and turned once.

Tokens are brought into the form that the codes meet once for all programs, by a kernel that norms them as well.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.group_products import (
    ROWS,
    TOP,
    digits,
    group_meta,
    group_scales,
    group_tiles,
    integers,
    power_of,
    scale_down,
)
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored
from kodkod_engine.layers.packed import PackedMatrix

CROWDED_TOKENS = 4
"""Above, more warps share the groups, so that each has room for the tokens' values."""


@triton.jit
def _prepare(
    x,
    norm,
    out,
    powers,
    stride,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    IS_FP8: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    token, tokens = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    own = tl.load(x + token * stride + columns, mask=inside, other=0.0)
    wide = own.to(tl.float32)
    if HAS_NORM:
        unit = wide / tl.sqrt(tl.sum(wide * wide, axis=0) / SIZE + eps)
        factors = tl.load(norm + columns, mask=inside, other=0.0).to(tl.float32)
        wide = (unit.to(own.dtype).to(tl.float32) * factors).to(own.dtype).to(tl.float32)
    power = power_of(wide.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    tl.store(powers + token, power)
    scaled = wide * (TOP / power)
    if IS_FP8:
        tl.store(out + token * SIZE + columns, scaled.to(tl.float16), mask=inside)
    else:
        high, low = digits(scaled)
        tl.store(out + token * SIZE + columns, high, mask=inside)
        tl.store(out + (tokens + token) * SIZE + columns, low, mask=inside)


@triton.jit
def _ready(x, start, tokens, SIZE: tl.constexpr, GROUP: tl.constexpr, TOGETHER: tl.constexpr, TOKENS: tl.constexpr):
    """Prepared values of all tokens and some groups: [TOGETHER, GROUP, TOKENS]."""
    place = start + tl.arange(0, TOGETHER)[:, None, None] * GROUP + tl.arange(0, GROUP)[None, :, None]
    token = tl.arange(0, TOKENS)[None, None, :]
    return tl.load(x + token * SIZE + place, mask=token < tokens, other=0.0)


@triton.jit
def _times(tile, scales, first, second, HALVES: tl.constexpr):
    """A tile's products with prepared values, scaled: fp32 [TOGETHER, rows, tokens]."""
    if tile.dtype == tl.float8e4nv:
        result = tl.dot(tile.to(tl.float16), first)
    else:
        whole = integers(tile, HALVES)
        result = (tl.dot(whole, first) * 256 + tl.dot(whole, second)).to(tl.float32)
    return result * scales.to(tl.float32)[:, :, None]


@triton.jit
def _kernel(
    x,
    powers,
    codes,
    scales,
    residual,
    also,
    out,
    outputs,
    tokens,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    PER: tl.constexpr,
    HALVES: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
    EARLY: tl.constexpr,
):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    own = tl.arange(0, TOKENS)
    inside, mask = rows < outputs, own < tokens
    groups: tl.constexpr = LENGTH // PER
    step: tl.constexpr = TOGETHER * PER * HALVES
    tiles = group_tiles(codes, rows, inside, LENGTH, PER, TOGETHER)
    factors = group_scales(scales, rows, inside, groups, ROW_BLOCK, TOGETHER)
    more, more_factors = tiles, factors
    if IS_PAIR:
        more = group_tiles(codes, rows + outputs, inside, LENGTH, PER, TOGETHER)
        more_factors = group_scales(scales, rows + outputs, inside, groups, ROW_BLOCK, TOGETHER)
    if EARLY:
        tl.debug_barrier()  # or the compiler puts the loads above behind the wait
    inputs_are_there(EARLY)
    second = x + tokens * SIZE if tiles[0].dtype == tl.int8 else x
    total = tl.zeros([TOGETHER, ROWS, TOKENS], dtype=tl.float32)
    above = tl.zeros([TOGETHER, ROWS, TOKENS], dtype=tl.float32)
    next_high = _ready(x, 0, tokens, SIZE, PER * HALVES, TOGETHER, TOKENS)
    next_low = _ready(second, 0, tokens, SIZE, PER * HALVES, TOGETHER, TOKENS)
    for chunk in tl.static_range(0, len(tiles)):
        high, low = next_high, next_low
        if chunk + 1 < len(tiles):
            # Asked for before this chunk's products wait for one another.
            next_high = _ready(x, (chunk + 1) * step, tokens, SIZE, PER * HALVES, TOGETHER, TOKENS)
            next_low = _ready(second, (chunk + 1) * step, tokens, SIZE, PER * HALVES, TOGETHER, TOKENS)
        total += _times(tiles[chunk], factors[chunk], high, low, HALVES)
        if IS_PAIR:
            above += _times(more[chunk], more_factors[chunk], high, low, HALVES)
    factor = scale_down(tl.load(powers + own, mask=mask, other=0.0), HALVES)[None, :]
    place = own[None, :] * outputs + rows[:, None]
    whole = mask[None, :] & inside[:, None]
    result, other = tl.sum(total, axis=0) * factor, tl.sum(above, axis=0) * factor
    leave(result, other, residual, also, out, place, whole, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


def few_packed(x: Tensor, weight: PackedMatrix, around: Around) -> Tensor:
    """See `thin_linear.reference`; for a weight and an input that `fits_groups`."""
    stored, tokens = Stored.of(weight), len(x)
    outputs = around.outputs(stored.outputs)
    out = x.new_empty(tokens, outputs)
    ready, powers = prepared(x, weight, around)
    held = ROWS * (1 + around.is_pair) * (1 + (tokens > CROWDED_TOKENS))
    grid: Any = (triton.cdiv(outputs, ROWS),)
    _kernel[grid](
        ready,
        powers,
        stored.codes,
        stored.scales,
        outputs=outputs,
        tokens=tokens,
        SIZE=stored.size,
        TOKENS=triton.next_power_of_2(tokens),
        ROWS=ROWS,
        **group_meta(stored, held),
        **around.behind(out),
        **early(),
    )
    return out


def prepared(x: Tensor, weight: PackedMatrix, around: Around) -> tuple[Tensor, Tensor]:
    """Tokens as the codes meet them, normed before where there is a norm.

    Returns:
        Of FP8 codes fp16 [tokens, in], else int8 [2, tokens, in], the higher digits and the lower ones; and fp32
        [tokens], what they were scaled by.
    """
    tokens, size = x.shape
    is_fp8 = weight.is_fp8
    shape, dtype = ((tokens, size), torch.float16) if is_fp8 else ((2, tokens, size), torch.int8)
    ready, powers = x.new_empty(shape, dtype=dtype), x.new_empty(tokens, dtype=torch.float32)
    sizes = {"SIZE": size, "BLOCK": triton.next_power_of_2(size)}
    given = x, x if around.norm is None else around.norm, ready, powers, x.stride(0), around.eps
    grid: Any = (tokens,)
    how = {"HAS_NORM": around.norm is not None, "IS_FP8": is_fp8, **early(around.follows)}
    _prepare[grid](*given, **sizes, **how, num_warps=8)
    return ready, powers
