"""Products of a few weight rows with tiles of sixteen tokens, for use inside numba kernels.

Weights are read as they lie. In bf16 one instruction multiplies a pair of neighbouring weights with the same pair of
sixteen tokens and adds to fp32 sums, so the tokens' side is what has to be turned: [pairs, tokens], two bf16 numbers in
a word. The compiler finds neither the instruction nor the transposition in plain loops. In fp32 a word is one number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from kodkod_engine.kernels.bf16 import KERNEL_OPTIONS
from kodkod_engine.kernels.vector_code import (
    BF16S,
    F32,
    I8,
    I32,
    I64,
    SUMS,
    Row,
    carry,
    declared,
    load,
    multiply_add,
    splat,
)

TOKENS_PER_TILE = 16
"""Lanes of a vector."""

ROWS = 8
"""Weight rows at a time."""

MAX_TILES = 2
"""Tiles at a time: 24 sums, of 8 rows with 3 tiles, hardly fit into the 32 registers with their operands."""

MANY_ROWS = 16
"""Weight rows at a time with one tile: 8 sums would wait for each other."""

TURNED_PAIRS = 16
"""Pairs that `turn` brings over at a time; sizes are multiples of twice as many."""

_TO_L1 = (0, 3, 1)
"""Arguments of LLVM's prefetch: for reading, wanted close, data."""


_WORDS = ir.VectorType(I32, TOKENS_PER_TILE)
_WORD_BYTES, _VECTOR_BYTES = 4, 4 * TOKENS_PER_TILE


def has_tile_products() -> bool:
    """Whether this processor has the instruction, and nothing better (AMX) that torch would use."""
    return bool(torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported())


def _interleaved(builder: Any, vectors: list[Any]) -> Any:
    """Vectors of n values as one: their first values, then their second ones, ...; a power of two of them."""
    if len(vectors) == 1:
        return vectors[0]
    even, odd = _interleaved(builder, vectors[0::2]), _interleaved(builder, vectors[1::2])
    size = even.type.count
    places = [place for i in range(size) for place in (i, size + i)]
    return builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(I32, 2 * size), places))


def _multiply_floats(builder: Any) -> Any:
    """As the instruction for bf16 products, of fp32 numbers."""

    def add(total: Any, token: Any, weight: Any) -> Any:
        return builder.fadd(total, builder.fmul(token, weight, flags=("contract",)), flags=("contract",))

    return add


def _multiply_pairs(builder: Any) -> Any:
    instruction = multiply_add(builder)
    return lambda *operands: builder.call(instruction, operands)


_ARITHMETIC = {types.uint16: (BF16S, _multiply_pairs), types.float32: (SUMS, _multiply_floats)}
"""By weights: what a word of sixteen tokens holds, and how it is multiplied and added."""


def _broadcast(builder: Any, pointer: Any, numbers: Any) -> Any:
    """A word of weights in every lane."""
    undefined = ir.Constant(_WORDS, ir.Undefined)
    word = builder.load(builder.bitcast(pointer, I32.as_pointer()), align=2)
    one = builder.insert_element(undefined, word, I32(0))
    return builder.bitcast(builder.shuffle_vector(one, undefined, splat(_WORDS, 0)), numbers)


def _sums(
    builder: Any, kind: Any, rows: list[Any], tiles: list[Any], ahead: list[Any], steps: tuple[Any, Any], pairs: Any
) -> list[list[Any]]:
    """The loop over words: sums by row and tile. Rows, tiles and what is asked for ahead are byte pointers.

    `steps`: bytes from word to word in a tile, and in what is asked for ahead.
    """
    numbers, arithmetic = _ARITHMETIC[kind]
    add_products = arithmetic(builder)
    prefetch = declared(builder, "llvm.prefetch.p0", ir.VoidType(), I8.as_pointer(), I32, I32, I32)
    step, ahead_step = steps
    before, loop = builder.block, builder.append_basic_block("pairs")
    builder.branch(loop)
    builder.position_at_end(loop)
    pair = builder.phi(I64)
    carried = [[builder.phi(SUMS) for _ in tiles] for _ in rows]
    for pointer in ahead:
        place = builder.gep(pointer, [builder.mul(pair, ahead_step)])
        builder.call(prefetch, [place, *map(I32, _TO_L1)])
    shift = builder.mul(pair, step)
    tokens = [builder.bitcast(load(builder, builder.gep(tile, [shift]), _WORDS, 64), numbers) for tile in tiles]
    shift = builder.mul(pair, I64(_WORD_BYTES))
    weights = [_broadcast(builder, builder.gep(row, [shift]), numbers) for row in rows]
    sums = [
        [add_products(total, token, weight) for total, token in zip(own, tokens, strict=True)]
        for own, weight in zip(carried, weights, strict=True)
    ]
    following = builder.add(pair, I64(1))
    carry(builder, before, [(pair, I64(0), following), *_summed(carried, sums)])
    after = builder.append_basic_block("summed")
    builder.cbranch(builder.icmp_signed("<", following, pairs), loop, after)
    builder.position_at_end(after)
    return sums


def _summed(carried: list[list[Any]], sums: list[list[Any]]) -> Iterator[tuple[Any, Any, Any]]:
    """The sums for `carry`: they begin at zero."""
    for own, totals in zip(carried, sums, strict=True):
        yield from ((place, splat(SUMS, 0.0), total) for place, total in zip(own, totals, strict=True))


