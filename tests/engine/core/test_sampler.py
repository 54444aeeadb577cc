"""Choosing tokens, against a naive numpy version and by counting draws."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.api import SamplingParams
from kodkod_engine.constraints.token_mask import TokenMask
from kodkod_engine.core.sampler import choose, draw, filtered_probabilities, restrict, uniform
from kodkod_engine.core.step import Choice

VOCAB = 12
logit_rows = st.lists(st.integers(-800, 800), min_size=VOCAB, max_size=VOCAB, unique=True).map(
    lambda values: torch.tensor(values) / 100
)
"""No ties: which of two equal tokens is cut off is nobody's promise."""


def naive(logits: torch.Tensor, sampling: SamplingParams) -> np.ndarray:
    """Filter by filter over sorted (probability, token) pairs."""
    values = logits.double().numpy() / sampling.temperature
    weights = np.exp(values - values.max())
    kept = sorted(((weight, token) for token, weight in enumerate(weights)), reverse=True)
    if sampling.top_k:
        kept = kept[: sampling.top_k]
    total = sum(weight for weight, _ in kept)
    smallest, mass = [], 0.0
    for weight, token in kept:
        smallest.append((weight, token))
        mass += weight / total
        if mass >= sampling.top_p:
            break
    survivors = [(weight, token) for weight, token in smallest if weight >= sampling.min_p * kept[0][0]]
    out = np.zeros(len(weights))
    for weight, token in survivors:
        out[token] = weight / sum(other for other, _ in survivors)
    return out


@settings(max_examples=200, deadline=None)
@given(
    logit_rows,
    st.floats(0.05, 4),
    st.integers(0, VOCAB + 3),
    st.sampled_from([0.01, 0.3, 0.55, 0.9, 0.999, 1.0]),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_filters_equal_the_naive_ones(logits, temperature, top_k, top_p, min_p):
    sampling = SamplingParams(temperature, top_k, top_p, min_p)
    got = filtered_probabilities(logits, sampling)
    assert got.dtype == torch.float64
    assert float(got.sum()) == pytest.approx(1)
    assert int(got.argmax()) == int(logits.argmax())
    np.testing.assert_allclose(got.numpy(), naive(logits, sampling), atol=1e-9)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (SamplingParams(1.0), [0.5, 0.25, 0.15, 0.1]),
        (SamplingParams(1.0, top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (SamplingParams(1.0, top_k=1), [1, 0, 0, 0]),
        (SamplingParams(1.0, top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
        (SamplingParams(1.0, top_p=0.01), [1, 0, 0, 0]),
        (SamplingParams(1.0, min_p=0.25), [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        (SamplingParams(1.0, top_k=3, top_p=0.8), [2 / 3, 1 / 3, 0, 0]),
        (SamplingParams(0.5), [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
    ],
)
def test_filters_by_hand(sampling, expected):
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert filtered_probabilities(logits, sampling).tolist() == pytest.approx(expected, abs=1e-6)


def test_greedy_takes_the_best_whatever_the_filters_say():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    choices = [Choice(SamplingParams(0.0, top_k=1, top_p=0.1, min_p=1.0, seed=n), n, None) for n in range(2)]
    assert [chosen.token_id for chosen in choose(logits, choices)] == [1, 0]


@pytest.mark.parametrize(
    "sampling", [SamplingParams(1.0), SamplingParams(0.7, top_k=6), SamplingParams(1.3, top_p=0.8, min_p=0.05)]
)
def test_draws_follow_the_distribution(sampling):
    """Chi-square over 4000 positions; the bound is the 99.9th percentile for 11 degrees of freedom."""
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(5))
    expected = naive(logits, sampling)
    draws = 4000
    counts = Counter(draw(logits, sampling, position) for position in range(draws))
    assert {token for token in counts if expected[token] == 0} == set()
    chi_square = sum(
        (counts[token] - draws * share) ** 2 / (draws * share) for token, share in enumerate(expected) if share
    )
    assert chi_square < 31.26


def test_draws_over_seeds_follow_the_distribution_too():
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    draws = 4000
    counts = Counter(draw(logits, SamplingParams(1.0, seed=seed), 17) for seed in range(draws))
    expected = [0.5, 0.25, 0.15, 0.1]
    assert sum((counts[token] - draws * p) ** 2 / (draws * p) for token, p in enumerate(expected)) < 16.27


def test_seed_and_position_determine_the_draw():
    logits = torch.zeros(1000)
    drawn = {
        (seed, position): draw(logits, SamplingParams(1.0, seed=seed), position)
        for seed in range(20)
        for position in range(20)
    }
    assert len(set(drawn.values())) > 250, "400 draws of 1000 tokens, about 330 different ones"
    for (seed, position), token in drawn.items():
        assert draw(logits, SamplingParams(1.0, seed=seed), position) == token


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**20))
@settings(max_examples=100, deadline=None)
def test_uniform_numbers_are_pure_and_in_range(seed, position):
    point = uniform(seed, position)
    assert 0 <= point < 1
    assert uniform(seed, position) == point


def test_neighbouring_positions_are_independent():
    points = np.array([uniform(0, position) for position in range(2000)])
    assert abs(np.corrcoef(points[:-1], points[1:])[0, 1]) < 0.08
    assert abs(points.mean() - 0.5) < 0.03


def test_the_batch_does_not_matter():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(7, 50, generator=generator)
    choices = [Choice(SamplingParams(0.9, seed=n, logprobs=2), 10 + n, None) for n in range(7)]
    together = choose(rows, choices)
    assert together == [choose(rows[n : n + 1], choices[n : n + 1])[0] for n in range(7)]
    assert len({chosen.token_id for chosen in together}) > 1


@settings(max_examples=80, deadline=None)
@given(logit_rows, st.sets(st.integers(0, VOCAB - 1), min_size=1), st.sampled_from([0.0, 0.5, 5.0]), st.integers(0, 99))
def test_a_constraint_holds(logits, allowed, temperature, position):
    before = logits.clone()
    [chosen] = choose(logits[None], [Choice(SamplingParams(temperature), position, allowed)])
    assert chosen.token_id in allowed
    assert torch.equal(logits, before)
    if temperature == 0:
        assert chosen.token_id == max(allowed, key=lambda token: float(logits[token]))


def test_a_constraint_renormalises_what_is_left():
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()[None]
    counts = Counter(
        choose(logits, [Choice(SamplingParams(1.0), position, [1, 3])])[0].token_id for position in range(2000)
    )
    assert set(counts) == {1, 3}
    assert counts[1] / 2000 == pytest.approx(0.25 / 0.35, abs=0.04)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.sets(st.integers(0, 99), min_size=1)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 9),
)
def test_masks_are_applied_as_filling_would(rows, pack, seed):
    logits = torch.randn(len(rows), 100, generator=torch.Generator().manual_seed(seed))
    allowed = [TokenMask.of(ids, 100) if pack and ids is not None else ids for ids in rows]
    wanted = logits.clone()
    for row, ids in enumerate(rows):
        left_out = sorted(set(range(100)) - ids) if ids is not None else []
        wanted[row, left_out] = float("-inf")
    assert torch.equal(restrict(logits, allowed), wanted)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 399), min_size=1, max_size=400), st.integers(0, 99), st.sampled_from([0.0, 0.7, 1.5]))
