"""Packed experts of a few tokens on the tensor cores: the two kernels of `expert_decode`, a warp a group of codes."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.group_products import (
    HELD_CODES,
    ROWS,
    add_products,
    group_meta,
    group_products,
    group_scales,
    group_tiles,
    group_values,
    largest,
    power_of,
    summed,
)
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored
from kodkod_engine.layers.packed import Slot


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
    PER: tl.constexpr,
    HALVES: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
    INTERPRETED: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    pair = tl.program_id(0)
    expert = tl.load(chosen + pair).to(tl.int64)
    if expert < num_experts:
        rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        inside = rows < WIDTH
        groups: tl.constexpr = LENGTH // PER
        own, factors = codes + expert * codes_stride, scales + expert * scales_stride
        gates = group_tiles(own, rows, inside, LENGTH, PER, TOGETHER)
        ups = group_tiles(own, rows + WIDTH, inside, LENGTH, PER, TOGETHER)
        gate_scales = group_scales(factors, rows, inside, groups, ROW_BLOCK, TOGETHER)
        up_scales = group_scales(factors, rows + WIDTH, inside, groups, ROW_BLOCK, TOGETHER)
        values = group_values(x + pair // K * SIZE, True, SIZE, PER * HALVES, TOGETHER)
        power = power_of(largest(values))
        gate = group_products(gates, gate_scales, values, power, HALVES, INTERPRETED)
        up = group_products(ups, up_scales, values, power, HALVES, INTERPRETED)
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
    AHEAD: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    PER: tl.constexpr,
    HALVES: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
    INTERPRETED: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    token = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    whole = rows < SIZE
    groups: tl.constexpr = LENGTH // PER
    most = tl.zeros([TOGETHER, PER * HALVES], dtype=tl.int32)
    for place in tl.static_range(K):
        pair = token * K + place
        # What identity experts leave in `inner` is anything.
        is_real = tl.load(chosen + pair) < num_experts
        most = tl.maximum(most, largest(group_values(inner + pair * WIDTH, is_real, WIDTH, PER * HALVES, TOGETHER)))
    power = power_of(most)
    total = tl.zeros([TOGETHER, ROWS, 1], dtype=tl.float32)
    tiles, factors, values = (), (), ()
    for place in tl.static_range(K + AHEAD):
        if place < K:
            # No branch: of identity experts nothing is loaded.
            pair = token * K + place
            expert = tl.load(chosen + pair).to(tl.int64)
            is_real = expert < num_experts
            of_expert, of_scales = codes + expert * codes_stride, scales + expert * scales_stride
            tiles = tiles + (group_tiles(of_expert, rows, whole & is_real, LENGTH, PER, TOGETHER),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
            factors = factors + (group_scales(of_scales, rows, whole & is_real, groups, ROW_BLOCK, TOGETHER),)  # type: ignore[assignment]  # noqa: RUF005  # as above
            values = values + (group_values(inner + pair * WIDTH, is_real, WIDTH, PER * HALVES, TOGETHER),)  # type: ignore[assignment]  # noqa: RUF005  # as above
        if place >= AHEAD:
            one = (tiles[place - AHEAD], factors[place - AHEAD], values[place - AHEAD])
            total = add_products(total, one[0], one[1], one[2], power, HALVES, INTERPRETED)
    result = summed(total, power, HALVES)
    own = tl.load(x + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(residual + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(identity + token) * own
    tl.store(out + token * SIZE + rows, result, mask=whole)


def start_packed_experts(x: Tensor, gate_up: Slot, chosen: Tensor, weights: Tensor, inner: Tensor) -> None:
    """See `expert_decode.start_experts`; for packed experts and inputs that `fits_groups`."""
    stored = Stored.of(gate_up)
    width = stored.outputs // 2
    grid: Any = (chosen.numel(), triton.cdiv(width, ROWS))
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
        ROWS=ROWS,
        **group_meta(stored, 2 * ROWS),
        **early(),
    )


def finish_packed_experts(
    x: Tensor, residual: Tensor, down: Slot, chosen: Tensor, identity: Tensor, inner: Tensor, out: Tensor
) -> Tensor:
    """See `expert_decode.finish_experts`; for packed experts and inputs that `fits_groups`."""
    stored, (tokens, hidden) = Stored.of(down), x.shape
    # Experts that are asked for while another is computed with; with more of them registers run short.
    ahead = min(chosen.shape[1], HELD_CODES // (ROWS * stored.codes.shape[-1]))
    grid: Any = (tokens, triton.cdiv(hidden, ROWS))
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
        AHEAD=ahead,
        ROWS=ROWS,
        **group_meta(stored, ROWS),
        **early(),
    )
    return out
