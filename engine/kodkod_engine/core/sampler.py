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
from kodkod_engine.layers.draws import Draws

_MAX_GATHERED = 256
"""Sets up to this size are looked at by themselves, without the rest of the vocabulary."""

_HOTTEST = 1e300
"""Beyond, all that is allowed is equally probable anyway; and infinity over infinity is no number."""

_MOST_K = 2**31
"""Beyond every vocabulary: there a top-k keeps all."""


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[ChosenToken]:
    """One token per row.

    Args:
        logits: fp32 [rows, vocab].
        choices: one per row.
    """
    wanted: list[int] = logits.argmax(dim=-1).tolist()
    found = _restrictions(logits, choices, wanted)
    masks = [None if _is_gathered(choice.allowed_ids) else choice.allowed_ids for choice in choices]
    restricted = restrict(logits, masks)
    return [
        _chosen(restricted[row], choice, wanted[row], restriction)
        for row, (choice, restriction) in enumerate(zip(choices, found, strict=True))
    ]


def _is_gathered(allowed: Collection[int] | None) -> bool:
    return allowed is not None and len(allowed) <= _MAX_GATHERED


def _chosen(row: Tensor, choice: Choice, wanted: int, restriction: Restriction | None) -> ChosenToken:
    allowed = choice.allowed_ids
    if allowed is None or not _is_gathered(allowed):
        return _drawn(row, choice, wanted if allowed is None or wanted in allowed else None, restriction)
    ids = sorted(allowed)
    if len(ids) == 1 and choice.sampling.logprobs is None:
        return ChosenToken(ids[0], None, restriction)
    drawn = _drawn(row[ids], choice, None, restriction)
    logprob = drawn.logprob
    if logprob is not None:
        logprob = TokenLogprob(ids[logprob.token_id], logprob.logprob, tuple((ids[at], lp) for at, lp in logprob.top))
    return ChosenToken(ids[drawn.token_id], logprob, restriction)


def _drawn(row: Tensor, choice: Choice, best: int | None, restriction: Restriction | None) -> ChosenToken:
    """A token of a row of which everything finite is allowed; `best` is its maximum, if it is known."""
    sampling = choice.sampling
    if sampling.temperature > 0:
        token_id = draw(row, sampling, choice.position)
    else:
        token_id = int(row.argmax()) if best is None else best
    logprob = None if sampling.logprobs is None else _logprob(row, token_id, sampling.logprobs)
    return ChosenToken(token_id, logprob, restriction)


def restrict(logits: Tensor, allowed: Sequence[Collection[int] | None]) -> Tensor:
    """Minus infinity for what is not allowed: fp32 [rows, vocab] -> the same; new unless nothing is left out.

    One addition for the whole batch. What is added is looked up eight ids at a time, for selecting by single bits costs
    a processor ten times as much.
    """
    if all(ids is None for ids in allowed):
        return logits
    return logits + _looked_up(allowed, logits, float("-inf"), 0.0)


def _looked_up(allowed: Sequence[Collection[int] | None], like: Tensor, absent: float, present: float) -> Tensor:
    """One value for each id that is allowed and one for each that is not: fp32 [rows, vocab]."""
    rows, vocab_size = like.shape
    packed = torch.from_numpy(packed_rows(allowed, vocab_size).view(np.uint8)).to(like.device)
    table = _byte_table(like.device, absent, present)
    return torch.nn.functional.embedding(packed.int(), table).view(rows, -1)[:, :vocab_size]


@lru_cache(maxsize=8)
def _byte_table(device: torch.device, absent: float, present: float) -> Tensor:
    """The values of eight packed bits: fp32 [256, 8]."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits == 1, np.float32(present), np.float32(absent))).to(device)


def _restrictions(logits: Tensor, choices: Sequence[Choice], wanted: Sequence[int]) -> list[Restriction | None]:
    """How much of the model's mass was left, and what it held most probable; None without a constraint."""
    sets = {row: choice.allowed_ids for row, choice in enumerate(choices) if choice.allowed_ids is not None}
    found: list[Restriction | None] = [None] * len(choices)
    if sets:
        rows = logits if len(sets) == len(choices) else logits[list(sets)]
        weights = (rows - rows.amax(dim=-1, keepdim=True)).exp_()
        left = (weights * _looked_up(list(sets.values()), rows, 0.0, 1.0)).sum(dim=-1)
        masses: list[float] = (left / weights.sum(dim=-1)).clamp_(max=1).tolist()
        for (row, allowed), mass in zip(sets.items(), masses, strict=True):
            found[row] = Restriction(len(allowed), mass, wanted[row])
    return found


def filtered_probabilities(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """The distribution a token is drawn from: fp32 [vocab] -> float64 [vocab], sums to 1.

    The most probable token always stays.
    """
    # From the maximum down: the smallest temperatures overflow to -inf, which is a probability of 0.
    scaled = (logits.double() - logits.max()) / min(sampling.temperature, _HOTTEST)
    if 0 < sampling.top_k < len(scaled):
        threshold = scaled.topk(sampling.top_k).values[-1]
        scaled = scaled.masked_fill(scaled < threshold, float("-inf"))
    probabilities = scaled.softmax(dim=-1)
    if sampling.top_p < 1:
        # Of equal tokens the lower ids stay, as on a device.
        ordered, order = probabilities.sort(descending=True, stable=True)
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


def draws_of(choices: Sequence[Choice], num_steps: int) -> Draws:
    """What a device needs to draw the same ids: one row for each choice, which nothing restricts.

    Args:
        choices: of the first step; in each later one every row stands a position further on.
        num_steps: draws of each row.
    """

    def each(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(choice.sampling, name) for choice in choices], dtype=dtype)

    floats = torch.float64
    top_k = torch.tensor([min(choice.sampling.top_k, _MOST_K) for choice in choices])
    points = [[_point(choice, step) for choice in choices] for step in range(num_steps)]
    return Draws(
        each("temperature", floats), top_k, each("top_p", floats), each("min_p", floats),
        torch.tensor(points, dtype=floats),
    )  # fmt: skip


def _point(choice: Choice, step: int) -> float:
    return uniform(choice.sampling.seed, choice.position + step) if choice.sampling.temperature > 0 else 0.0


def _logprob(restricted: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    logprobs = restricted.log_softmax(dim=-1)
    best = logprobs.topk(min(num_top, int(logprobs.isfinite().sum())))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs[token_id]), top)
