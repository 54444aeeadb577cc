"""The experts of a few tokens as two output-centric kernels: every program owns outputs and streams what they need.

The first makes weight * silu(gate) * up of each pair of token and expert, the second the down projection, the sum over
experts, the identity experts' term and the residual. Router ids are read as they are: nothing is sorted, padded or
aligned. Pairs are the fastest dimension of the grid, so what several tokens chose is read from the cache. Packed
experts may lie in pinned host memory: then it is the bus that brings them, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.digit_products import fits_parts
from kodkod_engine.kernels.gpu.expert_digits import FINISH_BY_DIGITS, START_BY_DIGITS
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored, part, row_of, scales_of, tiles_of, times
from kodkod_engine.kernels.gpu.tuning import Way, tuner_of
from kodkod_engine.layers.packed import PackedMatrix, Slot

Start: TypeAlias = "Callable[[Tensor, Any, Tensor, Tensor, Tensor], Tensor]"
"""A kernel that computes `start_experts`, and returns `inner`."""

Finish: TypeAlias = "Callable[[Tensor, Tensor, Any, Tensor, Tensor, Tensor, Tensor], Tensor]"
"""One that computes `finish_experts`."""

DOWN_ROWS = 4
"""Outputs of a program of the second kernel; it reads them of all a token's experts."""


def reference(
    x: Tensor, residual: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor, identity: Tensor
) -> Tensor:
    """residual + identity * x + the weighted sum of the real experts.

    Args:
        x: [tokens, hidden].
        residual: fp32 or x's dtype, [tokens, hidden].
        gate_up: [experts, 2 * width, hidden].
        down: [experts, hidden, width].
        chosen: int32 [tokens, k]; ids from `experts` on are identity experts and skipped here.
        weights: fp32 [tokens, k].
        identity: fp32 [tokens]: the identity experts' weights, summed.

    Returns:
        [tokens, hidden], residual's dtype; summed in fp32.
    """
    out = residual.float() + identity[:, None] * x.float()
    for token in range(len(x)):
        for expert, weight in zip(chosen[token].tolist(), weights[token].tolist(), strict=True):
            if expert < len(down):
                gate, up = (gate_up[expert].float() @ x[token].float()).chunk(2)
                inner = (weight * F.silu(gate) * up).to(x.dtype).float()
                out[token] += down[expert].float() @ inner
    return out.to(residual.dtype)


