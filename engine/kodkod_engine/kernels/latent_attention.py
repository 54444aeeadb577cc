"""Absorbed latent attention of a few tokens, whole, read from the paged cache where it lies.

Per token and head: absorb the query into the latent space, score the latents, softmax, mix, and leave through the value
weight. No latent is copied, and the key and value weights are read once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from torch import Tensor

from kodkod_engine.kernels.bf16 import (
    FAST_MATH,
    INFINITY,
    INSIDE,
    KERNEL_OPTIONS,
    MAGNITUDE,
    SERIAL_OPTIONS,
    as_float,
    float_or_bits,
    lock,
)
from kodkod_engine.kernels.silu import LOG2_E, power_of_two

HEADS_AT_A_TIME = 4
"""Heads that share one loading of a latent."""

MOST_HEADS = 16
"""Of a job: all of them meet a block of latents while it lies in the second level cache."""

PLACES_AT_A_TIME = 4
"""Latents that share one loading of the heads' side."""

BLOCK_PLACES = 64
"""Latents of a block; 144 KiB at the published width."""


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
def _score_four(wide: Any, latents: Any, slots: Any, place: int, scores: Any) -> None:
    """Four heads with four places: sixteen sums from eight readings."""
    first, second = latents[slots[place]], latents[slots[place + 1]]
    third, fourth = latents[slots[place + 2]], latents[slots[place + 3]]
    a = b = c = d = e = f = g = h = i = j = m = n = p = q = t = u = np.float32(0)
    for r in range(wide.shape[1]):
        one, two, three, four = wide[0, r], wide[1, r], wide[2, r], wide[3, r]
        value = first[r]
        a, b, c, d = a + value * one, b + value * two, c + value * three, d + value * four
        value = second[r]
        e, f, g, h = e + value * one, f + value * two, g + value * three, h + value * four
        value = third[r]
        i, j, m, n = i + value * one, j + value * two, m + value * three, n + value * four
        value = fourth[r]
        p, q, t, u = p + value * one, q + value * two, t + value * three, u + value * four
    scores[0, place], scores[1, place], scores[2, place], scores[3, place] = a, b, c, d
    scores[0, place + 1], scores[1, place + 1], scores[2, place + 1], scores[3, place + 1] = e, f, g, h
    scores[0, place + 2], scores[1, place + 2], scores[2, place + 2], scores[3, place + 2] = i, j, m, n
    scores[0, place + 3], scores[1, place + 3], scores[2, place + 3], scores[3, place + 3] = p, q, t, u


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _score_one(wide: Any, latents: Any, slots: Any, place: int, scores: Any) -> None:
    """Four heads with one place."""
    row = latents[slots[place]]
    a = b = c = d = np.float32(0)
    for r in range(wide.shape[1]):
        a += wide[0, r] * row[r]
        b += wide[1, r] * row[r]
        c += wide[2, r] * row[r]
        d += wide[3, r] * row[r]
    scores[0, place], scores[1, place], scores[2, place], scores[3, place] = a, b, c, d


@njit(**SERIAL_OPTIONS, **INSIDE)
def _score(wide: Any, latents: Any, slots: Any, scores: Any) -> None:
    """Some fours of heads with every place, block by block."""
    for begin in range(0, scores.shape[1], BLOCK_PLACES):
        end = min(scores.shape[1], begin + BLOCK_PLACES)
        for head in range(0, len(wide), HEADS_AT_A_TIME):
            own, own_scores = wide[head : head + HEADS_AT_A_TIME], scores[head : head + HEADS_AT_A_TIME]
            place = begin
            while end - place >= PLACES_AT_A_TIME:
                _score_four(own, latents, slots, place, own_scores)
                place += PLACES_AT_A_TIME
            while place < end:
                _score_one(own, latents, slots, place, own_scores)
                place += 1


