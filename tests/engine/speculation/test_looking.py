"""What looking for copies is thought to take."""

from __future__ import annotations

import pytest

from kodkod_engine.speculation.looking import LookingTime

LONG_S = 1_000.0
"""A plain step beside which no looking is dear."""


def test_follows_what_it_takes():
    looking = LookingTime(lambda: 1.0)
    looking.learn(0.002)
    assert looking.seconds(LONG_S) == pytest.approx(0.002)
    for _ in range(100):
        looking.learn(0.003)
    assert looking.seconds(LONG_S) == pytest.approx(0.003, rel=0.01)


def test_an_interruption_counts_for_little_and_is_forgotten_at_once():
    looking = LookingTime(lambda: 1.0)
    looking.learn(0.002)
    looking.learn(2.0)
    assert looking.seconds(LONG_S) < 0.003
    once_dear = LookingTime(lambda: 1.0)
    once_dear.learn(2.0)
    once_dear.learn(0.002)
    assert once_dear.seconds(LONG_S) <= 0.008


def test_is_never_too_dear_to_be_tried_again():
    looking = LookingTime(lambda: 1.0)
    looking.learn(0.5)
    assert looking.seconds(0.004) == pytest.approx(0.001)


def test_what_was_learnt_on_a_slow_machine_holds_on_a_quick_one():
    pace = 2.0
    looking = LookingTime(lambda: pace)
    looking.learn(0.004)
    pace = 1.0
    assert looking.seconds(LONG_S) == pytest.approx(0.002)
