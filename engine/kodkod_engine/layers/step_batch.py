"""What one forward pass computes, as tensors: tokens of many sequences side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Sequences that attend together: each adds `query_len` tokens, their rows side by side in the step."""

    rows: slice
    """Which tokens of the step; num_sequences * query_len of them."""
    num_sequences: int
    query_len: int
    context_slots: Tensor | slice
    """Where the KV of each sequence's tokens 0, 1, ... lies, this step's own included: int64 [sequences, context],
    padded at the right with any valid slot; a slice when there is one sequence and its slots are neighbours."""
    context_len: int
    """Longest context of the group."""
    positions: Tensor
    """int64 [sequences, query_len]; a token sees the places up to its own position, so padding is never seen."""
    blocks: Tensor | None = None
    """The same places by the block, on the host: int64 [sequences, blocks], padded with any valid block. None where the
    slots do not come in blocks."""
    block_size: int = 1
    """Slots of a block."""

    def to(self, device: torch.device) -> AttentionGroup:
        """With its tensors on a device, but for `blocks`."""
        slots = self.context_slots if isinstance(self.context_slots, slice) else self.context_slots.to(device)
        return replace(self, context_slots=slots, positions=self.positions.to(device))


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One forward pass over `tokens` positions of any number of sequences."""

    token_ids: Tensor
    """int64 [tokens]."""
    windows: Tensor | None
    """int64 [tokens, 1 + context]: each token with its predecessors, for the N-gram hash; None without n-grams."""
    positions: Tensor
    """int64 [tokens]."""
    slots: Tensor
    """int64 [tokens]: where each token's KV is written."""
    groups: tuple[AttentionGroup, ...]
    """They cover all rows, each once."""

    def to(self, device: torch.device) -> StepBatch:
        """With its tensors on a device; itself when they are there."""
        if self.token_ids.device == device:
            return self
        return StepBatch(
            token_ids=self.token_ids.to(device),
            windows=None if self.windows is None else self.windows.to(device),
            positions=self.positions.to(device),
            slots=self.slots.to(device),
            groups=tuple(group.to(device) for group in self.groups),
        )
