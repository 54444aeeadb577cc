"""Statistics against values worked out elsewhere: by hand, by scipy, or in the papers that name them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_app.statistics import Paired, Share, Spread, Trials, largest_k, pass_at_k, pass_hat_k


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Newcombe 1998, table I, method 3 (Wilson without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_newcombe_prints_it(count, total, low, high):
    assert Share(count, total).interval == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    # As the two-sided binomial test of scipy gives them.
    [(0, 0, 1.0), (1, 1, 1.0), (5, 0, 0.0625), (0, 6, 0.03125), (10, 2, 0.03857421875), (7, 3, 0.34375)],
)
def test_mcnemar_exact(first, second, p):
    assert Paired(first, second).p_value == pytest.approx(p, abs=1e-12)


def test_pairs_are_counted():
    found = Paired.of([(True, False), (True, True), (False, True), (False, False), (True, False)])
    assert found == Paired(only_first=2, only_second=1, both=1, neither=1)


def test_pass_at_k_of_the_paper():
    # 1 - C(5-2, 2) / C(5, 2) = 1 - 3/10; all of k: C(2, 2) / C(5, 2) = 1/10.
    task = Trials(5, 2)
    assert (task.any_of(1), task.any_of(2), task.any_of(4)) == pytest.approx((0.4, 0.7, 1.0))
    assert (task.all_of(1), task.all_of(2), task.all_of(3)) == pytest.approx((0.4, 0.1, 0.0))


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
@settings(max_examples=60, deadline=None)
def test_both_are_what_drawing_without_replacement_gives(outcomes, data):
    k = data.draw(st.integers(1, len(outcomes)))
    draws = list(combinations(outcomes, k))
    task = Trials(len(outcomes), sum(outcomes))
    assert task.any_of(k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert task.all_of(k) == pytest.approx(sum(map(all, draws)) / len(draws))


def test_means_over_tasks_and_their_bounds():
    tasks = [Trials(4, 4), Trials(3, 0), Trials(4, 2)]
    assert largest_k(tasks) == 3
    assert pass_at_k(tasks, 1) == pass_hat_k(tasks, 1) == pytest.approx(0.5)
    assert pass_at_k(tasks, 3) == pytest.approx(2 / 3)
    assert pass_hat_k(tasks, 3) == pytest.approx(1 / 3)
    for k in (0, 4):
        with pytest.raises(ValueError, match="between 1 and the 3 trials"):
            pass_at_k(tasks, k)
    assert largest_k([]) == 0
    with pytest.raises(ValueError, match="cannot have succeeded"):
        Trials(2, 3)


def test_spread_is_the_samples():
    assert Spread.of([0.2, 0.3, 0.4]).deviation == pytest.approx(0.1)
    assert Spread.of([0.2, 0.3, 0.4]).mean == pytest.approx(0.3)
    assert Spread.of([0.5]) == Spread(1, 0.5, None)
    assert Spread.of([]) == Spread(0, 0.0, None)
