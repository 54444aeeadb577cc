"""What the engine thread asks of a place that keeps the KV of prefixes longer than the cache does."""

from __future__ import annotations

from collections.abc import Sequence as Run
from typing import Protocol


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
