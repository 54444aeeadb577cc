"""Products of two weight rows, bf16 or packed, with a few rows of bf16 activations, for use inside numba kernels.

Codes become bf16 numbers in registers, meet all rows of activations, and are gone: nothing is written. Lanes are
inputs, so no lane is empty however few rows there are, as it would be in tiles of sixteen tokens. A row of activations
has the same sums in any company.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from kodkod_engine.kernels.group_numbers import e4m3, has_byte_lookup, integers, nibbles
from kodkod_engine.kernels.inside import inside, inside_of
from kodkod_engine.kernels.packed_linear import Bytes128, Fp8Blocks128, Nibbles128
from kodkod_engine.kernels.vector_code import (
    BF16S,
    F32,
    I16,
    I32,
    I64,
    LANES,
    SUMS,
    VECTOR_GROUP,
    WIDE,
    Row,
    carry,
    fetch_ahead,
    load,
    multiply_add,
    splat,
)

MAX_THIN_TOKENS = 6
"""Rows of activations at a time; seven or eight take as long a row, for their sums hardly fit into the registers."""

MAX_FP8_TOKENS = 5
"""The same of e4m3 codes, which want more registers. Measured on one thread, [12288, 3072]: 6 rows take 3.3 ms at once
and 5 rows 1.7, 8 rows in two halves 2.7."""

MAX_TOKENS_PER_SINGLE_ROW = 3
"""Up to here a weight row is read to its end before the next one, as memory likes it best; more rows of activations
are loaded once for two weight rows."""

_WORDS = ir.VectorType(I32, LANES // 2)
_VECTORS = VECTOR_GROUP // LANES
_VECTOR_BYTES = 2 * LANES
_F32_BYTES = 4
_CONTRACT = ("contract",)

PLAIN = "bf16"
"""The kind of a matrix of bf16 bits."""


def _plain(builder: Any, base: Any) -> list[Any]:
    """128 bf16 numbers at a pointer."""
    places = [builder.gep(base, [I64(_VECTOR_BYTES * part)]) for part in range(_VECTORS)]
    return [builder.bitcast(load(builder, place, WIDE, 2), BF16S) for place in places]


_UNPACK: dict[Any, Callable[[Any, Any], list[Any]]] = {
    Nibbles128: nibbles,
    Bytes128: integers,
    Fp8Blocks128: e4m3,
    PLAIN: _plain,
}
_GROUP_BYTES = {Nibbles128: VECTOR_GROUP // 2, PLAIN: 2 * VECTOR_GROUP}


def has_code_for(kind: Any) -> bool:
    """Whether `products` takes matrices of a type that `packed_arrays` makes; where the processor multiplies bf16."""
    return kind in _UNPACK and (kind is not Fp8Blocks128 or has_byte_lookup())


def takes_thin_products(weight: Any) -> bool:
    """Whether `products` has code for a packed matrix, or bf16 bits; where the processor multiplies bf16."""
    if isinstance(weight, np.ndarray):
        return bool(weight.shape[1] % VECTOR_GROUP == 0)
    return has_code_for(type(weight))


class _WeightRow:
    """A row of codes and its scales, group by group; bf16 numbers have none."""

    def __init__(self, builder: Any, codes: Row, scales: Row, kind: Any) -> None:
        self.builder, self.codes, self.scales, self.kind = builder, codes, scales, kind
        self.group_bytes = _GROUP_BYTES.get(kind, VECTOR_GROUP)

    @property
    def num_groups(self) -> Any:
        """Of the row."""
        if self.kind is PLAIN:
            return self.builder.udiv(self.codes.width, I64(VECTOR_GROUP))
        return self.scales.width

    def numbers(self, group: Any) -> list[Any]:
        """A group's codes as bf16; what lies ahead is asked for."""
        base = self.builder.gep(self.codes.at, [self.builder.mul(group, I64(self.group_bytes))])
        fetch_ahead(self.builder, base, self.group_bytes)
        return _UNPACK[self.kind](self.builder, base)

    def scale(self, group: Any) -> Any:
        """A group's scale in every lane, fp32; None where there is none."""
        if self.kind is PLAIN:
            return None
        if self.kind is Fp8Blocks128:
            return self._broadcast(F32, SUMS, group)
        words = self.builder.bitcast(self._broadcast(I16, WIDE, group), _WORDS)
        return self.builder.bitcast(self.builder.shl(words, splat(_WORDS, 16)), SUMS)

    def _broadcast(self, element: Any, vector: Any, group: Any) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        at = self.builder.gep(self.builder.bitcast(self.scales.at, element.as_pointer()), [group])
        one = self.builder.insert_element(undefined, self.builder.load(at), I32(0))
        return self.builder.shuffle_vector(one, undefined, splat(ir.VectorType(I32, vector.count), 0))


