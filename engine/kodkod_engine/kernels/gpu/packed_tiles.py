"""A packed linear map of some tokens on the tensor cores: more than a kernel of single products is good for.

A program owns outputs and walks along the input a group at a time: codes become values without their scale, exactly,
meet the tokens' tile, and the product is scaled by row.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.tiles import Stored
from kodkod_engine.layers.packed import PackedMatrix

BLOCK_TOKENS = 16
BLOCK_ROWS = 16
NUM_STAGES = 6
"""Groups on their way while one is computed."""


@triton.jit
def group_products(x, codes, mask, inside, HALVES: tl.constexpr, PER: tl.constexpr):
    """One group's products, not yet scaled: fp32 [rows, tokens]. Pointers are at the group, masks along each side."""
    column = tl.arange(0, PER)
    tile = tl.load(codes + column[None, :], mask=inside[:, None], other=0.0)
    low = tl.load(x + column[:, None], mask=mask[None, :], other=0.0)
    if HALVES == 1:
        products = tl.dot(tile.to(low.dtype), low, input_precision="ieee")
    else:
        high = tl.load(x + PER + column[:, None], mask=mask[None, :], other=0.0)
        wide = tile.to(tl.int32)
        products = tl.dot(((wide << 28) >> 28).to(low.dtype), low, input_precision="ieee")
        products = tl.dot((wide >> 4).to(low.dtype), high, products, input_precision="ieee")
    return products


@triton.jit
def _kernel(
    x,
    codes,
    scales,
    residual,
    also,
    out,
    outputs,
    tokens,
    stride,
    LENGTH: tl.constexpr,
    PER: tl.constexpr,
    HALVES: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
    STAGES: tl.constexpr,
):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    own = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside, mask = rows < outputs, own < tokens
    groups: tl.constexpr = LENGTH // PER
    token = x + own[None, :] * stride
    row, other = codes + rows[:, None] * LENGTH, codes + (rows + outputs)[:, None] * LENGTH
    factors, more = scales + rows // ROW_BLOCK * groups, scales + (rows + outputs) // ROW_BLOCK * groups
    total = tl.zeros([ROWS, TOKENS], dtype=tl.float32)
    above = tl.zeros([ROWS, TOKENS], dtype=tl.float32)
    for group in tl.range(0, groups, num_stages=STAGES):
        at = token + group * (HALVES * PER)
        scale = tl.load(factors + group, mask=inside, other=0.0).to(tl.float32)
        total += group_products(at, row + group * PER, mask, inside, HALVES, PER) * scale[:, None]
        if IS_PAIR:
            scale = tl.load(more + group, mask=inside, other=0.0).to(tl.float32)
            above += group_products(at, other + group * PER, mask, inside, HALVES, PER) * scale[:, None]
    place = own[None, :] * outputs + rows[:, None]
    whole = mask[None, :] & inside[:, None]
    leave(total, above, residual, also, out, place, whole, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


def fits_tiles(weight: PackedMatrix) -> bool:
    """Whether a group is as long as the tensor cores want."""
    return Stored.of(weight).per_group >= BLOCK_TOKENS


def packed_tiles(x: Tensor, weight: PackedMatrix, around: Around) -> Tensor:
    """See `thin_linear.reference`; for a weight that `fits_tiles`."""
    stored, tokens = Stored.of(weight), len(x)
    outputs = around.outputs(stored.outputs)
    x, out = around.before(x), x.new_empty(tokens, outputs)
    meta = stored.meta()
    del meta["INNER"]
    grid: Any = (triton.cdiv(outputs, BLOCK_ROWS), triton.cdiv(tokens, BLOCK_TOKENS))
    _kernel[grid](
        x,
        stored.codes,
        stored.scales,
        outputs=outputs,
        tokens=tokens,
        stride=x.stride(0),
        **meta,
        ROWS=BLOCK_ROWS,
        TOKENS=BLOCK_TOKENS,
        **around.behind(out),
        STAGES=NUM_STAGES,
    )
    return out
