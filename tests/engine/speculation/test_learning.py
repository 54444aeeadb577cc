"""What is learnt on the way: the worth of a confidence, the cost of a step, what drafters bring, gains and losses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kodkod_engine.speculation.account import Account
from kodkod_engine.speculation.calibration import Calibration
from kodkod_engine.speculation.costs import CONTEXTS, SIZES, CostTable
from kodkod_engine.speculation.forecast import RETRY_STEPS, Forecast

# --- calibration ----------------------------------------------------------------------------------------------------


def test_a_confidence_is_taken_at_its_word_at_first():
    worth = Calibration().probabilities([0.05, 0.35, 0.75, 0.96, 0.999])
    assert worth == pytest.approx([0.05, 0.35, 0.75, 0.96, 0.999], abs=0.01)


def test_it_learns_what_confidences_are_worth():
    draws, calibration = random.Random(1), Calibration()
    for _ in range(2_000):
        calibration.learn([0.95], int(draws.random() < 0.5))
        calibration.learn([0.3], int(draws.random() < 0.8))
    assert calibration.probabilities([0.95, 0.3]) == pytest.approx([0.5, 0.8], abs=0.08)


def test_tokens_after_a_wrong_one_teach_nothing():
    calibration = Calibration()
    calibration.learn([0.95, 0.35, 0.75], 0)
    after = calibration.probabilities([0.95, 0.35, 0.75])
    assert after[0] < 0.9
    assert after[1:] == pytest.approx(Calibration().probabilities([0.35, 0.75]))


def test_it_follows_a_change():
    calibration = Calibration()
    for _ in range(3_000):
        calibration.learn([0.9], 1)
    for _ in range(600):
        calibration.learn([0.9], 0)
    assert calibration.probabilities([0.9])[0] < 0.3


# --- costs ----------------------------------------------------------------------------------------------------------


def test_what_was_measured_is_what_a_step_costs():
    table = CostTable()
    table.measure(lambda size: 0.010 + 0.001 * size, 128, limit_s=5.0)
    assert table.is_measured
    assert table.seconds(1, 100) == pytest.approx(0.011)
    assert table.seconds(64, 100) == pytest.approx(0.074)
    assert table.seconds(48, 100) == pytest.approx(0.058, rel=0.15)


def test_the_measurement_ends_when_its_time_is_over():
    asked: list[int] = []

    def slow(size: int) -> float:
        asked.append(size)
        return 1.0

    table = CostTable()
    table.measure(slow, 128, limit_s=0.0)
    assert len(set(asked)) == 1
    assert table.seconds(1, 100) > 0


def test_a_step_is_charged_as_the_next_larger_size():
    table = CostTable()
    table.measure(lambda size: float(size), 128, limit_s=5.0)
    assert table.seconds(65, 100) == table.seconds(96, 100) > table.seconds(64, 100)
    assert np.all(np.diff(table.curve(1, 200, 100)) >= 0)


def test_steps_teach_what_they_cost_and_interruptions_do_not():
    table = CostTable()
    for _ in range(60):
        table.learn(1, 3_000, 0.005)
    table.learn(1, 3_000, 60.0)
    assert table.seconds(1, 3_000) == pytest.approx(0.007, abs=0.001)
    for _ in range(60):
        table.learn(1, 3_000, 0.020)
    assert table.seconds(1, 3_000) == pytest.approx(0.020, rel=0.05)


def test_an_unknown_context_is_concluded_from_a_known_one():
    table = CostTable()
    table.measure(lambda size: 0.010 + 0.001 * size, 128, limit_s=5.0)
    table.learn(1, 10_000, 0.022)
    assert table.seconds(1, 10_000) == pytest.approx(0.022)
    assert table.seconds(64, 10_000) == pytest.approx(2 * 0.074, rel=0.01)


@pytest.mark.parametrize("context", [1, *CONTEXTS, 10**9])
def test_every_step_has_a_cost(context):
    table = CostTable()
    table.learn(1, 100, 0.01)
    assert table.curve(1, 2 * SIZES[-1], context).min() > 0
    table.learn(10 * SIZES[-1], context, 3.0)


# --- forecasts ------------------------------------------------------------------------------------------------------


def test_a_drafter_is_expected_to_do_what_it_did():
    step_s = np.array([1.0, 1.1, 1.2, 1.3])
    good, bad = Forecast(), Forecast()
    for forecast, num_accepted in ((good, 3), (bad, 0)):
        forecast.learn_cost(0.1)
        for _ in range(200):
            forecast.learn_accepted(3, num_accepted)
    assert good.tokens_per_s(step_s) == pytest.approx(4 / 1.4, rel=0.01)
    assert bad.tokens_per_s(step_s) < 1.0


def test_one_that_is_not_worth_it_is_tried_again_now_and_then():
    forecast = Forecast()
    asked = [forecast.is_worth_asking(1.0, 2.0) for _ in range(7 * RETRY_STEPS)]
    assert [place + 1 for place, is_asked in enumerate(asked) if is_asked] == [n * RETRY_STEPS for n in (1, 3, 7)]
    assert forecast.is_worth_asking(2.0, 1.0)
    assert sum(forecast.is_worth_asking(1.0, 2.0) for _ in range(RETRY_STEPS)) == 1


# --- account --------------------------------------------------------------------------------------------------------


def lost_share(gain: float, num_steps: int) -> float:
    """Part of the time that is lost when each step with speculation brings `gain` times what it costs."""
    account, plain, taken = Account(), 0.0, 0.0
    for _ in range(num_steps):
        if account.is_open():
            account.enter(gained_s=0.01 * gain, spent_s=0.01)
            plain, taken = plain + 0.01 * gain, taken + 0.01
        else:
            plain, taken = plain + 0.01, taken + 0.01
    return 1 - plain / taken


@pytest.mark.parametrize("gain", [0.2, 0.5, 0.9, 0.97])
def test_what_loses_time_is_switched_off_before_it_costs_three_percent(gain):
    assert lost_share(gain, 2_000) < 0.03


def test_what_gains_time_stays_on():
    assert lost_share(3.0, 1_000) == pytest.approx(1 - 3.0)


def test_an_open_ended_account_bears_any_loss():
    account = Account(is_open_ended=True)
    for _ in range(100):
        account.enter(gained_s=0.0, spent_s=1.0)
    assert all(account.is_open() for _ in range(100))
