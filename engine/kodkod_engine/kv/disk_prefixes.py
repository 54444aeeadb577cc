"""Prefixes on disk: what was computed once is read back after a restart, or when the cache had no room for it.

Segments are copied on the engine thread when they are whole, and written by a thread of its own. The system's page
cache stands between: what was written lately is read from memory.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence as Run
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kodkod_engine.kv.cache import KvCache
from kodkod_engine.kv.segments import SEGMENT_TOKENS, SegmentFolder, keys_of, next_key

logger = logging.getLogger(__name__)

MAX_PENDING_BYTES = 256 << 20
"""Copied and not written yet; a disk that is slower than that is given less, and nobody waits for it."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """How far a sequence is stored."""

    num_tokens: int = 0
    key: bytes = b""


class DiskPrefixes:
    """See `core.prefix_store.PrefixStore`."""

    def __init__(self, cache: KvCache, folder: SegmentFolder) -> None:
        """Start the writing thread.

        Raises:
            ValueError: blocks do not make up whole segments.
        """
        size = cache.layout.block_size
        if SEGMENT_TOKENS % size:
            raise ValueError(f"{SEGMENT_TOKENS} tokens are no whole number of blocks of {size}; set block_size to 16")
        self._cache = cache
        self._folder = folder
        self._block_size = size
        segment_bytes = SEGMENT_TOKENS * cache.layout.bytes_per_token
        self._pending: queue.Queue[tuple[bytes, NDArray[np.uint8]] | None] = queue.Queue(
            max(2, MAX_PENDING_BYTES // segment_bytes)
        )
        self._is_off = False
        """The disk has refused."""
        self._stored: dict[str, _Stored] = {}
        self._writer = threading.Thread(target=self._write, name="kodkod-kv", daemon=True)
        self._writer.start()

    def num_stored(self, token_ids: Run[int]) -> int:
        """See `PrefixStore`."""
        count = 0
        for key in keys_of(token_ids):
            if not self._folder.has(key):
                break
            count += SEGMENT_TOKENS
        return count

    def read(self, token_ids: Run[int], start: int, block_ids: Run[int]) -> int:
        """See `PrefixStore`."""
        end = start + len(block_ids) * self._block_size
        filled, keys = 0, list(keys_of(token_ids[: -(-end // SEGMENT_TOKENS) * SEGMENT_TOKENS]))
        for index in range(start // SEGMENT_TOKENS, len(keys)):
            values = self._values(keys[index])
            if values is None:
                break
            first = index * SEGMENT_TOKENS
            begin, stop = max(start, first), min(end, first + SEGMENT_TOKENS)
            blocks = block_ids[(begin - start) // self._block_size : (stop - start) // self._block_size]
            self._cache.put_blocks(blocks, values[:, begin - first : stop - first])
            filled += len(blocks)
        self._folder.touch(keys)
        return filled

    def offer(self, sequence_id: str, token_ids: Run[int], num_computed: int, block_ids: Run[int]) -> None:
        """See `PrefixStore`."""
        stored = self._stored.get(sequence_id, _Stored())
        while not self._is_off and num_computed - stored.num_tokens >= SEGMENT_TOKENS:
            end = stored.num_tokens + SEGMENT_TOKENS
            key = next_key(stored.key, token_ids[stored.num_tokens : end])
            if not self._folder.has(key) and not self._take(key, block_ids, stored.num_tokens):
                break
            stored = _Stored(end, key)
        self._stored[sequence_id] = stored

    def forget(self, sequence_id: str) -> None:
        """See `PrefixStore`."""
        self._stored.pop(sequence_id, None)

    def close(self) -> None:
        """See `PrefixStore`. May be called twice."""
        if self._writer.is_alive():
            self._pending.put(None)
            self._writer.join()

    def _values(self, key: bytes) -> torch.Tensor | None:
        """[cache layers, SEGMENT_TOKENS, latent_dim]."""
        layout, data = self._cache.layout, self._folder.read(key)
        if data is None or len(data) != SEGMENT_TOKENS * layout.bytes_per_token:
            return None
        values = torch.from_numpy(data).view(self._cache.dtype)
        return values.view(layout.num_cache_layers, SEGMENT_TOKENS, layout.latent_dim)

    def _take(self, key: bytes, block_ids: Run[int], start: int) -> bool:
        """Copy a segment for the writer; False where that has no room for it now."""
        if self._pending.full():
            return False
        first = start // self._block_size
        values = self._cache.copied_blocks(block_ids[first : first + SEGMENT_TOKENS // self._block_size])
        self._pending.put((key, values.view(torch.uint8).flatten().numpy()))
        return True

    def _write(self) -> None:
        while (item := self._pending.get()) is not None:
            if self._is_off:
                continue
            try:
                self._folder.write(*item)
            except OSError as fault:
                self._is_off = True
                logger.warning("prefixes are no longer kept on disk (%s)", fault)
