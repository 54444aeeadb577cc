"""Causal attention over whole documents, with gradients.

On a processor torch's fused attention is slow backwards. There, queries go in tiles that see the keys up to their own
end and no further, so half of the products are never done, and a tile's scores stay in the cache until they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILE_QUERIES = 128
TILE_VALUES = 1 << 19
"""Scores of a tile, 2 MiB in fp32: what two cores' caches hold."""


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention in which a token sees itself and what is before it.

    Args:
        query: [documents, heads, tokens, dim], already scaled.
        key: as query.
        value: [documents, heads, tokens, value dim].

    Returns:
        As value.
    """
    if query.device.type != "cpu" or value.dtype != torch.float32:
        # Under autocast positions are turned in fp32, and the values are in bf16.
        query, key = query.to(value.dtype), key.to(value.dtype)
        # As wide as the keys, for a GPU's quick kernels want one width.
        wide = F.pad(value, (0, query.shape[-1] - value.shape[-1]))
        return F.scaled_dot_product_attention(query, key, wide, is_causal=True, scale=1.0)[..., : value.shape[-1]]
    flat_inputs = (query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1))
    flat = _TiledAttention.apply(*flat_inputs)  # type: ignore[no-untyped-call]  # torch left it without
    out: Tensor = flat.unflatten(0, query.shape[:2])
    return out


def _tiles(num_heads: int, num_tokens: int) -> Iterator[tuple[slice, int, int]]:
    """Heads of a tile, its first query and the one after its last."""
    heads_at_once = max(1, TILE_VALUES // (TILE_QUERIES * num_tokens))
    for first in range(0, num_heads, heads_at_once):
        for start in range(0, num_tokens, TILE_QUERIES):
            yield slice(first, first + heads_at_once), start, min(start + TILE_QUERIES, num_tokens)


class _TiledAttention(torch.autograd.Function):
    """Keeps the attention weights of each tile for the way back."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[heads, tokens, dim] each -> [heads, tokens, value dim]."""
        num_heads, num_tokens, _ = query.shape
        out = torch.empty_like(value)
        future = torch.full((TILE_QUERIES, TILE_QUERIES), float("-inf")).triu_(1)
        all_weights = []
        for heads, start, stop in _tiles(num_heads, num_tokens):
            scores = torch.bmm(query[heads, start:stop], key[heads, :stop].transpose(1, 2))
            scores[:, :, start:] += future[: stop - start, : stop - start]
            weights = torch.softmax(scores, dim=-1)
            out[heads, start:stop] = torch.bmm(weights, value[heads, :stop])
            all_weights.append(weights)
        ctx.save_for_backward(query, key, value, *all_weights)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value."""
        query, key, value, *all_weights = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        tiles = _tiles(*query.shape[:2])
        for (heads, start, stop), weights in zip(tiles, all_weights, strict=True):
            part = grad[heads, start:stop]
            grad_value[heads, :stop].baddbmm_(weights.transpose(1, 2), part)
            grad_weights = torch.bmm(part, value[heads, :stop].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, torch.float32)
            grad_query[heads, start:stop] = torch.bmm(grad_scores, key[heads, :stop])
            grad_key[heads, :stop].baddbmm_(grad_scores.transpose(1, 2), query[heads, start:stop])
        return grad_query, grad_key, grad_value
