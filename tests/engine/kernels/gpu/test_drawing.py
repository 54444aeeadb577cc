"""Drawing on the device against the host's sampler: the same points draw the same ids. And from a step to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.sampler import choose, draws_of, filtered_probabilities
from kodkod_engine.core.step import Choice
from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher, ngram_row_ids
from kodkod_engine.models.ngram_spec import polynomial_spec

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LITE_VOCAB = 131_072
KINDS = (
    SamplingParams(),
    SamplingParams(1.0),
    SamplingParams(0.7, top_k=5),
    SamplingParams(1.3, top_p=0.8),
    SamplingParams(1.0, min_p=0.05),
    SamplingParams(2.0, top_k=40, top_p=0.95, min_p=0.01),
    SamplingParams(0.0, top_k=3, top_p=0.5, min_p=1.0),
    SamplingParams(1.0, top_p=1e-6),
    SamplingParams(1e-300),
)
"""One after another they make batches in which no two rows are alike."""


def _logits(rows: int, vocab: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3
    return logits.to(DEVICE, dtype)


def _choices(rows: int, kinds: Sequence[SamplingParams] = KINDS, position: int = 7) -> list[Choice]:
    return [Choice(kinds[row % len(kinds)], position + row, None) for row in range(rows)]


def _drawn(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int]:
    """By the kernel; and the reference has to say the same."""
    from kodkod_engine.kernels.gpu.draw_ids import draw_ids, reference

    draws = draws_of(choices, 1).to(DEVICE)
    step = torch.zeros(len(choices), dtype=torch.int64, device=DEVICE)
    got: list[int] = draw_ids(logits, draws, step).tolist()
    assert reference(logits, draws, step).tolist() == got
    return got


def _by_host(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int]:
    return [chosen.token_id for chosen in choose(logits.float().cpu(), choices)]


@pytest.mark.parametrize(
    ("rows", "vocab", "dtype"),
    [
        (1, 7, torch.float32),
        (9, 61, torch.bfloat16),
        (9, 320, torch.float16),
        pytest.param(13, 320, torch.float32, marks=pytest.mark.slow),
        pytest.param(31, 5_000, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_the_same_ids_as_on_the_host(rows, vocab, dtype):
    """Odd batches; a vocabulary below a block of the kernel, and one above; bf16 has equal logits in plenty."""
    logits, choices = _logits(rows, vocab, 1, dtype), _choices(rows)
    assert _drawn(logits, choices) == _by_host(logits, choices)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_the_published_vocabulary(dtype):
    logits, choices = _logits(3, LITE_VOCAB, dtype=dtype), _choices(3, KINDS[3:])
    logits[0, -1] = 40.0  # the very last id
    choices[0] = Choice(SamplingParams(1.0), 7, None)
    got = _drawn(logits, choices)
    assert got == _by_host(logits, choices)
    assert got[0] == LITE_VOCAB - 1


logit_values = st.one_of(st.integers(-12, 12).map(lambda value: value / 4), st.just(float("-inf")), st.just(-0.0))
samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.05, 0.7, 1.0, 4.0]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.01, 0.3, 0.55, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**40),
)


def check_borders(how: settings) -> None:
    """-inf, both zeros, and equal logits at the borders of the filters."""

    @how
    @given(st.lists(logit_values, min_size=12, max_size=12), samplings, st.integers(0, 2**20), st.integers(-8, 8))
    def holds(values, sampling, position, finite):
        values[position % 12] = finite / 4
        logits = torch.tensor([values], device=DEVICE, dtype=torch.bfloat16)
        choices = [Choice(sampling, position, None)]
        (got,) = _drawn(logits, choices)
        assert values[got] != float("-inf")
        assert got == _by_host(logits, choices)[0]

    holds()


def test_equal_logits_and_excluded_ids():
    check_borders(settings(max_examples=25, deadline=None, derandomize=True))


@pytest.mark.slow
def test_equal_logits_and_excluded_ids_in_many_cases():
    check_borders(settings(max_examples=500, deadline=None))


@pytest.mark.parametrize("sampling", [KINDS[1], KINDS[3], KINDS[5]])
def test_draws_follow_the_distribution(sampling):
    """Chi-square over 4000 rows; the bound is the 99.9th percentile for 11 degrees of freedom.

    By the reference, which is all rows at once; the kernel says the same wherever they meet in these tests.
    """
    from kodkod_engine.kernels.gpu.draw_ids import reference

    logits, draws = _logits(1, 12, seed=5), 4_000
    expected = filtered_probabilities(logits[0].cpu(), sampling).tolist()
    points = draws_of(_choices(draws, [sampling]), 1).to(DEVICE)
    drawn = reference(logits.expand(draws, -1), points, torch.zeros(draws, dtype=torch.int64, device=DEVICE))
    counts = Counter(drawn.tolist())
    assert {token for token in counts if expected[token] == 0} == set()
    assert sum((counts[token] - draws * p) ** 2 / (draws * p) for token, p in enumerate(expected) if p) < 31.26


@pytest.mark.parametrize("sampling", [KINDS[1], KINDS[5]])
def test_the_kernel_gives_each_id_its_share_of_evenly_spread_points(sampling):
    from kodkod_engine.kernels.gpu.draw_ids import draw_ids

    logits, draws = _logits(1, 12, seed=5, dtype=torch.bfloat16), 40
    expected = filtered_probabilities(logits[0].float().cpu(), sampling).tolist()
    spread = (torch.arange(draws, dtype=torch.float64, device=DEVICE)[None] + 0.5) / draws
    points = replace(draws_of(_choices(draws, [sampling]), 1).to(DEVICE), points=spread)
    at = torch.zeros(draws, dtype=torch.int64, device=DEVICE)
    counts = Counter(draw_ids(logits.expand(draws, -1).contiguous(), points, at).tolist())
    assert all(abs(counts[token] - draws * p) <= 1 for token, p in enumerate(expected))
    assert all(counts[token] == 0 for token, p in enumerate(expected) if p == 0)


def test_seed_and_position_decide_and_the_company_does_not():
    logits, choices = _logits(4, 320, dtype=torch.bfloat16), _choices(4, KINDS[2:])
    together = _drawn(logits, choices)
    for row, choice in enumerate(choices):
        assert _drawn(logits[row : row + 1].contiguous(), [choice]) == together[row : row + 1]
    others = [Choice(SamplingParams(1.0, seed=seed), 7, None) for seed in range(9)]
    assert len(set(_drawn(torch.zeros(9, 320, device=DEVICE, dtype=torch.bfloat16), others))) > 6


def test_each_step_of_a_visit_draws_as_the_step_alone_would():
    from kodkod_engine.kernels.gpu.draw_ids import draw_ids

    logits, choices = _logits(5, 320, dtype=torch.bfloat16), _choices(5, KINDS[:2])
    draws = draws_of(choices, 3).to(DEVICE)
    for step in range(3):
        later = [Choice(choice.sampling, choice.position + step, None) for choice in choices]
        at = torch.full((5,), step, device=DEVICE)
        assert draw_ids(logits, draws, at).tolist() == _drawn(logits, later)


@pytest.mark.parametrize("window", [1, 4])
def test_the_next_step_stands_where_the_id_leads(window):
    from kodkod_engine.kernels.gpu.next_step import Places, next_step, reference

    def places() -> Places:
        ints = torch.Generator().manual_seed(3)
        return Places(
            step=torch.tensor([0, 1, 2], device=DEVICE),
            last=torch.full((3,), 2, device=DEVICE),
            positions=torch.tensor([6, 7, 30], device=DEVICE),
            slots=torch.tensor([96, 97, 98], device=DEVICE),
            windows=torch.randint(3, 50, (3, window), generator=ints).to(DEVICE),
            blocks=torch.randperm(24, generator=ints).view(3, 8).to(DEVICE),
        )

    ids = torch.tensor([11, 12, 13], device=DEVICE)
    got, wanted, before = places(), places(), places()
    chosen, chosen_too = torch.zeros(4, 3, dtype=torch.int64, device=DEVICE), torch.zeros(4, 3, dtype=torch.int64)
    logits = torch.zeros(3, 14, device=DEVICE, dtype=torch.bfloat16)
    next_step(ids, logits, got, chosen, 4)
    reference(ids, logits, wanted, chosen_too.to(DEVICE), 4)
    for name in Places.__slots__:
        assert torch.equal(getattr(got, name), getattr(wanted, name)), name
    assert chosen.tolist() == [[11, 0, 0], [0, 12, 0], [0, 0, 13], [0, 0, 0]]
    assert got.positions.tolist() == [7, 8, 30]
    assert got.slots.tolist() == [int(before.blocks[0, 1]) * 4 + 3, int(before.blocks[1, 2]) * 4, 98]
    assert got.windows[:2].tolist() == [[11, *before.windows[0, :-1]], [12, *before.windows[1, :-1]]]
    assert torch.equal(got.windows[2], before.windows[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_id_whose_logit_is_no_number_is_noted_as_none(dtype):
    from kodkod_engine.kernels.gpu.next_step import NO_NUMBER, Places, next_step, reference

    ids = torch.tensor([5, 0, 2, 3, 4], device=DEVICE)
    largest = torch.finfo(dtype).max
    logits = torch.zeros(5, 6, dtype=dtype, device=DEVICE)
    logits[torch.arange(5), ids] = torch.tensor([float("nan"), float("inf"), -float("inf"), largest, -largest]).to(
        logits
    )
    zeros = torch.zeros(5, dtype=torch.int64, device=DEVICE)
    for choose_next in (next_step, reference):
        at = Places(zeros.clone(), zeros, zeros.clone(), zeros.clone(), zeros[:, None].clone(), zeros[:, None].clone())
        chosen = torch.zeros(1, 5, dtype=torch.int64, device=DEVICE)
        choose_next(ids, logits, at, chosen, 4)
        assert chosen.tolist() == [[NO_NUMBER, NO_NUMBER, NO_NUMBER, 3, 4]]


SPEC = polynomial_spec(vocab_size=50, ratio=3, order_limit=4, splits=2, table_width=16, border_ids=frozenset({2}))
ids_of_a_sequence = st.lists(st.one_of(st.integers(0, 49), st.sampled_from([2, 7])), min_size=1, max_size=6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(ids_of_a_sequence, ids_of_a_sequence, st.integers(1, 5))
def test_row_ids_along_a_visit_are_those_of_the_whole_sequence(prompt, chosen_ids, block_size):
    """From windows that only the device moves on: short contexts, borders, and blocks of any size."""
    from kodkod_engine.kernels.gpu.next_step import Places, next_step

    whole, start, depth = [*prompt, *chosen_ids], len(prompt) - 1, SPEC.context_tokens
    before = [ABSENT] * depth + prompt
    blocks = torch.arange(len(whole) // block_size + 1, device=DEVICE).flip(0)[None].contiguous()

    def ints(*values: int) -> torch.Tensor:
        return torch.tensor(values, device=DEVICE)

    at = Places(
        step=ints(0),
        last=ints(len(chosen_ids)),
        positions=ints(start),
        slots=ints(0),
        windows=ints(*before[: -depth - 2 : -1])[None].contiguous(),
        blocks=blocks,
    )
    chosen, hasher, wanted = ints(*[0] * 8)[:, None], NgramHasher(SPEC, DEVICE), ngram_row_ids(whole, SPEC)
    for place, token_id in enumerate(chosen_ids, start=len(prompt)):
        next_step(ints(token_id), torch.zeros(1, 50, device=DEVICE), at, chosen, block_size)
        assert torch.equal(hasher.row_ids(at.windows)[0].cpu(), wanted[place])
        assert at.positions.tolist() == [place]
        assert at.slots.tolist() == [int(blocks[0, place // block_size]) * block_size + place % block_size]
    assert chosen[: len(chosen_ids), 0].tolist() == chosen_ids