def _group_sums(builder: Any, rows: list[_WeightRow], tokens: list[Any], group: Any) -> list[list[Any]]:
    """Of one group, by weight row and token, not scaled yet."""
    add_products, numbers = multiply_add(builder), [row.numbers(group) for row in rows]
    sums = [[splat(SUMS, 0.0) for _ in tokens] for _ in rows]
    shift = builder.mul(group, I64(_VECTORS * _VECTOR_BYTES))
    for part in range(_VECTORS):
        place = builder.add(shift, I64(part * _VECTOR_BYTES))
        for token, at in enumerate(tokens):
            values = builder.bitcast(load(builder, builder.gep(at, [place]), WIDE, 2), BF16S)
            for own, weights in zip(sums, numbers, strict=True):
                own[token] = builder.call(add_products, [own[token], values, weights[part]])
    return sums


def _add_scaled(builder: Any, part: Any, scale: Any, total: Any) -> Any:
    if scale is None:
        return builder.fadd(part, total)
    return builder.fadd(builder.fmul(part, scale, flags=_CONTRACT), total, flags=_CONTRACT)


def _row_sums(builder: Any, rows: list[_WeightRow], tokens: list[Any]) -> list[list[Any]]:
    """The loop over groups: sums by weight row and token, lane by lane."""
    before, loop = builder.block, builder.append_basic_block("groups")
    builder.branch(loop)
    builder.position_at_end(loop)
    group, totals = builder.phi(I64), [[builder.phi(SUMS) for _ in tokens] for _ in rows]
    parts, scales = _group_sums(builder, rows, tokens, group), [row.scale(group) for row in rows]
    following = [
        [_add_scaled(builder, part, scale, total) for part, total in zip(of_row, own, strict=True)]
        for of_row, scale, own in zip(parts, scales, totals, strict=True)
    ]
    next_group = builder.add(group, I64(1))
    carried = [(group, I64(0), next_group)]
    for own, sums in zip(totals, following, strict=True):
        carried += [(total, splat(SUMS, 0.0), later) for total, later in zip(own, sums, strict=True)]
    carry(builder, before, carried)
    after = builder.append_basic_block("summed")
    builder.cbranch(builder.icmp_signed("<", next_group, rows[0].num_groups), loop, after)
    builder.position_at_end(after)
    return following


def _two_sums(builder: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """All lanes of either added."""
    lanes = first.type.count
    while lanes > 1:
        half = lanes // 2
        low = [*range(half), *range(lanes, lanes + half)]
        parts = (
            builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, lanes), [at + shift for at in low]))
            for shift in (0, half)
        )
        first = second = builder.fadd(*parts)
        lanes = half
    return builder.extract_element(first, I32(0)), builder.extract_element(first, I32(1))


def _pair_sums(builder: Any, pair: list[_WeightRow], tokens: list[Any]) -> list[list[Any]]:
    if len(tokens) > MAX_TOKENS_PER_SINGLE_ROW:
        return _row_sums(builder, pair, tokens)
    return [_row_sums(builder, [row], tokens)[0] for row in pair]


