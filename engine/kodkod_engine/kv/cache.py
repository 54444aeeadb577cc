"""The paged latent KV cache as tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kodkod_engine.kv.layout import KvLayout


class KvCache:
    """One [slots, latent_dim] tensor per cache layer. Who owns which slot is the block pool's business."""

    def __init__(self, layout: KvLayout, dtype: torch.dtype, device: torch.device | str) -> None:
        self.layout = layout
        shape = (layout.num_cache_layers, layout.num_slots, layout.latent_dim)
        # What lies behind a sequence's end in its last block is hidden by a weight of zero, so it must be finite.
        self._latents = _zeros(shape, dtype, torch.device(device))

    @property
    def dtype(self) -> torch.dtype:
        """Of the latents."""
        return self._latents.dtype

    def write(self, layer: int, slots: Tensor, latents: Tensor) -> None:
        """Store latents [tokens, latent_dim] at slots int64 [tokens]."""
        self._latents[layer].index_copy_(0, slots, latents.to(self._latents.dtype))

    def layer(self, layer: int) -> Tensor:
        """All of one cache layer in place: [slots, latent_dim]."""
        return self._latents[layer]

    def read(self, layer: int, slots: Tensor | slice) -> Tensor:
        """Latents at some slots: int64 [...] -> [..., latent_dim] copied; a slice is read in place."""
        if isinstance(slots, slice):
            return self._latents[layer, slots]
        rows = self._latents[layer].index_select(0, slots.flatten())
        return rows.view(*slots.shape, self.layout.latent_dim)

    def copy_block(self, source_block: int, target_block: int, num_tokens: int) -> None:
        """Copy the first `num_tokens` rows of a block, in all layers (copy on write)."""
        size = self.layout.block_size
        source, target = source_block * size, target_block * size
        self._latents[:, target : target + num_tokens] = self._latents[:, source : source + num_tokens]

    def copied_blocks(self, block_ids: Sequence[int]) -> Tensor:
        """Whole blocks on the host, in all layers: [layers, blocks * block_size, latent_dim]."""
        return self._latents.index_select(1, self._slots_of(block_ids)).cpu()

    def put_blocks(self, block_ids: Sequence[int], latents: Tensor) -> None:
        """Write whole blocks, as `copied_blocks` returns them."""
        self._latents.index_copy_(1, self._slots_of(block_ids), latents.to(self._latents.device))

    def _slots_of(self, block_ids: Sequence[int]) -> Tensor:
        size, device = self.layout.block_size, self._latents.device
        first = torch.tensor(block_ids, dtype=torch.int64, device=device)[:, None] * size
        return (first + torch.arange(size, device=device)).flatten()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; in host memory its pages are taken when they are first written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
