"""Absorbed latent attention of a few tokens, whole, read from the paged cache where it lies.

Per token and head: absorb the query into the latent space, score the latents, softmax, mix, and leave through the value
weight. No latent is copied, and the key and value weights are read once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from kodkod_engine.kernels.bf16 import FAST_MATH, KERNEL_OPTIONS, as_float, float_or_bits, lock

HEADS_AT_A_TIME = 4
"""Heads that share one reading of the latents."""


def reference(
    query: Tensor, latents: Tensor, slots: Tensor, positions: Tensor, kv_weight: Tensor, scale: float, value_dim: int
) -> Tensor:
    """Attention over latents in fp32.

    Args:
        query: fp32 [tokens, heads, nope + rope], rotated and scaled.
        latents: fp32 [slots, rank + rope], one cache layer.
        slots: int64 [tokens, context]: where the tokens of each token's sequence lie.
        positions: int64 [tokens]: a token sees places 0 to its own position.
        kv_weight: fp32 or bf16 [heads, nope + value, rank]; per head the key rows come first.
        scale: factor on the scores.

    Returns:
        fp32 [tokens, heads, value].
    """
    nope, rank = kv_weight.shape[1] - value_dim, kv_weight.shape[2]
    kv_weight = kv_weight.float()
    out = query.new_empty(*query.shape[:2], value_dim)
    for token, (own_slots, position) in enumerate(zip(slots, positions.tolist(), strict=True)):
        seen = latents[own_slots[: position + 1]]
        absorbed = torch.einsum("hn,hnr->hr", query[token, :, :nope], kv_weight[:, :nope])
        scores = absorbed @ seen[:, :rank].t() + query[token, :, nope:] @ seen[:, rank:].t()
        mixed = (scores * scale).softmax(dim=-1) @ seen[:, :rank]
        out[token] = torch.einsum("hr,hvr->hv", mixed, kv_weight[:, nope:])
    return out


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _absorb(query: Any, key_weight: Any, nope: int, wide: Any) -> None:
    """Query of some heads [heads, nope + rope] into the latent space [heads, rank + rope]."""
    rank = key_weight.shape[2]
    for head in range(query.shape[0]):
        for n in range(nope):
            factor = query[head, n]
            for r in range(rank):
                wide[head, r] += factor * as_float(key_weight[head, n, r])
        for r in range(wide.shape[1] - rank):
            wide[head, rank + r] = query[head, nope + r]


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _score(wide: Any, latents: Any, slots: Any, scores: Any) -> None:
    """Four heads with every place: one reading of each latent."""
    for place in range(scores.shape[1]):
        row = latents[slots[place]]
        a = b = c = d = np.float32(0)
        for r in range(wide.shape[1]):
            a += wide[0, r] * row[r]
            b += wide[1, r] * row[r]
            c += wide[2, r] * row[r]
            d += wide[3, r] * row[r]
        scores[0, place], scores[1, place], scores[2, place], scores[3, place] = a, b, c, d


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _softmax(scores: Any, scale: float) -> None:
    """In place, over the last dimension."""
    for head in range(scores.shape[0]):
        highest = np.max(scores[head])
        total = np.float32(0)
        for place in range(scores.shape[1]):
            scores[head, place] = math.exp((scores[head, place] - highest) * scale)
            total += scores[head, place]
        for place in range(scores.shape[1]):
            scores[head, place] /= total


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _mix(weights: Any, latents: Any, slots: Any, mixed: Any) -> None:
    """Weighted sum of latents for four heads: one reading of each latent."""
    for place in range(weights.shape[1]):
        row = latents[slots[place]]
        for r in range(mixed.shape[1]):
            mixed[0, r] += weights[0, place] * row[r]
            mixed[1, r] += weights[1, place] * row[r]
            mixed[2, r] += weights[2, place] * row[r]
            mixed[3, r] += weights[3, place] * row[r]


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _leave(mixed: Any, value_weight: Any, nope: int, out: Any) -> None:
    """From the latent space to values: [heads, value]."""
    for head in range(out.shape[0]):
        for v in range(out.shape[1]):
            total = np.float32(0)
            for r in range(mixed.shape[1]):
                total += mixed[head, r] * as_float(value_weight[head, nope + v, r])
            out[head, v] = total


@njit(**KERNEL_OPTIONS)
def _kernel(
    query: Any, latents: Any, slots: Any, positions: Any, kv_weight: Any, scale: float, nope: int, out: Any
) -> None:
    heads, rank = kv_weight.shape[0], kv_weight.shape[2]
    groups = (heads + HEADS_AT_A_TIME - 1) // HEADS_AT_A_TIME
    for job in prange(query.shape[0] * groups):
        token, first = job // groups, job % groups * HEADS_AT_A_TIME
        last = min(heads, first + HEADS_AT_A_TIME)
        # The last group may have fewer heads: its rows of zeros are computed and not used.
        wide = np.zeros((HEADS_AT_A_TIME, latents.shape[1]), np.float32)
        mixed = np.zeros((HEADS_AT_A_TIME, rank), np.float32)
        scores = np.empty((HEADS_AT_A_TIME, positions[token] + 1), np.float32)
        _absorb(query[token, first:last], kv_weight[first:last], nope, wide)
        _score(wide, latents, slots[token], scores)
        _softmax(scores, scale)
        _mix(scores, latents, slots[token], mixed)
        _leave(mixed, kv_weight[first:last], nope, out[token, first:last])


def latent_attention(
    query: Tensor, latents: Tensor, slots: Tensor, positions: Tensor, kv_weight: Tensor, scale: float, value_dim: int
) -> Tensor:
    """See `reference`; all else fp32 (ids int64), contiguous, on the host. `scale` must be positive."""
    out = torch.empty(*query.shape[:2], value_dim)
    nope = kv_weight.shape[1] - value_dim
    arrays = (tensor.detach().numpy() for tensor in (query.contiguous(), latents, slots, positions))
    with lock:
        _kernel(*arrays, float_or_bits(kv_weight), np.float32(scale), nope, out.numpy())
    return out