def _make(kind: Any, num_tokens: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, scales, row_block, row, other, x, tokens, begin, out, column = values
        kinds = signature.args

        def weight_row(number: Any) -> _WeightRow:
            scale_row = builder.udiv(number, row_block) if kind is Fp8Blocks128 else number
            own = Row(context, builder, kinds[0], codes, number), Row(context, builder, kinds[1], scales, scale_row)
            return _WeightRow(builder, *own, kind)

        numbers = context.make_array(kinds[6])(context, builder, tokens).data
        places = [builder.gep(numbers, [builder.add(begin, I64(token))]) for token in range(num_tokens)]
        at = [Row(context, builder, kinds[5], x, builder.load(place)).at for place in places]
        shift = builder.mul(column, I64(_F32_BYTES))
        sums = _pair_sums(builder, [weight_row(row), weight_row(other)], at)
        for token, pair in enumerate(zip(*sums, strict=True)):
            for half, total in enumerate(_two_sums(builder, *pair)):
                target = Row(context, builder, kinds[8], out, I64(half * MAX_THIN_TOKENS + token)).at
                builder.store(total, builder.bitcast(builder.gep(target, [shift]), F32.as_pointer()))
        return context.get_dummy_value()

    def two_rows(
        _context: Any, codes: Any, scales: Any, row_block: Any, row: Any, other: Any, x: Any, tokens: Any, begin: Any,
        out: Any, column: Any,
    ) -> Any:  # fmt: skip
        n = types.int64
        return types.void(codes, scales, n, n, n, x, tokens, n, out, n), generate

    return intrinsic(two_rows)


_COUNTS = range(1, MAX_THIN_TOKENS + 1)


def _of_rows(kind: Any, num_tokens: int) -> Any:
    two_rows = _make(kind, num_tokens)

    @inside
    def of_rows(weight: Any, rows: Any, x: Any, tokens: Any, begin: Any, out: Any) -> None:
        codes, scales, row_block = _parts(weight)
        row, other, step = rows
        for column in range(out.shape[1]):
            shift = column * step
            two_rows(codes, scales, row_block, row + shift, other + shift, x, tokens, begin, out, column)

    return of_rows


_PRODUCTS = {kind: [_of_rows(kind, count) for count in _COUNTS] for kind in _UNPACK}


@inside_of
def products(weight: Any, rows: Any, x: Any, tokens: Any, begin: Any, count: Any, out: Any) -> Any:
    """Inside a kernel: pairs of weight rows with some rows of activations. Nothing is checked.

    Args:
        weight: a packed matrix, or uint16 bits of a bf16 one [rows, in], contiguous, that `takes_thin_products`.
        rows: the first pair's two numbers, and what is added to both for the next pair; a pair for every column of out.
        x: uint16 bits of bf16 [rows, in], contiguous.
        tokens: int64, rows of x; those from `begin` on are taken, `count` of them, 1 to `MAX_THIN_TOKENS`.
        out: fp32 [2 * MAX_THIN_TOKENS, pairs], contiguous. The first `count` rows get sums of each pair's first row, as
            many from `MAX_THIN_TOKENS` on those of the second.
    """
    kind = kind_of(weight)
    if kind not in _PRODUCTS:
        return None
    one, two, three, four, five, six = _PRODUCTS[kind]

    def by_count(weight, rows, x, tokens, begin, count, out):  # type: ignore[no-untyped-def]
        if count == 1:
            one(weight, rows, x, tokens, begin, out)
        elif count == 2:
            two(weight, rows, x, tokens, begin, out)
        elif count == 3:
            three(weight, rows, x, tokens, begin, out)
        elif count == 4:
            four(weight, rows, x, tokens, begin, out)
        elif count == 5:
            five(weight, rows, x, tokens, begin, out)
        else:
            six(weight, rows, x, tokens, begin, out)

    return by_count


def most_tokens(weight: Any) -> Any:
    """Inside a kernel: up to how many rows of activations are best taken at a time."""
    raise NotImplementedError("for compiled code alone")


@overload(most_tokens, inline="always")
def _most_tokens(weight):  # type: ignore[no-untyped-def]  # numba compares signatures
    most = MAX_FP8_TOKENS if kind_of(weight) is Fp8Blocks128 else MAX_THIN_TOKENS
    return lambda weight: most  # noqa: ARG005  # numba compares signatures


def kind_of(weight: Any) -> Any:
    """Of a kernel's argument, by its numba type."""
    return PLAIN if isinstance(weight, types.Array) else getattr(weight, "instance_class", None)


def _parts(weight: Any) -> Any:
    """Inside a kernel: codes, scales, and how many rows share a scale."""
    raise NotImplementedError("for compiled code alone")


@overload(_parts, inline="always")
def _parts_of(weight):  # type: ignore[no-untyped-def]  # numba compares signatures
    kind = kind_of(weight)
    if kind is PLAIN:
        return lambda weight: (weight, weight, 1)
    if kind is Fp8Blocks128:
        return lambda weight: (weight.codes, weight.scales, weight.row_block)
    return lambda weight: (weight.codes, weight.scales, 1)
