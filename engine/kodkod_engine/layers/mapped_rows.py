"""N-gram tables that stay in the checkpoint's files, behind a cache of n-grams.

The splits of one order always hash the same n-gram, so the cache is keyed by the n-gram: one look-up finds the rows of
all its splits. Natural text repeats its n-grams heavily (arXiv 2601.21204, section 4.2), so few reads reach the disk.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kodkod_engine.kernels.packing import scaled_rows
from kodkod_engine.layers.ngram_hash import NgramHasher
from kodkod_engine.layers.read_ahead import ReadAhead, TablePlace
from kodkod_engine.models.ngram_spec import NgramSpec

if TYPE_CHECKING:
    from kodkod_engine.models.checkpoint import Checkpoint, StoredTensor

DEFAULT_CACHED_NGRAMS = 1 << 16
"""Three orders of 2 KiB each at the published sizes: 128 MiB."""

_NUMPY_BITS: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.bfloat16: np.int16,
    torch.float16: np.int16,
    torch.float8_e4m3fn: np.uint8,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
}


class NgramRowCache:
    """The most recently used n-grams with their rows; a miss asks `fetch` for all missing ones at once."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: tuple[int, ...]) -> Tensor | None:
        """Rows [splits * width] of an n-gram, if they are here."""
        rows = self._rows.get(key)
        if rows is None:
            self.misses += 1
            return None
        self.hits += 1
        self._rows.move_to_end(key)
        return rows

    def put(self, key: tuple[int, ...], rows: Tensor) -> None:
        """Keep an n-gram's rows, in place of the least recently used one when full."""
        self._rows[key] = rows
        if len(self._rows) > self.capacity:
            self._rows.popitem(last=False)


def map_tensor(stored: StoredTensor) -> Tensor:
    """A tensor backed by its file: pages come in when they are read."""
    bits = np.memmap(stored.file, dtype=_NUMPY_BITS[stored.dtype], mode="c", offset=stored.offset, shape=stored.shape)
    return torch.from_numpy(bits).view(stored.dtype)


@dataclass(frozen=True, slots=True)
class _LookUp:
    """What the cache knows of a step's n-grams of one order."""

    tables: list[int]
    keys: list[tuple[int, ...]]
    found: list[Tensor | None]
    absent: list[int]
    """Tokens whose n-gram has to be read."""


class MappedRows:
    """See `layers.ngram_embedding.RowSource`.

    Before rows are read, the system is asked for all of a step's: so the disk works on them at once, where reading one
    by one would wait for each. Rows of steps to come may be asked for before.
    """

    def __init__(
        self,
        spec: NgramSpec,
        checkpoint: Checkpoint,
        cached_ngrams: int = DEFAULT_CACHED_NGRAMS,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`dtype`: that rows are rounded to, so that they are those of a resident table; None leaves them."""
        self.spec = spec
        self._dtype = dtype
        self.cache = NgramRowCache(cached_ngrams)
        stored = [
            checkpoint.tensors[f"model.ngram_embeddings.embedders.{index}.weight"] for index in range(spec.num_tables)
        ]
        self._tables = [map_tensor(table) for table in stored]
        self._scales = [None if table.scales is None else map_tensor(table.scales).float() for table in stored]
        places = [
            TablePlace(os.open(table.file, os.O_RDONLY), table.offset, table.num_bytes // table.shape[0])
            for table in stored
        ]
        self.read_ahead = ReadAhead(places, NgramHasher(spec))

    def expect(self, windows: Tensor) -> None:
        """See `RowSource`."""
        self.read_ahead.expect(windows.cpu())

    def rows(self, windows: Tensor, hasher: NgramHasher) -> Tensor:
        """See `RowSource`. Row ids are hashed where the windows are; rows are read on the host."""
        ids = hasher.row_ids(windows).cpu()
        ngrams = hasher.effective(windows).tolist()
        looked_up = [
            self._look_up(order, list(tables), ngrams)
            for order, tables in groupby(range(self.spec.num_tables), key=lambda table: self.spec.orders[table])
        ]
        for one in looked_up:
            for table in one.tables:
                self.read_ahead.places[table].ask(ids[one.absent, table].tolist())
        return torch.cat([self._rows_of(one, ids) for one in looked_up], dim=1).to(windows.device)

    def _look_up(self, order: int, tables: list[int], ngrams: list[list[int]]) -> _LookUp:
        keys = [(order, *ngram[:order]) for ngram in ngrams]
        found = [self.cache.get(key) for key in keys]
        return _LookUp(tables, keys, found, [token for token, rows in enumerate(found) if rows is None])

    def _gather(self, table: int, ids: Tensor) -> Tensor:
        """Rows of one table, [ids, width]."""
        rows, scales = self._tables[table][ids], self._scales[table]
        return (rows if scales is None else scaled_rows(rows, scales, ids)).to(self._dtype)

    def _rows_of(self, one: _LookUp, ids: Tensor) -> Tensor:
        """[tokens, splits * width] for the tables of one order."""
        found = one.found
        if one.absent:
            fetched = torch.cat([self._gather(table, ids[one.absent, table]) for table in one.tables], dim=1)
            for token, rows in zip(one.absent, fetched, strict=True):
                found[token] = rows
                self.cache.put(one.keys[token], rows.clone())
        return torch.stack([rows for rows in found if rows is not None])
