"""What one forward pass computes, as tensors: tokens of many sequences side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kodkod_engine.layers.expanded_context import ExpandedContext


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where the KV of a group lies, by the block, on the host: place p of a sequence is at slot
    `table[sequence, p // size] * size + p % size`."""

    table: Tensor
    """int64 [sequences, blocks], padded with any valid block."""
    size: int

    def slots(self, context_len: int) -> Tensor | slice:
        """The same slot by slot, as `AttentionGroup.context_slots`."""
        first = self.table[0]
        if len(self.table) == 1 and bool((first.diff() == 1).all()):
            start = int(first[0]) * self.size
            return slice(start, start + context_len)
        slots = self.table[:, :, None] * self.size + torch.arange(self.size)
        return slots.flatten(1)[:, :context_len].contiguous()


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences that attend together: each adds `query_len` tokens, their rows side by side in the step."""

    rows: slice
    """Which tokens of the step; num_sequences * query_len of them."""
    num_sequences: int
    query_len: int
    places: Tensor | slice | Blocks
    """Where the KV of each sequence's tokens 0, 1, ... lies: slots, or the blocks they are in."""
    context_len: int
    """Longest context of the group."""
    positions: Tensor
    """int64 [sequences, query_len]; a token sees the places up to its own position, so padding is never seen."""
    expanded: ExpandedContext | None = None
    """Where keys and values of its one sequence are kept, if they are."""

    @cached_property
    def context_slots(self) -> Tensor | slice:
        """Slots of each sequence's tokens 0, 1, ..., this step's own included: int64 [sequences, context], padded at
        the right with any valid slot; a slice when there is one sequence and its slots are neighbours.

        Made when it is asked for: steps that read blocks never do.
        """
        return self.places.slots(self.context_len) if isinstance(self.places, Blocks) else self.places

    def to(self, device: torch.device) -> AttentionGroup:
        """With its tensors on a device."""
        slots = self.context_slots
        places = slots if isinstance(slots, slice) else slots.to(device)
        return replace(self, places=places, positions=self.positions.to(device))


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