def test_a_small_set_alone_is_chosen_from_as_in_its_row(allowed, position, temperature):
    logits = torch.randn(1, 400, generator=torch.Generator().manual_seed(position))
    sampling = SamplingParams(temperature, top_k=9, top_p=0.9, logprobs=3)
    [chosen] = choose(logits, [Choice(sampling, position, allowed)])
    row = restrict(logits, [allowed])[0]
    assert chosen.token_id == (draw(row, sampling, position) if temperature else int(row.argmax()))
    logprobs = row.log_softmax(-1)
    assert chosen.logprob.logprob == pytest.approx(float(logprobs[chosen.token_id]), abs=1e-5)
    assert [token for token, _ in chosen.logprob.top] == logprobs.topk(min(3, len(allowed))).indices.tolist()
    assert chosen.restriction.allowed_mass == pytest.approx(
        float(logits[0].softmax(-1)[sorted(allowed)].sum()), abs=1e-5
    )


def test_doubt_is_what_the_model_gave_to_all_that_is_allowed():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]] * 3).log()
    choices = [Choice(SamplingParams(temperature), 0, ids) for temperature, ids in ((0, {1, 3}), (9, {3}), (0, None))]
    left, forced, free = choose(logits, choices)
    assert (left.token_id, left.restriction.num_allowed, left.restriction.wanted_id) == (1, 2, 0)
    assert left.restriction.allowed_mass == pytest.approx(0.35, abs=1e-6)
    assert (forced.token_id, forced.restriction.num_allowed) == (3, 1)
    assert forced.restriction.allowed_mass == pytest.approx(0.1, abs=1e-6)
    assert free.restriction is None


def test_logprobs_are_of_the_whole_unfiltered_distribution():
    shares = [0.5, 0.25, 0.15, 0.1]
    logits = torch.tensor(shares).log()[None]
    [chosen] = choose(logits, [Choice(SamplingParams(0.3, top_k=1, logprobs=3), 0, None)])
    assert chosen.token_id == 0
    assert chosen.logprob is not None
    assert chosen.logprob.token_id == 0
    assert chosen.logprob.logprob == pytest.approx(math.log(0.5), abs=1e-6)
    assert [token for token, _ in chosen.logprob.top] == [0, 1, 2]
    assert [value for _, value in chosen.logprob.top] == pytest.approx([math.log(p) for p in shares[:3]], abs=1e-6)


@pytest.mark.parametrize("num_top", [0, 1, 2, 99])
def test_logprobs_under_a_constraint_are_of_what_is_allowed(num_top):
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()[None]
    [chosen] = choose(logits, [Choice(SamplingParams(logprobs=num_top), 0, [3, 1])])
    assert chosen.logprob is not None
    assert chosen.logprob.logprob == pytest.approx(math.log(0.25 / 0.35), abs=1e-6)
    assert [token for token, _ in chosen.logprob.top] == [1, 3][:num_top]
    assert all(math.isfinite(value) for _, value in chosen.logprob.top)


@pytest.mark.parametrize(("asked", "given_back"), [(None, None), (0, 0), (2, 2), (99, 4)])
def test_as_many_logprobs_as_asked(asked, given_back):
    [chosen] = choose(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), [Choice(SamplingParams(logprobs=asked), 0, None)])
    assert (None if chosen.logprob is None else len(chosen.logprob.top)) == given_back


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-308, 5e-324])
def test_the_coldest_draws_are_greedy(temperature):
    logits = torch.tensor([1.0, 4.0, 3.0, -50.0])
    assert {draw(logits, SamplingParams(temperature), position) for position in range(50)} == {1}


@pytest.mark.parametrize("temperature", [1e30, 1e308, float("inf")])
def test_the_hottest_draws_are_even_and_keep_to_what_is_allowed(temperature):
    logits = torch.randn(1, 400, generator=torch.Generator().manual_seed(1))
    allowed = TokenMask.of(range(100, 400), 400)
    choices = [Choice(SamplingParams(temperature), position, allowed) for position in range(300)]
    drawn = {choose(logits, [choice])[0].token_id for choice in choices}
    assert drawn <= allowed
    assert len(drawn) > 150
