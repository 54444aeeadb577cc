"""The input embedding of a step: row ids and gather in one kernel, projection and mean in another.

No id leaves the device. Tables may lie in pinned host memory: a row is 512 bytes, and the first kernel reads it where
it is, once; where every program of the second did, it went over the bus once for every sixteen outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.tiles import Stored, row_of, tiles_of, times
from kodkod_engine.layers.lookup import rows_of
from kodkod_engine.layers.ngram_embedding import NgramEmbedding

MOST_BY_KERNEL = 2
"""Tokens that our projection reads the weight for one by one; more are for the library's product."""


def reference(embedding: NgramEmbedding, token_ids: Tensor, windows: Tensor) -> Tensor:
    """The module itself: int64 [tokens] and [tokens, 1 + context] -> [tokens, hidden]."""
    out: Tensor = embedding(token_ids, windows)
    return out


@triton.jit
def _gather(
    windows,
    table,
    offsets,
    moduli,
    multipliers,
    orders,
    borders,
    out,
    missing,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    NUM_BORDERS: tl.constexpr,
    ABSENT: tl.constexpr,
):
    """The row of one token and table."""
    token, index = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, COLUMNS)
    modulus = tl.load(moduli + index)
    order = tl.load(orders + index)
    own = tl.load(windows + token * (DEPTH + 1))
    sum_ = own
    alive = own >= 0
    for distance in tl.static_range(1, DEPTH + 1):
        earlier = tl.load(windows + token * (DEPTH + 1) + distance)
        alive = alive & (earlier != ABSENT)
        for border in tl.static_range(NUM_BORDERS):
            alive = alive & (earlier != tl.load(borders + border))
        value = tl.where(alive, earlier, missing)
        term = (value * tl.load(multipliers + index * DEPTH + distance - 1)) % modulus
        sum_ += tl.where(distance < order, term, 0)
    row = tl.load(offsets + index) + sum_ % modulus
    values = tl.load(table + row * WIDTH + columns, mask=columns < WIDTH, other=0.0)
    tl.store(out + (token * tl.num_programs(1) + index) * WIDTH + columns, values, mask=columns < WIDTH)


@triton.jit
def _project(
    windows,
    words,
    rows_of_tables,
    projection,
    out,
    hidden,
    word_scale,
    ngram_scale,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    INNER: tl.constexpr,
):
    token = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = rows < hidden
    tiles = tiles_of(projection, rows.to(tl.int64), inside, LENGTH, INNER)
    own = tl.load(windows + token * (DEPTH + 1))
    word = tl.load(words + own * hidden + rows, mask=inside, other=0.0).to(tl.float32)
    values = row_of(rows_of_tables + token * LENGTH, LENGTH, INNER, 1, 0)
    total = times(tiles, tiles, values, 1, 0)
    tl.store(out + token * hidden + rows, word * word_scale + total * ngram_scale, mask=inside)


class NgramInput:
    """The launcher, with the hash functions' constants on the device. Tables must be resident or pinned."""

    def __init__(self, embedding: NgramEmbedding, table: Tensor) -> None:
        """`table`: all tables one after another, [rows, table_width], on the device or in pinned host memory."""
        spec = embedding.spec
        assert not spec.token_map, "token maps are hashed by the plain module"
        device = embedding.projection.weight.device
        depth = spec.context_tokens
        factors = [(*row, *(0,) * (depth - len(row))) for row in spec.multipliers]
        self.spec, self.embedding, self.table = spec, embedding, table
        self._constants = tuple(
            torch.tensor(values, dtype=torch.int64, device=device)
            for values in (spec.row_offsets[:-1], spec.moduli, factors, spec.orders, sorted(spec.border_ids))
        )

    def __call__(self, windows: Tensor, out: Tensor) -> Tensor:
        """int64 [tokens, 1 + context] into out [tokens, hidden]."""
        rows, combiner = self._rows(windows), self.spec.combiner
        scales = combiner.word_scale, combiner.ngram_scale
        if len(windows) > MOST_BY_KERNEL:
            words = rows_of(self.embedding.word, windows[:, :1]).to(out.dtype)
            weight, (beta, alpha) = self.embedding.projection.weight.t(), scales
            return torch.addmm(words, rows.to(out.dtype), weight, beta=beta, alpha=alpha, out=out)
        stored, hidden = Stored.of(self.embedding.projection.weight), out.shape[1]
        meta = {"LENGTH": stored.size, "INNER": stored.meta()["INNER"], "ROWS": stored.tile_rows}
        grid: Any = (len(windows), triton.cdiv(hidden, stored.tile_rows))
        given = windows, self.embedding.word, rows, stored.codes, out, hidden
        _project[grid](*given, *scales, DEPTH=self.spec.context_tokens, **meta)
        return out

    def _rows(self, windows: Tensor) -> Tensor:
        """[tokens, tables * table_width], in the tables' dtype."""
        from kodkod_engine.layers.ngram_hash import ABSENT

        spec, (offsets, moduli, multipliers, orders, borders) = self.spec, self._constants
        width = spec.num_tables * spec.table_width
        rows = torch.empty(len(windows), width, dtype=self.table.dtype, device=windows.device)
        grid: Any = (len(windows), spec.num_tables)
        _gather[grid](
            windows,
            self.table,
            offsets,
            moduli,
            multipliers,
            orders,
            borders,
            rows,
            spec.missing_value,
            WIDTH=spec.table_width,
            COLUMNS=triton.next_power_of_2(spec.table_width),
            DEPTH=spec.context_tokens,
            NUM_BORDERS=len(spec.border_ids),
            ABSENT=ABSENT,
            num_warps=1,
        )
        return rows
