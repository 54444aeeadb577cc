"""Lengths of drafts against all lengths there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.speculation.choice import best_lengths

probabilities = st.lists(st.lists(st.floats(0, 1), max_size=4), min_size=1, max_size=3)


def rate(drafts, lengths, step_s) -> float:
    expected = sum(1 + np.cumprod(draft[:length]).sum() for draft, length in zip(drafts, lengths, strict=True))
    return expected / step_s[sum(lengths)]


@settings(max_examples=200, deadline=None)
@given(probabilities, st.lists(st.floats(0, 2), min_size=12, max_size=12))
def test_no_other_lengths_bring_more(drafts, increments):
    step_s = 1 + np.cumsum([0.0, *increments])
    chosen = best_lengths([np.array(draft) for draft in drafts], step_s)
    all_lengths = product(*(range(len(draft) + 1) for draft in drafts))
    best = max(rate(drafts, lengths, step_s) for lengths in all_lengths)
    assert rate(drafts, chosen.num_tokens, step_s) == pytest.approx(best)
    assert chosen.tokens_per_s == pytest.approx(best)


def test_every_token_above_the_threshold_is_kept_and_none_below():
    drafts = [np.array([0.9, 0.9, 0.2]), np.array([0.5, 0.1])]
    chosen = best_lengths(drafts, np.array([1.0, 1.3, 1.6, 1.9, 2.2, 2.5]))
    prefixes = [np.cumprod(draft) for draft in drafts]
    assert [int((prefix >= chosen.threshold).sum()) for prefix in prefixes] == list(chosen.num_tokens)


def test_no_more_tokens_than_there_are_times_for():
    assert best_lengths([np.ones(10)], np.ones(4)).num_tokens == (3,)
    assert best_lengths([np.zeros(0)], np.ones(1)).num_tokens == (0,)


def test_a_draft_that_costs_more_than_it_brings_is_left():
    assert best_lengths([np.array([0.2, 0.9])], np.array([1.0, 1.3, 1.6])).num_tokens == (0,)