def _make(num_rows: int, num_tiles: int, by_token: bool) -> Any:
    half_rows = num_rows // 2

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        weight, first, gap, next_weight, following, next_gap, x, tile, out = values
        kinds = signature.args

        def row(number: Any) -> Any:
            return Row(context, builder, kinds[0], weight, number).at

        def next_row(number: Any) -> Row:
            return Row(context, builder, kinds[3], next_weight, number)

        halves = [first, builder.add(first, gap)]
        rows = [row(builder.add(half, I64(r))) for half in halves for r in range(half_rows)]
        later = [next_row(following), next_row(builder.add(following, next_gap))]
        own = Row(context, builder, kinds[6], x, tile)
        by_width = builder.udiv(builder.mul(later[0].stride, I64(half_rows)), own.width)
        ahead_step = I64(half_rows * _WORD_BYTES) if kinds[3].dtype in _ARITHMETIC else by_width
        step = I64(_VECTOR_BYTES) if kinds[6].layout == "C" else own.step
        tiles = [builder.gep(own.at, [builder.mul(own.stride, I64(t))]) for t in range(num_tiles)]
        sums = _sums(builder, kinds[0].dtype, rows, tiles, [row.at for row in later], (step, ahead_step), own.width)
        start = builder.bitcast(context.make_array(kinds[8])(context, builder, out).data, I8.as_pointer())
        for t in range(num_tiles):
            of_tile = [by_row[t] for by_row in sums]
            vectors = [_interleaved(builder, of_tile)] if by_token else of_tile
            for number, vector in enumerate(vectors):
                place = t * num_rows if by_token else number * num_tiles + t
                pointer = builder.gep(start, [I64(_VECTOR_BYTES * place)])
                builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=4)
        return context.get_dummy_value()

    def tile_products(
        _context: Any, weight: Any, first: Any, gap: Any, following: Any, ahead: Any, next_gap: Any, x: Any, tile: Any,
        out: Any,
    ) -> Any:  # fmt: skip
        row = types.int64
        return types.void(weight, row, row, following, row, row, x, types.int64, out), generate

    return intrinsic(tile_products)


SHAPES = [(MANY_ROWS, 1), *((ROWS, count) for count in range(1, MAX_TILES + 1))]

FEW_REGISTERS = 4, 1
"""Weight rows and tiles at a time where a processor has 16 registers of half a tile: 8 sums with their operands."""

_SHAPES = [*SHAPES, FEW_REGISTERS]

products_by_row: dict[tuple[int, int], Any] = {shape: _make(*shape, by_token=False) for shape in _SHAPES}
"""By numbers of weight rows and tiles: inside a kernel, `products(weight, first, gap, next_weight, following, next_gap,
x, tile, out)` sums weight rows by tokens.

One half of the weight rows, bits (uint16 [rows, in], contiguous), begins at `first`, the other at first + gap. The
tokens are tiles tile, tile + 1, ... of x, int32 [tiles, in / 2, 16], which starts at a multiple of 64 bytes. With
weights in fp32 the tokens are fp32, too, [tiles, in, 16]; that every processor has. Tiles and words may lie apart.
`out` is flat memory for fp32 [weight rows, tiles * 16]. As many rows of `next_weight`, of any type, from `following`
and from following + next_gap are asked for meanwhile. Nothing is checked."""

products_by_token: dict[tuple[int, int], Any] = {shape: _make(*shape, by_token=True) for shape in _SHAPES}
"""The same with `out` fp32 [tiles * 16, weight rows]."""


def _turn(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    x, tokens, tile, pair, out = values
    kinds = signature.args
    numbers = context.make_array(kinds[1])(context, builder, tokens).data
    start = builder.mul(tile, I64(TOKENS_PER_TILE))
    vectors = []
    for lane in range(TOKENS_PER_TILE):
        token = builder.load(builder.gep(numbers, [builder.add(start, I64(lane))]))
        row = Row(context, builder, kinds[0], x, token).at
        place = builder.gep(row, [builder.mul(pair, I64(_WORD_BYTES))])
        vectors.append(load(builder, place, _WORDS, 4))
    turned = _interleaved(builder, vectors)
    target = Row(context, builder, kinds[4], out, tile).at
    place = builder.gep(target, [builder.mul(pair, I64(_VECTOR_BYTES))])
    builder.store(turned, builder.bitcast(place, turned.type.as_pointer()), align=64)
    return context.get_dummy_value()


def _turn_signature(_context: Any, x: Any, tokens: Any, tile: Any, pair: Any, out: Any) -> Any:
    return types.void(x, tokens, types.int64, types.int64, out), _turn


turn: Any = intrinsic(_turn_signature)
"""Inside a kernel: `turn(x, tokens, tile, pair, out)` brings sixteen pairs from `pair` on of a tile's tokens (int64
[tiles * 16], rows of x int32 [rows, in / 2]) to out[tile, pair : pair + 16], int32 [tiles, in / 2, 16]."""


def _float_of(_context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda _c, builder, _s, values: builder.bitcast(values[0], F32)


def _bits_of(_context: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda _c, builder, _s, values: builder.bitcast(values[0], I32)


float_of: Any = intrinsic(_float_of)
"""Inside a kernel: the fp32 value with these bits, int32 -> float32."""

word_of: Any = intrinsic(_bits_of)
"""Inside a kernel: the bits of an fp32 value, float32 -> int32."""


@njit(**KERNEL_OPTIONS)
def turn_tiles(x: Any, tokens: Any, out: Any) -> None:
    """Tokens brought into tiles, on all threads.

    Args:
        x: int32 [rows, size / 2], pairs of bf16 numbers; the size a multiple of 32.
        tokens: int64 [tiles * 16], rows of x.
        out: int32 [tiles, size / 2, 16], filled.
    """
    for tile in prange(len(out)):
        for pair in range(0, out.shape[1], TURNED_PAIRS):
            turn(x, tokens, tile, pair, out)
