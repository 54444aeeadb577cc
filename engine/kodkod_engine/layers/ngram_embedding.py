"""The input embedding: the word's vector and the projected rows of its n-grams (arXiv 2601.21204, section 3)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from kodkod_engine.layers.linear import Linear
from kodkod_engine.layers.lookup import rows_of
from kodkod_engine.layers.ngram_hash import NgramHasher
from kodkod_engine.models.ngram_spec import NgramSpec


class RowSource(Protocol):
    """Where table rows live: in memory beside the model, or elsewhere behind a cache."""

    def rows(self, windows: Tensor, hasher: NgramHasher) -> Tensor:
        """Rows of every table side by side: int64 [tokens, 1 + context] -> [tokens, tables * table_width]."""
        ...

    def expect(self, windows: Tensor) -> None:
        """Told what later steps will ask for: int64 [tokens, 1 + context]. Returns at once."""
        ...


class ResidentRows(nn.Module):
    """All tables in one matrix, one table after another: on the model's device, or in pinned memory it reads."""

    def __init__(self, spec: NgramSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.row_offsets[-1], spec.table_width), requires_grad=False)
        self._offsets: Tensor | None = None

    def table(self, index: int) -> Tensor:
        """One table: a view [rows, table_width]."""
        start, stop = self.spec.row_offsets[index], self.spec.row_offsets[index + 1]
        return self.weight[start:stop]

    def rows(self, windows: Tensor, hasher: NgramHasher) -> Tensor:
        """See `RowSource`."""
        if self._offsets is None or self._offsets.device != windows.device:
            self._offsets = torch.tensor(self.spec.row_offsets[:-1], device=windows.device)
        ids = hasher.row_ids(windows) + self._offsets
        return rows_of(self.weight, ids)

    def expect(self, windows: Tensor) -> None:
        """See `RowSource`; everything is here."""


class NgramEmbedding(nn.Module):
    """word_scale * word + ngram_scale * sum over tables of projection(row)."""

    def __init__(self, spec: NgramSpec, vocab_size: int, hidden_size: int, *, dtype: torch.dtype | None = None) -> None:
        """`dtype`: of what comes out; None takes that of the words."""
        super().__init__()
        self.spec = spec
        self.word = nn.Parameter(torch.empty(vocab_size, hidden_size), requires_grad=False)
        # The sum of projections is one product with the projections side by side.
        self.dtype = dtype or self.word.dtype
        self.projection = Linear(spec.num_tables * spec.table_width, hidden_size)
        self.resident: ResidentRows | None = ResidentRows(spec)
        self._elsewhere: RowSource | None = None
        self._hasher: NgramHasher | None = None

    @property
    def row_source(self) -> RowSource:
        """Where the rows come from."""
        source = self._elsewhere or self.resident
        assert source is not None
        return source

    def move_tables(self, elsewhere: RowSource) -> None:
        """Take rows from another source; the resident tables are dropped."""
        self._elsewhere, self.resident = elsewhere, None

    def hasher(self, device: torch.device) -> NgramHasher:
        """The hash functions on a device; made once."""
        if self._hasher is None:
            self._hasher = NgramHasher(self.spec, device)
        return self._hasher

    def forward(self, token_ids: Tensor, windows: Tensor) -> Tensor:
        """int64 [tokens] and [tokens, 1 + context] -> [tokens, hidden]."""
        rows = self.row_source.rows(windows, self.hasher(token_ids.device))
        projected: Tensor = self.projection(rows.to(self.dtype))
        combiner = self.spec.combiner
        words = rows_of(self.word, token_ids[:, None]).to(self.dtype)
        return words * combiner.word_scale + projected * combiner.ngram_scale
