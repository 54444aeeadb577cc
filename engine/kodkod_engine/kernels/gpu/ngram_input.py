"""The input embedding in one kernel: row ids, gather, projection and mean, for every token of a step.

No id leaves the device. Tables may lie in pinned host memory: a row is 512 bytes, and the kernel reads it where it is.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.layers.ngram_embedding import NgramEmbedding

BLOCK_HIDDEN = 16


def reference(embedding: NgramEmbedding, token_ids: Tensor, windows: Tensor) -> Tensor:
    """The module itself: int64 [tokens] and [tokens, 1 + context] -> [tokens, hidden]."""
    out: Tensor = embedding(token_ids, windows)
    return out


@triton.jit
def _kernel(
    windows,
    words,
    table,
    projection,
    offsets,
    moduli,
    multipliers,
    orders,
    borders,
    out,
    hidden,
    word_scale,
    ngram_scale,
    missing,
    NUM_TABLES: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    NUM_BORDERS: tl.constexpr,
    ABSENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < hidden
    columns = tl.arange(0, WIDTH)
    own = tl.load(windows + token * (DEPTH + 1))
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for index in tl.static_range(NUM_TABLES):
        modulus = tl.load(moduli + index)
        order = tl.load(orders + index)
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
        values = tl.load(table + row * WIDTH + columns).to(tl.float32)
        at = projection + rows[:, None] * (NUM_TABLES * WIDTH) + index * WIDTH + columns[None, :]
        weights = tl.load(at, mask=inside[:, None], other=0.0).to(tl.float32)
        total += tl.sum(weights * values[None, :], axis=1)
    word = tl.load(words + own * hidden + rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * hidden + rows, word * word_scale + total * ngram_scale, mask=inside)


class NgramInput:
    """The launcher, with the hash functions' constants on the device. Tables must be resident or pinned."""

    def __init__(self, embedding: NgramEmbedding, table: Tensor) -> None:
        """`table`: all tables one after another, [rows, table_width], on the device or in pinned host memory."""
        spec = embedding.spec
        assert not spec.token_map, "token maps are hashed by the plain module"
        device = embedding.word.device
        depth = spec.context_tokens
        factors = [(*row, *(0,) * (depth - len(row))) for row in spec.multipliers]
        self.spec, self.embedding, self.table = spec, embedding, table
        self._constants = tuple(
            torch.tensor(values, dtype=torch.int64, device=device)
            for values in (spec.row_offsets[:-1], spec.moduli, factors, spec.orders, sorted(spec.border_ids))
        )

    def __call__(self, windows: Tensor, out: Tensor) -> Tensor:
        """int64 [tokens, 1 + context] into out [tokens, hidden]."""
        from kodkod_engine.layers.ngram_hash import ABSENT

        hidden = self.embedding.word.shape[1]
        grid: Any = (len(windows), triton.cdiv(hidden, BLOCK_HIDDEN))
        offsets, moduli, multipliers, orders, borders = self._constants
        _kernel[grid](
            windows,
            self.embedding.word,
            self.table,
            self.embedding.projection.weight,
            offsets,
            moduli,
            multipliers,
            orders,
            borders,
            out,
            hidden,
            self.spec.combiner.word_scale,
            self.spec.combiner.ngram_scale,
            self.spec.missing_value,
            NUM_TABLES=self.spec.num_tables,
            WIDTH=self.spec.table_width,
            DEPTH=self.spec.context_tokens,
            NUM_BORDERS=len(self.spec.border_ids),
            ABSENT=ABSENT,
            BLOCK=BLOCK_HIDDEN,
        )
        return out
