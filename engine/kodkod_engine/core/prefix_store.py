"""What the engine thread asks of a place that keeps the KV of prefixes longer than the cache does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Run
from typing import Protocol, TypeVar

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class PrefixStore(Protocol):
    """KV by the tokens it was computed from. The engine thread alone uses it; it keeps less rather than fail."""

    def num_stored(self, token_ids: Run[int]) -> int:
        """Tokens from the first on whose KV can be read back, most likely."""
        ...

    def read(self, token_ids: Run[int], start: int, block_ids: Run[int]) -> int:
        """Fill blocks with the KV of the tokens from `start` on, the beginning of a block.

        Returns:
            How many of the blocks were filled, from the first on; the others hold anything.
        """
        ...

    def offer(self, sequence_id: str, token_ids: Run[int], num_computed: int, block_ids: Run[int]) -> None:
        """Take what a sequence has in its blocks and is not stored yet, as far as that can be had without waiting.

        Args:
            sequence_id: whose; offered again and again as it grows.
            token_ids: its tokens.
            num_computed: of these, from the first on, have their KV in the blocks.
            block_ids: in the order of the tokens.
        """
        ...

    def forget(self, sequence_id: str) -> None:
        """The sequence has ended. What was taken of it stays stored."""
        ...

    def close(self) -> None:
        """Finish what was taken."""
        ...


class WatchedStore:
    """See `PrefixStore`: another, until it raises for the first time. Prefixes that are not kept cost time alone."""

    def __init__(self, store: PrefixStore) -> None:
        self._store = store
        self._has_failed = False

    def num_stored(self, token_ids: Run[int]) -> int:
        """See `PrefixStore`."""
        return self._ask(lambda: self._store.num_stored(token_ids), otherwise=0)

    def read(self, token_ids: Run[int], start: int, block_ids: Run[int]) -> int:
        """See `PrefixStore`."""
        return self._ask(lambda: self._store.read(token_ids, start, block_ids), otherwise=0)

    def offer(self, sequence_id: str, token_ids: Run[int], num_computed: int, block_ids: Run[int]) -> None:
        """See `PrefixStore`."""
        self._ask(lambda: self._store.offer(sequence_id, token_ids, num_computed, block_ids), otherwise=None)

    def forget(self, sequence_id: str) -> None:
        """See `PrefixStore`."""
        self._ask(lambda: self._store.forget(sequence_id), otherwise=None)

    def close(self) -> None:
        """See `PrefixStore`."""
        self._has_failed = False  # what was taken before is finished all the same
        self._ask(self._store.close, otherwise=None)

    def _ask(self, question: Callable[[], _Answer], *, otherwise: _Answer) -> _Answer:
        if self._has_failed:
            return otherwise
        try:
            return question()
        except Exception:  # its answers' readers wait for other things
            self._has_failed = True
            logger.exception("the store of prefixes failed; nothing more is kept in it, nor read from it")
            return otherwise
