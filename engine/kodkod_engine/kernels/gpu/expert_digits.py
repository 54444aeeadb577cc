"""The kernels of `expert_decode` for packed experts, by four-way integer products or by halves (`digit_products`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.digit_products import (
    digit_meta,
    digit_scale,
    digits_of,
    held_rows,
    largest,
    part_scales,
    parts_of,
    times_digits,
    values_of,
    words_of,
)
from kodkod_engine.kernels.gpu.group_products import power_of
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import Stored
from kodkod_engine.layers.packed import PackedMatrix

ASKED_BYTES, ASKED_FP8_BYTES = 32 * 1024, 24 * 1024
"""Of experts, that a program of the second kernel asks for together at most; of more in FP8 registers run short."""


@triton.jit
def _gate_up(
    x,
    words,
    scales,
    chosen,
    weights,
    inner,
    num_experts,
    words_stride,
    scales_stride,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_PARTS: tl.constexpr,
    PARTS: tl.constexpr,
    HALVES: tl.constexpr,
    IS_FP8: tl.constexpr,
    PER: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    pair = tl.program_id(0)
    expert = tl.load(chosen + pair).to(tl.int64)
    if expert < num_experts:
        rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        gate = tl.minimum(rows, WIDTH - 1)
        up = gate + WIDTH
        values = values_of(x + pair // K * SIZE, None, ALL_PARTS, PARTS, HALVES, PER)
        own, factors = words + expert * words_stride, scales + expert * scales_stride
        gates = parts_of(own, gate, None, ALL_PARTS, PARTS)
        ups = parts_of(own, up, None, ALL_PARTS, PARTS)
        gate_scales = part_scales(factors, gate, None, ALL_PARTS, PARTS, PER, ROW_BLOCK)
        up_scales = part_scales(factors, up, None, ALL_PARTS, PARTS, PER, ROW_BLOCK)
        tl.debug_barrier()  # or the compiler asks for them when the digits are there
        power = power_of(largest(values))
        digits = digits_of(values, power, IS_FP8)
        factor = digit_scale(power, HALVES, IS_FP8)
        result = tl.sum(times_digits(gates, gate_scales, digits, HALVES, IS_FP8), axis=0) * factor
        above = tl.sum(times_digits(ups, up_scales, digits, HALVES, IS_FP8), axis=0) * factor
        result = result / (1.0 + tl.exp(-result)) * above * tl.load(weights + pair)
        tl.store(inner + pair * WIDTH + rows, result, mask=rows < WIDTH)


@triton.jit
def _down(
    x,
    residual,
    words,
    scales,
    chosen,
    identity,
    inner,
    out,
    num_experts,
    words_stride,
    scales_stride,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_PARTS: tl.constexpr,
    PARTS: tl.constexpr,
    HALVES: tl.constexpr,
    IS_FP8: tl.constexpr,
    PER: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    AT_ONCE: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    token = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    own = tl.minimum(rows, SIZE - 1)
    # Of identity experts nothing is read: what they leave in `inner` is anything.
    most = tl.zeros([PARTS, 4 * HALVES, 4], dtype=tl.int32)
    for place in tl.static_range(K):
        pair = token * K + place
        is_real = tl.load(chosen + pair) < num_experts
        most = tl.maximum(most, largest(values_of(inner + pair * WIDTH, is_real, ALL_PARTS, PARTS, HALVES, PER)))
    power = power_of(most)
    total = tl.zeros([PARTS, ROWS], dtype=tl.float32)
    for start in tl.static_range(0, K, AT_ONCE):
        asked = ()
        for place in tl.static_range(start, start + AT_ONCE):
            pair = token * K + place
            expert = tl.load(chosen + pair).to(tl.int64)
            is_real = expert < num_experts
            values = values_of(inner + pair * WIDTH, is_real, ALL_PARTS, PARTS, HALVES, PER)
            tiles = parts_of(words + expert * words_stride, own, is_real, ALL_PARTS, PARTS)
            factors = scales + expert * scales_stride
            factors = part_scales(factors, own, is_real, ALL_PARTS, PARTS, PER, ROW_BLOCK)
            asked = asked + ((tiles, factors, values),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
        tl.debug_barrier()  # or the compiler asks for each when the one before was used
        for index in tl.static_range(AT_ONCE):
            tiles, factors, values = asked[index]
            total += times_digits(tiles, factors, digits_of(values, power, IS_FP8), HALVES, IS_FP8)
    result = tl.sum(total, axis=0) * digit_scale(power, HALVES, IS_FP8)
    whole = rows < SIZE
    mine = tl.load(x + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(residual + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(identity + token) * mine
    tl.store(out + token * SIZE + rows, result, mask=whole)


@dataclass(frozen=True, slots=True)
class StartByDigits:
    """`expert_decode.start_experts`, for experts and an input that `fits_parts`."""

    held_kib: int
    """Of codes in a program, at most."""

    def __call__(self, x: Tensor, gate_up: PackedMatrix, chosen: Tensor, weights: Tensor, inner: Tensor) -> Tensor:
        """See there; `inner`."""
        stored = Stored.of(gate_up)
        width, rows = stored.outputs // 2, max(1, held_rows(stored, self.held_kib) // 2)
        grid: Any = (chosen.numel(), triton.cdiv(width, rows))
        _gate_up[grid](
            x,
            words_of(stored),
            stored.scales,
            chosen,
            weights,
            inner,
            len(stored.codes),
            stored.stack_strides[0] // 4,
            stored.stack_strides[1],
            SIZE=stored.size,
            WIDTH=width,
            K=chosen.shape[1],
            ROWS=rows,
            IS_FP8=gate_up.is_fp8,
            **digit_meta(stored),
            **early(),
        )
        return inner


@dataclass(frozen=True, slots=True)
class FinishByDigits:
    """`expert_decode.finish_experts`, for experts and inner values that `fits_parts`."""

    rows: int
    """Outputs of a program."""

    def __call__(
        self,
        x: Tensor,
        residual: Tensor,
        down: PackedMatrix,
        chosen: Tensor,
        identity: Tensor,
        inner: Tensor,
        out: Tensor,
    ) -> Tensor:
        """See there; all of a token's experts meet digits of one scale."""
        stored, (tokens, hidden), k = Stored.of(down), x.shape, chosen.shape[1]
        asked, most = self.rows * stored.row_bytes, ASKED_FP8_BYTES if down.is_fp8 else ASKED_BYTES
        at_once = max(count for count in range(1, k + 1) if k % count == 0 and count * asked <= max(most, asked))
        grid: Any = (tokens, triton.cdiv(hidden, self.rows))
        _down[grid](
            x,
            residual,
            words_of(stored),
            stored.scales,
            chosen,
            identity,
            inner,
            out,
            len(stored.codes),
            stored.stack_strides[0] // 4,
            stored.stack_strides[1],
            SIZE=hidden,
            WIDTH=stored.size,
            K=k,
            ROWS=self.rows,
            AT_ONCE=at_once,
            IS_FP8=down.is_fp8,
            **digit_meta(stored),
            **early(),
        )
        return out


START_BY_DIGITS = (StartByDigits(32), StartByDigits(64))

FINISH_BY_DIGITS = (FinishByDigits(8), FinishByDigits(16))
