"""A packed linear map of some tokens on the tensor cores, along the input in a loop that loads ahead of its products.

`few_packed` asks for all of a program's codes before the first product and holds them in registers, so few programs fit
side by side and each reads all tokens for sixteen outputs. Here codes and tokens wait in shared memory: a program has
room for more outputs, which read the tokens together, and memory stays busy while it multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.around import Around, leave
from kodkod_engine.kernels.gpu.few_packed import prepared
from kodkod_engine.kernels.gpu.group_products import LEAST_PRODUCT, fits_groups, scale_down, sixteenfold
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored
from kodkod_engine.layers.packed import PackedMatrix

# One group at a time is multiplied by all warps, in tiles of two dimensions; several by a warp each, in tiles of three,
# groups first.


@triton.jit
def _code_places(rows, LENGTH: tl.constexpr, PER: tl.constexpr, TOGETHER: tl.constexpr):
    """Of the first groups of some rows: [rows, PER] or [TOGETHER, rows, PER]."""
    column = tl.arange(0, PER)
    if TOGETHER == 1:
        places = rows[:, None] * LENGTH + column[None, :]
    else:
        group = tl.arange(0, TOGETHER) * PER
        places = rows[None, :, None] * LENGTH + group[:, None, None] + column[None, None, :]
    return places


@triton.jit
def _scale_places(blocks, GROUPS: tl.constexpr, TOGETHER: tl.constexpr):
    """Of the same groups' scales: [rows] or [TOGETHER, rows]."""
    places = blocks * GROUPS
    if TOGETHER > 1:
        places = places[None, :] + tl.arange(0, TOGETHER)[:, None]
    return places


@triton.jit
def _token_places(tokens, SIZE: tl.constexpr, PER: tl.constexpr, HALVES: tl.constexpr, TOGETHER: tl.constexpr):
    """Of the values that meet the codes, or their first halves: [PER, tokens] or [TOGETHER, PER, tokens]."""
    value = tl.arange(0, PER)
    if TOGETHER == 1:
        places = tokens[None, :] * SIZE + value[:, None]
    else:
        group = tl.arange(0, TOGETHER) * (PER * HALVES)
        places = tokens[None, None, :] * SIZE + group[:, None, None] + value[None, :, None]
    return places


@triton.jit
def _products(tile, x, lower, PER: tl.constexpr, HALVES: tl.constexpr):
    """Groups of codes times prepared tokens, not yet scaled: fp32. `lower` is how far behind the higher digits, in `x`,
    the lower ones are."""
    if tile.dtype == tl.float8e4nv:
        result = tl.dot(tile.to(tl.float16), tl.load(x))
    elif HALVES == 1:
        result = (tl.dot(tile, tl.load(x)) * 256 + tl.dot(tile, tl.load(x + lower))).to(tl.float32)
    else:
        first, second = sixteenfold(tile)
        high = tl.dot(second, tl.load(x + PER), tl.dot(first, tl.load(x)), out_dtype=tl.int32)
        low = tl.dot(second, tl.load(x + lower + PER), tl.dot(first, tl.load(x + lower)), out_dtype=tl.int32)
        result = (high * 256 + low).to(tl.float32)
    return result


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
    STAGES: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
    EARLY: tl.constexpr,
):
    groups: tl.constexpr = LENGTH // PER
    held: tl.constexpr = ROWS * 2 if IS_PAIR else ROWS
    # Rows and tokens beyond the last are the last: cheaper than masks. Of a pair gates and ups are one tile.
    own, token = tl.arange(0, held), tl.arange(0, TOKENS)
    row = tl.minimum(tl.program_id(0) * ROWS + own % ROWS, outputs - 1).to(tl.int64) + own // ROWS * outputs
    at = codes + _code_places(row, LENGTH, PER, TOGETHER)
    at_scale = scales + _scale_places(row // ROW_BLOCK, groups, TOGETHER)
    next_scale = tl.load(at_scale)
    inputs_are_there(EARLY)
    values = x + _token_places(tl.minimum(token, tokens - 1), SIZE, PER, HALVES, TOGETHER)
    if TOGETHER == 1:
        total = tl.zeros([held, TOKENS], dtype=tl.float32)
    else:
        total = tl.zeros([TOGETHER, held, TOKENS], dtype=tl.float32)
    for group in tl.range(0, groups, TOGETHER, num_stages=STAGES):
        # The loop loads ahead what is multiplied on the tensor cores, and nothing else.
        scale = next_scale
        next_scale = tl.load(at_scale + tl.minimum(group + TOGETHER, groups - TOGETHER))
        tile = tl.load(at + group * PER)
        product = _products(tile, values + group * (PER * HALVES), tokens * SIZE, PER, HALVES)
        total += product * tl.expand_dims(scale.to(tl.float32), -1)
    if TOGETHER > 1:
        total = tl.sum(total, axis=0)
    inside = token < tokens
    total *= scale_down(tl.load(powers + token, mask=inside, other=0.0), HALVES)[None, :]
    above = total
    if IS_PAIR:
        total, above = tl.split(tl.permute(tl.reshape(total, (2, ROWS, TOKENS)), (1, 2, 0)))
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place, whole = token[None, :] * outputs + rows[:, None], inside[None, :] & (rows < outputs)[:, None]
    leave(total, above, residual, also, out, place, whole, HAS_RESIDUAL, HAS_MORE, IS_PAIR)


def fits_walks(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether a packed matrix and inputs of this dtype are some for `Walk`."""
    return fits_groups(stored, dtype) and stored.per_group >= LEAST_PRODUCT


@dataclass(frozen=True, slots=True)
class Walk:
    """`thin_linear` of some tokens, for a weight and an input that `fits_walks`."""

    rows: int
    """Of the matrix in a program: more of them read the tokens together, fewer leave programs enough for a device."""
    together: int
    """Groups at a time, at most."""
    stages: int
    """Times as many are on their way or being multiplied."""

    def __call__(self, x: Tensor, weight: PackedMatrix, around: Around) -> Tensor:
        """See `thin_linear.reference`."""
        stored, tokens = Stored.of(weight), len(x)
        outputs = around.outputs(stored.outputs)
        out = x.new_empty(tokens, outputs)
        ready, powers = prepared(x, weight, around)
        length, rows = stored.codes.shape[-1], self.rows >> around.is_pair
        grid: Any = (triton.cdiv(outputs, rows),)
        _kernel[grid](
            ready,
            powers,
            stored.codes,
            stored.scales,
            outputs=outputs,
            tokens=tokens,
            SIZE=stored.size,
            TOKENS=triton.next_power_of_2(tokens),
            ROWS=rows,
            LENGTH=length,
            PER=stored.per_group,
            HALVES=stored.halves,
            ROW_BLOCK=stored.row_block,
            TOGETHER=self.at_once(length // stored.per_group),
            STAGES=self.stages,
            **around.behind(out),
            **early(),
        )
        return out

    def at_once(self, groups: int) -> int:
        """Of so many, a power of two that divides them."""
        return min(self.together, groups & -groups)


WALKS = (Walk(64, 1, 6), Walk(32, 4, 3), Walk(16, 4, 4))
"""That a device may find quicker. Hopper's products of a group of warps have 64 rows; of few outputs, programs of fewer
rows are some for every processor."""