@triton.jit
def _gate_up(
    x,
    codes,
    scales,
    chosen,
    weights,
    inner,
    num_experts,
    codes_stride,
    scales_stride,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    INNER: tl.constexpr,
    HALVES: tl.constexpr,
    PER: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    pair = tl.program_id(0)
    expert = tl.load(chosen + pair).to(tl.int64)
    if expert < num_experts:
        rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        inside = rows < WIDTH
        own, factors = codes + expert * codes_stride, scales + expert * scales_stride
        gates = tiles_of(own, rows, inside, LENGTH, INNER)
        ups = tiles_of(own, rows + WIDTH, inside, LENGTH, INNER)
        gate_scales = scales_of(factors, rows, inside, LENGTH, INNER, PER, ROW_BLOCK)
        up_scales = scales_of(factors, rows + WIDTH, inside, LENGTH, INNER, PER, ROW_BLOCK)
        values = row_of(x + pair // K * SIZE, LENGTH, INNER, HALVES, PER)
        gate = times(gates, gate_scales, values, HALVES, PER)
        up = times(ups, up_scales, values, HALVES, PER)
        result = gate / (1.0 + tl.exp(-gate)) * up * tl.load(weights + pair)
        tl.store(inner + pair * WIDTH + rows, result, mask=inside)


@triton.jit
def _down(
    x,
    residual,
    codes,
    scales,
    chosen,
    identity,
    inner,
    out,
    num_experts,
    codes_stride,
    scales_stride,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    INNER: tl.constexpr,
    HALVES: tl.constexpr,
    PER: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    token = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns: tl.constexpr = INNER // PER if PER > 0 else INNER
    total = tl.zeros([ROWS, columns], dtype=tl.float32)
    for place in tl.static_range(K):
        # No branch: of identity experts nothing is loaded, and the loads of all others are on their way together.
        pair = token * K + place
        expert = tl.load(chosen + pair).to(tl.int64)
        inside = (rows < SIZE) & (expert < num_experts)
        tiles = tiles_of(codes + expert * codes_stride, rows, inside, LENGTH, INNER)
        factors = scales_of(scales + expert * scales_stride, rows, inside, LENGTH, INNER, PER, ROW_BLOCK)
        values = row_of(inner + pair * WIDTH, LENGTH, INNER, HALVES, PER)
        for chunk in tl.static_range(len(tiles)):
            low, high = values[chunk], values[len(tiles) * (HALVES - 1) + chunk]
            scale = factors[chunk] if PER > 0 else tiles[chunk]
            product = part(tiles[chunk], scale, low, high, HALVES, PER)
            # What identity experts leave in `inner` is anything.
            total += tl.where(expert < num_experts, product, 0.0)
    result = tl.sum(total, axis=1)
    whole = rows < SIZE
    own = tl.load(x + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(residual + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(identity + token) * own
    tl.store(out + token * SIZE + rows, result, mask=whole)


def expert_decode(
    x: Tensor,
    residual: Tensor,
    gate_up: Slot,
    down: Slot,
    chosen: Tensor,
    weights: Tensor,
    identity: Tensor,
    inner: Tensor,
    out: Tensor,
) -> Tensor:
    """See `reference`; experts plain or packed, all else contiguous, `inner` scratch [tokens * k, width], result in
    `out`."""
    start_experts(x, gate_up, chosen, weights, inner)
    return finish_experts(x, residual, down, chosen, identity, inner, out)


def start_experts(x: Tensor, gate_up: Slot, chosen: Tensor, weights: Tensor, inner: Tensor) -> None:
    """weight * silu(gate) * up of each pair of token and real expert, into `inner` [tokens * k, width]; in the way that
    the device finds quickest."""
    given, ways = (x, gate_up, chosen, weights), ways_to_start(x, gate_up)

    def run(way: Start) -> Tensor:
        # Where identity experts leave nothing, all ways leave zeros.
        return way(*given, torch.zeros_like(inner[: chosen.numel()]))

    _quickest("start", x, gate_up, chosen, ways, run)(*given, inner)


def ways_to_start(x: Tensor, gate_up: Slot) -> list[Start]:
    """Kernels for experts and tokens like these; the first serves all."""
    return [start_one_by_one, *(START_BY_DIGITS if fits_parts(Stored.of(gate_up), x.dtype) else ())]


def start_one_by_one(x: Tensor, gate_up: Slot, chosen: Tensor, weights: Tensor, inner: Tensor) -> Tensor:
    """`start_experts` by single products, of plain and packed experts; `inner`."""
    stored = Stored.of(gate_up)
    width, rows = stored.outputs // 2, max(1, stored.tile_rows // 2)
    grid: Any = (chosen.numel(), triton.cdiv(width, rows))
    _gate_up[grid](
        x,
        stored.codes,
        stored.scales,
        chosen,
        weights,
        inner,
        len(stored.codes),
        *stored.stack_strides,
        SIZE=stored.size,
        WIDTH=width,
        K=chosen.shape[1],
        ROWS=rows,
        **stored.meta(),
        **early(),
    )
    return inner


def finish_experts(
    x: Tensor, residual: Tensor, down: Slot, chosen: Tensor, identity: Tensor, inner: Tensor, out: Tensor
) -> Tensor:
    """The rest, into `out`, which may be the residual; in the way that the device finds quickest."""
    given = (x, residual, down, chosen, identity, inner)
    ways = ways_to_finish(x, down)
    way = _quickest("finish", x, down, chosen, ways, lambda way: way(*given, torch.empty_like(out)))
    return way(*given, out)


def ways_to_finish(x: Tensor, down: Slot) -> list[Finish]:
    """Kernels for experts and tokens like these; the first serves all."""
    by_digits = FINISH_BY_DIGITS if fits_parts(Stored.of(down), x.dtype) else ()
    return [finish_one_by_one, *by_digits]


def _quickest(
    name: str, x: Tensor, experts: Slot, chosen: Tensor, ways: list[Way], run: Callable[[Way], Tensor]
) -> Way:
    if len(ways) == 1:
        return ways[0]
    codes = experts.codes if isinstance(experts, PackedMatrix) else experts
    about = triton.next_power_of_2(len(chosen))
    key = (name, about, chosen.shape[1], x.dtype, experts.shape, codes.dtype, codes.device.type)
    return tuner_of(x.device).quickest(key, ways, run)


def finish_one_by_one(
    x: Tensor, residual: Tensor, down: Slot, chosen: Tensor, identity: Tensor, inner: Tensor, out: Tensor
) -> Tensor:
    """`finish_experts` by single products, of plain and packed experts."""
    stored, (tokens, hidden) = Stored.of(down), x.shape
    grid: Any = (tokens, triton.cdiv(hidden, DOWN_ROWS))
    _down[grid](
        x,
        residual,
        stored.codes,
        stored.scales,
        chosen,
        identity,
        inner,
        out,
        len(stored.codes),
        *stored.stack_strides,
        SIZE=hidden,
        WIDTH=stored.size,
        K=chosen.shape[1],
        ROWS=DOWN_ROWS,
        **stored.meta(),
        **early(),
    )
    return out


def scratch(max_tokens: int, k: int, width: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What `expert_decode` wants as `inner`; `dtype` of the hidden states."""
    # Numbers from the first, for what identity experts leave there is multiplied before it is dropped.
    return torch.zeros(max_tokens * k, width, dtype=dtype, device=device)