@njit(**SERIAL_OPTIONS, **INSIDE)
def _softmax(scores: Any, scale: Any) -> None:
    """In place, over the last dimension; NaN for a head with a score that is not finite, which the power would hide."""
    factor = np.float32(scale) * LOG2_E
    patterns = scores.view(np.uint32)
    for head in range(scores.shape[0]):
        own, largest = scores[head], np.uint32(0)
        for place in range(len(own)):
            largest = max(largest, patterns[head, place] & MAGNITUDE)
        highest, total = np.max(own), np.float32(0)
        for place in range(len(own)):
            own[place] = power_of_two((own[place] - highest) * factor)
            total += own[place]
        inverse = np.float32(1) / total if largest < INFINITY else np.float32(np.nan)
        for place in range(len(own)):
            own[place] *= inverse


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _mix_four(weights: Any, latents: Any, slots: Any, place: int, mixed: Any) -> None:
    """Four places added to four heads: sixteen products from four loadings, and one writing of the mixtures."""
    first, second = latents[slots[place]], latents[slots[place + 1]]
    third, fourth = latents[slots[place + 2]], latents[slots[place + 3]]
    a, b, c, d = weights[0, place], weights[0, place + 1], weights[0, place + 2], weights[0, place + 3]
    e, f, g, h = weights[1, place], weights[1, place + 1], weights[1, place + 2], weights[1, place + 3]
    i, j, m, n = weights[2, place], weights[2, place + 1], weights[2, place + 2], weights[2, place + 3]
    p, q, t, u = weights[3, place], weights[3, place + 1], weights[3, place + 2], weights[3, place + 3]
    for r in range(mixed.shape[1]):
        one, two, three, four = first[r], second[r], third[r], fourth[r]
        mixed[0, r] += a * one + b * two + c * three + d * four
        mixed[1, r] += e * one + f * two + g * three + h * four
        mixed[2, r] += i * one + j * two + m * three + n * four
        mixed[3, r] += p * one + q * two + t * three + u * four


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _mix_one(weights: Any, latents: Any, slots: Any, place: int, mixed: Any) -> None:
    row = latents[slots[place]]
    for r in range(mixed.shape[1]):
        mixed[0, r] += weights[0, place] * row[r]
        mixed[1, r] += weights[1, place] * row[r]
        mixed[2, r] += weights[2, place] * row[r]
        mixed[3, r] += weights[3, place] * row[r]


@njit(**SERIAL_OPTIONS, **INSIDE)
def _mix(weights: Any, latents: Any, slots: Any, mixed: Any) -> None:
    """Weighted sum of latents for some fours of heads, block by block."""
    for begin in range(0, weights.shape[1], BLOCK_PLACES):
        end = min(weights.shape[1], begin + BLOCK_PLACES)
        for head in range(0, len(mixed), HEADS_AT_A_TIME):
            own, own_mixed = weights[head : head + HEADS_AT_A_TIME], mixed[head : head + HEADS_AT_A_TIME]
            place = begin
            while end - place >= PLACES_AT_A_TIME:
                _mix_four(own, latents, slots, place, own_mixed)
                place += PLACES_AT_A_TIME
            while place < end:
                _mix_one(own, latents, slots, place, own_mixed)
                place += 1


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _leave(mixed: Any, value_weight: Any, nope: int, out: Any) -> None:
    """From the latent space to values: [heads, value]."""
    for head in range(out.shape[0]):
        for v in range(out.shape[1]):
            total = np.float32(0)
            for r in range(mixed.shape[1]):
                total += mixed[head, r] * as_float(value_weight[head, nope + v, r])
            out[head, v] = total


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def heads_per_job(heads: int, tokens: int, parts: int) -> int:
    """Inside a kernel: fours of heads that go together, so many that every thread has a job."""
    fours = (heads * tokens + HEADS_AT_A_TIME * parts - 1) // (HEADS_AT_A_TIME * parts)
    return min(MOST_HEADS, HEADS_AT_A_TIME * max(1, fours))


@njit(**KERNEL_OPTIONS)
def _kernel(
    query: Any, latents: Any, slots: Any, positions: Any, kv_weight: Any, scale: float, nope: int, out: Any, parts: int
) -> None:
    heads, rank = kv_weight.shape[0], kv_weight.shape[2]
    together = heads_per_job(heads, query.shape[0], parts)
    groups = (heads + together - 1) // together
    for job in prange(query.shape[0] * groups):
        token, first = job // groups, job % groups * together
        last = min(heads, first + together)
        # The last four may have fewer heads: their rows of zeros are computed and not used.
        rows = (last - first + HEADS_AT_A_TIME - 1) // HEADS_AT_A_TIME * HEADS_AT_A_TIME
        wide = np.zeros((rows, latents.shape[1]), np.float32)
        mixed = np.zeros((rows, rank), np.float32)
        scores = np.empty((rows, positions[token] + 1), np.float32)
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
        _kernel(*arrays, float_or_bits(kv_weight), np.float32(scale), nope, out.numpy(), get_num_threads())
    return out
