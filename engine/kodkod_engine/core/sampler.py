"""Logits to tokens: greedy, or a seeded draw after temperature, top-k, top-p and min-p."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kodkod_engine.api import SamplingParams, TokenLogprob
from kodkod_engine.core.step import Choice, ChosenToken


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[ChosenToken]:
    """One token per row.

    Args:
        logits: fp32 [rows, vocab].
        choices: one per row.
    """
    allowed = torch.stack([_restrict(row, choice.allowed_ids) for row, choice in zip(logits, choices, strict=True)])
    ids: list[int] = allowed.argmax(dim=-1).tolist()
    return [_chosen(restricted, choice, best) for restricted, choice, best in zip(allowed, choices, ids, strict=True)]


def _chosen(restricted: Tensor, choice: Choice, best: int) -> ChosenToken:
    sampling = choice.sampling
    token_id = best if sampling.temperature == 0 else draw(restricted, sampling, choice.position)
    return ChosenToken(
        token_id, None if sampling.logprobs is None else _logprob(restricted, token_id, sampling.logprobs)
    )


def _restrict(row: Tensor, allowed_ids: Collection[int] | None) -> Tensor:
    if allowed_ids is None:
        return row
    ids = _as_tensor(frozenset(allowed_ids), row.device)
    restricted = torch.full_like(row, float("-inf"))
    restricted[ids] = row[ids]
    return restricted


@lru_cache(maxsize=64)
def _as_tensor(ids: frozenset[int], device: torch.device) -> Tensor:
    # Kept because a constraint on free text allows the same large sets again and again.
    return torch.from_numpy(np.fromiter(ids, np.int64, len(ids))).to(device)


def filtered_probabilities(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """The distribution a token is drawn from: fp32 [vocab] -> float64 [vocab], sums to 1.

    The most probable token always stays.
    """
    # From the maximum down: the smallest temperatures overflow to -inf, which is a probability of 0.
    scaled = (logits.double() - logits.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        threshold = scaled.topk(sampling.top_k).values[-1]
        scaled = scaled.masked_fill(scaled < threshold, float("-inf"))
    probabilities = scaled.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        mass_before = ordered.cumsum(dim=-1) - ordered
        probabilities[order[mass_before >= sampling.top_p]] = 0
    if sampling.min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities.max(), 0)
    return probabilities / probabilities.sum()


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on seed and position alone (Philox, a counter-based generator)."""
    bits = np.random.Philox(key=seed & (2**64 - 1), counter=position)
    return float(np.random.Generator(bits).random())


def draw(logits: Tensor, sampling: SamplingParams, position: int) -> int:
    """A token drawn from the filtered distribution by inverting its cumulative sum."""
    cumulative = filtered_probabilities(logits, sampling).cumsum(dim=-1)
    point = uniform(sampling.seed, position) * float(cumulative[-1])
    # The first token whose cumulative sum passes the point: a token of probability 0 is never drawn.
    return int(torch.searchsorted(cumulative, point, right=True))


def _logprob(restricted: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    logprobs = restricted.log_softmax(dim=-1)
    best = logprobs.topk(min(num_top, int(logprobs.isfinite().sum())))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs[token_id]), top)
