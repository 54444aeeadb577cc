"""FP8 codes times a token as halves, two at a time, where `digit_products` multiplies integers four at a time.

Codes become halves exactly, two an instruction, and the token does, scaled by a power of two. Four products are summed
up as a half before they become fp32; that rounds each by a part in 2,048 at most, and the whole by less than rounding
to bf16 does.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kodkod_engine.kernels.gpu.tiles import INTERPRETED

HALF_TOP = tl.constexpr(8.0)
"""What the largest value of a token is scaled to at least; it stays below twice as much, and four products with
codes of at most 448 below the largest half."""


@triton.jit
def half_words(values, power):
    """A tile of a token, [PARTS, words, 4 values], as words of two halves [PARTS, 2 * words]."""
    scaled = (values.to(tl.float32) * (HALF_TOP / power)).to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    side = tl.arange(0, 2)[None, None, :] * 16
    return tl.sum(tl.reshape(scaled & 0xFFFF, (scaled.shape[0], 2 * scaled.shape[1], 2)) << side, axis=2)


@triton.jit
def half_product(words, halves):
    """Products of parts, four words of codes [PARTS, rows] each, and eight words of halves: fp32."""
    nothing = tl.zeros(words[0].shape, dtype=tl.int32)
    product = tl.zeros(words[0].shape, dtype=tl.float32)
    for index in tl.static_range(0, 4, 2):
        total = _add(words[index], halves[2 * index], halves[2 * index + 1], nothing)
        total = _add(words[index + 1], halves[2 * index + 2], halves[2 * index + 3], total)
        product += _half(total, 0).to(tl.float32) + _half(total, 1).to(tl.float32)
    return product


@triton.jit
def _half(word, INDEX: tl.constexpr):
    """One of a word's two."""
    return (word >> 16 * INDEX).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _fma(word, INDEX: tl.constexpr, half, total):
    """One of a word's four codes times a half, added to a half; what the interpreter does for `fma`."""
    code = (word >> 8 * INDEX).to(tl.int8).to(tl.float8e4nv, bitcast=True)
    return (code.to(tl.float32) * half.to(tl.float32) + total.to(tl.float32)).to(tl.float16)


@triton.jit
def _add(word, first, second, total):
    """Four codes times four halves, added to two halves."""
    if INTERPRETED:
        low = _fma(word, 2, _half(second, 0), _fma(word, 0, _half(first, 0), _half(total, 0)))
        high = _fma(word, 3, _half(second, 1), _fma(word, 1, _half(first, 1), _half(total, 1)))
        return low.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF | high.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return tl.inline_asm_elementwise(
        """{
            .reg .b16 low, high;
            .reg .b32 codes, sum;
            mov.b32 {low, high}, $1;
            cvt.rn.f16x2.e4m3x2 codes, low;
            fma.rn.f16x2 sum, codes, $2, $4;
            cvt.rn.f16x2.e4m3x2 codes, high;
            fma.rn.f16x2 $0, codes, $3, sum;
        }""",
        "=r,r,r,r,r",
        [word, first, second, total],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )
