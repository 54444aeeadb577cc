"""Logits to tokens: greedy, or a seeded draw after temperature, top-k, top-p and min-p."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kodkod_engine.api import SamplingParams, TokenLogprob
from kodkod_engine.constraints.token_mask import packed_rows
from kodkod_engine.core.step import Choice, ChosenToken, Restriction


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[ChosenToken]:
    """One token per row.

    Args:
        logits: fp32 [rows, vocab].
        choices: one per row.
    """
    restricted = restrict(logits, [choice.allowed_ids for choice in choices])
    ids: list[int] = restricted.argmax(dim=-1).tolist()
    found = _restrictions(logits, restricted, choices)
    return [
        _chosen(restricted[row], choice, ids[row], restriction)
        for row, (choice, restriction) in enumerate(zip(choices, found, strict=True))
    ]


def _chosen(restricted: Tensor, choice: Choice, best: int, restriction: Restriction | None) -> ChosenToken:
    sampling = choice.sampling
    is_forced = restriction is not None and restriction.num_allowed == 1
    token_id = best if sampling.temperature == 0 or is_forced else draw(restricted, sampling, choice.position)
    logprob = None if sampling.logprobs is None else _logprob(restricted, token_id, sampling.logprobs)
    return ChosenToken(token_id, logprob, restriction)


def restrict(logits: Tensor, allowed: Sequence[Collection[int] | None]) -> Tensor:
    """Minus infinity for what is not allowed: fp32 [rows, vocab] -> the same; new unless nothing is left out.

    One addition for the whole batch. What is added is looked up eight ids at a time, for selecting by single bits costs
    a processor ten times as much.
    """
    if all(ids is None for ids in allowed):
        return logits
    rows, vocab_size = logits.shape
    packed = torch.from_numpy(packed_rows(allowed, vocab_size).view(np.uint8)).to(logits.device)
    bias = torch.nn.functional.embedding(packed.int(), _byte_biases(logits.device))
    return logits + bias.view(rows, -1)[:, :vocab_size]


@lru_cache(maxsize=4)
def _byte_biases(device: torch.device) -> Tensor:
    """What eight packed bits add to eight logits: fp32 [256, 8], 0 for a set bit and minus infinity otherwise."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits == 1, np.float32(0), np.float32("-inf"))).to(device)


def _restrictions(logits: Tensor, restricted: Tensor, choices: Sequence[Choice]) -> list[Restriction | None]:
    """How much of the model's mass was left, and what it held most probable; None without a constraint."""
    rows = [row for row, choice in enumerate(choices) if choice.allowed_ids is not None]
    found: list[Restriction | None] = [None] * len(choices)
    if rows:
        free = logits[rows]
        masses = (restricted[rows].logsumexp(dim=-1) - free.logsumexp(dim=-1)).exp().clamp(max=1)
        wanted = free.argmax(dim=-1)
        for row, mass, best in zip(rows, masses.tolist(), wanted.tolist(), strict=True):
            found[row] = Restriction(len(choices[row].allowed_ids or ()), mass, best)
    return found


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
