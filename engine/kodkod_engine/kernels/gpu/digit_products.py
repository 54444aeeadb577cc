"""Packed integers times one token by four-way integer products (`dp4a`): two instructions a value or so.

Codes that are turned into numbers one by one cost five to eight.

Four codes lie in a word as the product takes them: of 8 bits as they are, of 4 bits behind a mask, sixteen times as
large. The token becomes two digits of 8 bits a value, a signed and an unsigned one, four values a word: scaled as in
`group_products`, and right to as much. Every program works them out for itself, so the more rows it owns, the less they
cost; of several tokens they are made once for all programs (`few_packed.prepared`), both of them signed. A part of a
row is 16 bytes, what a thread asks for at once; its products are summed as integers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kodkod_engine.kernels.gpu.group_products import TOP, scale_down
from kodkod_engine.kernels.gpu.half_products import HALF_TOP, half_product, half_words
from kodkod_engine.kernels.gpu.tiles import INTERPRETED, Stored

PART = tl.constexpr(16)
"""Bytes."""

LEAST_PARTS = 16
"""Of a tile, with which it need not cover a whole row; two rows are then side by side in a warp."""

WARP_PARTS = 32

HELD_TILES = 8
"""Of a row's digits in a thread, eight words each; of longer rows more threads share them, and the sum of a row."""

ROUNDING = tl.constexpr(12_582_912.0)
"""1.5 * 2 ** 23: added to a number of less than 2 ** 15 it leaves the nearest integer in the lowest 16 bits."""

HIGHER_HALVES = tl.constexpr(-252_645_136)
"""0xF0F0F0F0"""

EVEN_BYTES = tl.constexpr(0x00FF00FF)


