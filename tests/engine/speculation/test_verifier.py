"""The verifier alone: which drafts it accepts, and what is distributed how."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.sampler import choose, filtered_probabilities
from kodkod_engine.core.step import Choice, TokenRun
from kodkod_engine.core.verifier import follow

VOCAB_SIZE = 8


def run(draft: list[int], sampling: SamplingParams, allowed: dict[int, list[int]] | None = None) -> TokenRun:
    """A run of one accepted token and a draft; `allowed` by place."""
    choices = [Choice(sampling, 1 + place, (allowed or {}).get(place)) for place in range(len(draft) + 1)]
    return TokenRun("r", [0, *draft], (), 0, [0], choices)


def ids(logits: torch.Tensor, *runs: TokenRun) -> list[tuple[int, ...]]:
    return [tuple(token.token_id for token in tokens) for tokens in follow(logits, runs)]


def peaks(*places: int) -> torch.Tensor:
    return 9.0 * torch.nn.functional.one_hot(torch.tensor(places), VOCAB_SIZE).float()


@pytest.mark.parametrize(
    ("draft", "wanted"),
    [([], (3,)), ([3, 4, 5], (3, 4, 5, 6)), ([3, 7, 5], (3, 4)), ([7, 4, 5], (3,)), ([3, 4, 7], (3, 4, 5))],
)
def test_drafts_are_accepted_up_to_the_first_wrong_one(draft, wanted):
    assert ids(peaks(3, 4, 5, 6)[: len(draft) + 1], run(draft, SamplingParams())) == [wanted]


def test_runs_of_any_length_stand_side_by_side():
    runs = [run([3], SamplingParams()), run([], SamplingParams()), run([1, 2], SamplingParams())]
    assert ids(peaks(3, 4, 5, 1, 2, 6), *runs) == [(3, 4), (5,), (1, 2, 6)]


def test_what_is_forbidden_is_not_chosen_along_a_draft():
    assert ids(peaks(3, 4, 5), run([3, 6], SamplingParams(), {1: [6, 7], 2: [1]})) == [(3, 6, 1)]


def test_logprobs_are_those_of_each_place():
    (tokens,) = follow(peaks(3, 4), [run([3], SamplingParams(logprobs=1))])
    assert [token.logprob.top[0][0] for token in tokens] == [3, 4]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_what_is_chosen_does_not_depend_on_the_draft(temperature):
    draws = np.random.default_rng(1)
    for seed in range(200):
        logits = torch.from_numpy(draws.normal(size=(4, VOCAB_SIZE))).float()
        sampling = SamplingParams(temperature, seed=seed)
        draft = draws.integers(0, VOCAB_SIZE, 3).tolist()
        alone = [choose(logits[n : n + 1], [Choice(sampling, 1 + n, None)])[0].token_id for n in range(4)]
        (chosen,) = ids(logits, run(draft, sampling))
        assert chosen == tuple(alone[: len(chosen)])
        assert len(chosen) == 1 + next((n for n in range(3) if draft[n] != alone[n]), 3)


def check_distribution(num_samples: int) -> None:
    """First and second tokens over many seeds, under drafts that follow a distribution of their own."""
    draws = np.random.default_rng(2)
    logits = torch.from_numpy(1.5 * draws.normal(size=(3, VOCAB_SIZE))).float()
    runs_draft = draws.integers(0, VOCAB_SIZE, (num_samples, 2)).tolist()
    first: Counter[int] = Counter()
    second: Counter[int] = Counter()
    for seed, draft in enumerate(runs_draft):
        (chosen,) = ids(logits, run(draft, SamplingParams(1.0, seed=seed)))
        first[chosen[0]] += 1
        if len(chosen) > 1:
            second[chosen[1]] += 1
    for counts, row in ((first, logits[0]), (second, logits[1])):
        expected = filtered_probabilities(row, SamplingParams(1.0)).numpy() * counts.total()
        observed = np.array([counts[token_id] for token_id in range(VOCAB_SIZE)])
        chi_square = float(((observed - expected) ** 2 / expected).sum())
        assert chi_square < 24.3, f"{observed} against {expected}"  # 7 degrees of freedom, one in a thousand


def test_tokens_are_distributed_as_the_model_says():
    check_distribution(4_000)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_two_hundred_thousand_tokens_are_distributed_as_the_model_says():
    check_distribution(200_000)
