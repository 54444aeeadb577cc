"""Causal attention of many new tokens over keys and values as they are, tile by tile, on a processor."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SCORE_VALUES = 1 << 22
"""Scores held at a time in the expanded form; 8 MiB in bf16, so that they stay in the processor's cache."""

MAX_TILE_QUERIES = 256
"""Queries at a time in the expanded form: up to here products keep their speed, and what a tile's last query alone may
see is computed for all of it."""


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float) -> Tensor:
    """Attention of one sequence's new tokens, in the dtype of the keys.

    Args:
        query: [new, heads, dim], rotated.
        key: [heads, dim, context].
        value: [heads, value, context].
        positions: int64 [new], ascending; a token sees the places up to its own.
        scale: factor on the scores.

    Returns:
        [new, heads, value], query's dtype.
    """
    num_heads, value_dim, context = value.shape
    scaled = _times(query, scale, key.dtype).transpose(0, 1)
    out = query.new_empty(len(query), num_heads, value_dim)
    tile = max(1, min(MAX_TILE_QUERIES, MAX_SCORE_VALUES // context))
    for start in range(0, len(query), tile):
        rows = slice(start, start + tile)
        visible = min(int(positions[rows][-1]) + 1, context)
        mask = _mask(positions[rows], visible, key.dtype)
        # One head at a time: products of two matrices take operands as they lie, batched ones copy them.
        for head in range(num_heads):
            out[rows, head] = _attend_one_head(scaled[head, rows], key[head], value[head], mask, visible)
    return out


def _times(x: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    """The product in x's precision, rounded to a dtype; in one pass where no gradient is asked for."""
    if x.requires_grad:
        return (x * factor).to(dtype)
    return torch.mul(x, factor, out=torch.empty(x.shape, dtype=dtype, device=x.device))


def _mask(positions: Tensor, visible: int, dtype: torch.dtype) -> Tensor:
    """Of the places behind the first query's, for up to there nothing is hidden: -inf where one is, else 0.

    Args:
        positions: int64 [new], ascending.
        visible: places that the last query sees.

    Returns:
        [new, visible - places the first query sees].
    """
    hidden = torch.arange(int(positions[0]) + 1, visible, device=positions.device) > positions[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _attend_one_head(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, visible: int) -> Tensor:
    """Causal attention of a few queries; keys beyond the last one's position are not touched.

    Args:
        query: [new, dim], scaled.
        key: [dim, context].
        value: [value, context].
        mask: [new, places], added to the scores of the last visible places.
        visible: places that the last query sees.

    Returns:
        [new, value].
    """
    scores = query @ key[:, :visible]
    scores[:, visible - mask.shape[1] :] += mask
    return scores.softmax(dim=-1) @ value[:, :visible].t()