def fits_parts(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether a packed matrix and inputs of this dtype are some for products of parts: by digits, of FP8 by halves."""
    is_short = dtype.itemsize == 2  # two digits are as good as such a number, not as fp32
    return is_short and stored.per_group >= PART.value and LEAST_PARTS * PART.value % stored.per_group == 0


def fits_digits(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether they are some for digits."""
    return fits_parts(stored, dtype) and stored.codes.dtype == torch.int8


def words_of(stored: Stored) -> torch.Tensor:
    """The codes of a matrix of `fits_digits`, four bytes at a time."""
    return stored.codes.view(torch.int32)


def held_rows(stored: Stored, held_kib: int) -> int:
    """The power of two of rows whose codes are at most so many KiB, at least one."""
    return 1 << max(1, held_kib * 1024 // stored.row_bytes).bit_length() - 1


def digit_meta(stored: Stored) -> dict[str, Any]:
    """What a kernel over such a matrix is compiled for."""
    parts = stored.row_bytes // PART.value
    return {
        "ALL_PARTS": parts,
        "PARTS": _tile_parts(parts, stored.halves),
        "HALVES": stored.halves,
        "PER": stored.per_group // PART.value,
        "ROW_BLOCK": stored.row_block,
    }


def _tile_parts(parts: int, halves: int) -> int:
    """A power of two that divides the row, or one that covers it with a masked end."""
    divisor = parts & -parts
    if divisor < LEAST_PARTS:
        return int(triton.next_power_of_2(parts))
    wanted = WARP_PARTS
    while parts * halves > HELD_TILES * wanted:
        wanted *= 2
    return min(divisor, wanted)


# Parts are the first dimension: of dimensions without neighbours in memory the compiler gives that one to a warp.


@triton.jit
def _asked(at, part, is_there, ALL_PARTS: tl.constexpr, PARTS: tl.constexpr):
    """What lies at some parts of a row; 0 behind its end, and of all of them unless `is_there`, which may be None."""
    if is_there is not None:
        tile = tl.load(at, mask=(part < ALL_PARTS) & is_there, other=0)
    elif ALL_PARTS % PARTS != 0:
        tile = tl.load(at, mask=part < ALL_PARTS, other=0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def parts_of(words, rows, is_there, ALL_PARTS: tl.constexpr, PARTS: tl.constexpr):
    """Rows of a matrix of less than 8 GiB as tiles of words [PARTS, rows, 4]; see `_asked`."""
    part, word = tl.arange(0, PARTS)[:, None, None], tl.arange(0, 4)[None, None, :]
    own = words + rows[None, :, None] * (ALL_PARTS * 4) + part * 4 + word
    tiles = ()
    for start in tl.static_range(0, ALL_PARTS, PARTS):
        tile = _asked(own + start * 4, start + part, is_there, ALL_PARTS, PARTS)
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def part_scales(
    scales, rows, is_there, ALL_PARTS: tl.constexpr, PARTS: tl.constexpr, PER: tl.constexpr, ROW_BLOCK: tl.constexpr
):
    """The scales of `parts_of`, [PARTS, rows] each."""
    part = tl.arange(0, PARTS)[:, None]
    own = scales + (rows // ROW_BLOCK)[None, :] * (ALL_PARTS // PER) + part // PER
    tiles = ()
    for start in tl.static_range(0, ALL_PARTS, PARTS):
        tile = _asked(own + start // PER, start + part, is_there, ALL_PARTS, PARTS)
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def values_of(x, is_there, ALL_PARTS: tl.constexpr, PARTS: tl.constexpr, HALVES: tl.constexpr, PER: tl.constexpr):
    """A row of an input as it meets `parts_of`: tiles [PARTS, words, 4 values]; four words meet the codes, or their
    first halves, and four more the second ones."""
    part, word = tl.arange(0, PARTS)[:, None, None], tl.arange(0, 4 * HALVES)[None, :, None]
    group_part = (part // PER * HALVES + word // 4) * PER + part % PER
    own = x + group_part * 16 + word % 4 * 4 + tl.arange(0, 4)[None, None, :]
    tiles = ()
    for start in tl.static_range(0, ALL_PARTS, PARTS):
        tile = _asked(own + start * 16 * HALVES, start + part, is_there, ALL_PARTS, PARTS)
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def largest(values):
    """The largest magnitudes of a row's tiles, [PARTS, words, 4], by their bits; for `power_of`."""
    most = tl.zeros(values[0].shape, dtype=tl.int32)
    for index in tl.static_range(len(values)):
        most = tl.maximum(most, values[index].to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    return most


@triton.jit
def digits_of(values, power, IS_FP8: tl.constexpr = False):
    """The tiles of a row as words of four digits [PARTS, words]: all signed ones, times 256, then all unsigned ones;
    for FP8 codes `half_words`."""
    first, behind = (), ()
    for index in tl.static_range(len(values)):
        if IS_FP8:
            first = first + (half_words(values[index], power),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
        else:
            high, low = _digit_pair(values[index], power)
            first = first + (high,)  # type: ignore[assignment]  # noqa: RUF005  # as above
            behind = behind + (low,)  # type: ignore[assignment]  # noqa: RUF005  # as above
    return first + behind


@triton.jit
def _digit_pair(values, power):
    side = tl.arange(0, 2)[None, None, :]
    bits = (values.to(tl.float32) * (TOP / power) + ROUNDING).to(tl.int32, bitcast=True)
    # The first and the third of four values in one word, the others in another. By sums, for through `tl.split` the
    # compiler would have every warp work all this out.
    pairs = tl.reshape(bits & 0xFFFF, (bits.shape[0], bits.shape[1], 2, 2)) << side[:, :, :, None] * 16
    pairs = tl.sum(pairs, axis=2)
    high = tl.sum((pairs >> 8 & EVEN_BYTES) << side * 8, axis=2)
    low = tl.sum((pairs & EVEN_BYTES) << side * 8, axis=2)
    return high, low


@triton.jit
def times_digits(tiles, scales, digits, HALVES: tl.constexpr, IS_FP8: tl.constexpr = False):
    """Rows of a matrix, as `parts_of` and `part_scales` give them, times a row's digits: fp32 [PARTS, rows], to be
    summed and multiplied by `digit_scale`."""
    total = tl.zeros(scales[0].shape, dtype=tl.float32)
    for chunk in tl.static_range(len(tiles)):
        if IS_FP8:
            product = half_product(four_of(tiles[chunk]), _digit_words(digits[chunk], 2))
        else:
            highs, lows = _digit_words(digits[chunk], HALVES), _digit_words(digits[len(tiles) + chunk], HALVES)
            product = part_product(four_of(tiles[chunk]), highs, lows, HALVES, IS_LOW_SIGNED=False)
        total += product * scales[chunk].to(tl.float32)
    return total


@triton.jit
def digit_scale(power, HALVES: tl.constexpr, IS_FP8: tl.constexpr = False):
    """What takes back the scales of digits and codes."""
    return power / HALF_TOP if IS_FP8 else scale_down(power, HALVES)


@triton.jit
def part_product(words, highs, lows, HALVES: tl.constexpr, IS_LOW_SIGNED: tl.constexpr):
    """Products of parts, four words [PARTS, rows] each, and their digits: of 32 values at most, a code of at most 128
    times a number of at most 2 ** 14 each, so no sum is beyond 2 ** 26."""
    upper = tl.zeros(words[0].shape, dtype=tl.int32)
    lower = upper
    for index in tl.static_range(4):
        word = words[index]
        if HALVES == 2:
            upper = _add(word & HIGHER_HALVES, highs[4 + index], upper, IS_SIGNED=True)
            lower = _add(word & HIGHER_HALVES, lows[4 + index], lower, IS_SIGNED=IS_LOW_SIGNED)
            word = word << 4 & HIGHER_HALVES
        upper = _add(word, highs[index], upper, IS_SIGNED=True)
        lower = _add(word, lows[index], lower, IS_SIGNED=IS_LOW_SIGNED)
    return (upper * 256 + lower).to(tl.float32)


@triton.jit
def four_of(tile):
    """A tile [.., .., 4] as four tensors."""
    even, odd = tl.split(tl.reshape(tile, (tile.shape[0], tile.shape[1], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def ready_words(x, start, ALL_PARTS: tl.constexpr, PARTS: tl.constexpr, HALVES: tl.constexpr, PER: tl.constexpr):
    """Words of digits, prepared as they follow one another, for the parts of a tile: as `_digit_words`."""
    part = start + tl.arange(0, PARTS)[:, None, None]
    words = ()
    for half in tl.static_range(HALVES):
        at = x + ((part // PER * HALVES + half) * PER + part % PER) * 4 + tl.arange(0, 4)[None, None, :]
        words = words + four_of(_asked(at, part, None, ALL_PARTS, PARTS))
    return words


@triton.jit
def _digit_words(tile, HALVES: tl.constexpr):
    """Words of digits [PARTS, 1]: four, and as many more of second halves."""
    words = four_of(tl.reshape(tile, (tile.shape[0], HALVES, 4)))
    if HALVES == 2:
        firsts, seconds = (), ()
        for index in tl.static_range(4):
            first, second = tl.split(words[index])
            firsts = firsts + (first[:, None],)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
            seconds = seconds + (second[:, None],)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
        words = firsts + seconds
    return words


@triton.jit
def _add(word, digits, total, IS_SIGNED: tl.constexpr):
    """Four codes times four digits, added to a total."""
    if INTERPRETED:
        shift = tl.arange(0, 4)[None, None, :] * 8
        digit = digits[:, :, None] << shift >> 24
        return total + tl.sum((word[:, :, None] << shift >> 24) * (digit if IS_SIGNED else digit & 255), axis=2)
    return tl.inline_asm_elementwise(
        "dp4a.s32.s32 $0, $1, $2, $3;" if IS_SIGNED else "dp4a.s32.u32 $0, $1, $2, $3;",
        "=r,r,r,r",
        [word, digits, total],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )
