"""What is learnt on the way: the worth of a confidence, the cost of a step, what drafters bring, gains and losses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kodkod_engine.speculation.allowance import Allowance, Terms
from kodkod_engine.speculation.calibration import Calibration
from kodkod_engine.speculation.costs import CONTEXTS, LONGEST_UNSEEN_STEPS, SIZES, CostTable
from kodkod_engine.speculation.forecast import LONGEST_RETRY_STEPS, RETRY_STEPS, TRIAL_DRAFTS, Forecast

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
    assert 0.005 <= table.seconds(1, 3_000) < 0.006
    for _ in range(60):
        table.learn(1, 3_000, 0.020)
    assert table.seconds(1, 3_000) == pytest.approx(0.020, rel=0.05)


def test_an_unknown_context_is_concluded_from_a_known_one():
    table = CostTable()
    table.measure(lambda size: 0.010 + 0.001 * size, 128, limit_s=5.0)
    table.learn(1, 10_000, 0.022)
    assert table.seconds(1, 10_000) == pytest.approx(0.022)
    assert table.seconds(64, 10_000) == pytest.approx(2 * 0.074, rel=0.01)


def test_a_machine_that_does_other_things_beside_is_slower_for_all_sizes():
    table = CostTable()
    table.measure(lambda size: 0.010 + 0.001 * size, 128, limit_s=5.0)
    for _ in range(200):
        table.learn(1, 100, 0.033)
    assert table.seconds(1, 100) == pytest.approx(0.033, rel=0.05)
    assert table.seconds(64, 100) == pytest.approx(3 * 0.074, rel=0.15)
    for _ in range(200):
        table.learn(1, 100, 0.011)
    assert table.seconds(64, 100) == pytest.approx(0.074, rel=0.15)


def test_one_interrupted_step_does_not_make_a_size_dear_that_is_then_never_seen_again():
    table = CostTable()
    table.measure(lambda size: 0.010 + 0.001 * size, 128, limit_s=5.0)
    table.learn(48, 900, 10 * 0.058)
    table.learn(1, 900, 0.012)
    assert table.seconds(1, 900) == pytest.approx(0.012)
    assert table.seconds(8, 900) == pytest.approx(0.018 * 12 / 11, rel=0.05)
    assert table.seconds(48, 900) < 1.5 * 0.058 * 12 / 11


def test_beyond_the_exact_sizes_a_few_tokens_more_are_not_for_nothing():
    table = CostTable()
    table.measure(lambda size: float(size), 128, limit_s=5.0)
    for size in (192, 256, 512):
        table.learn(size, 100, float(size))
    assert table.curve(300, 60, 100) == pytest.approx(range(300, 361), rel=0.01)
    table.learn(400, 100, 400.0)
    assert table.seconds(512, 100) == pytest.approx(512.0, rel=0.01)


def test_a_step_that_was_not_seen_for_a_while_is_due():
    table = CostTable()
    assert table.is_due(1, 100)
    for _ in range(200):
        table.learn(1, 100, 0.005)
    assert not table.is_due(1, 100)
    assert table.is_due(1, 3_000)
    due = []
    for step in range(LONGEST_UNSEEN_STEPS):
        due.append(table.is_due(1, 100))
        table.learn(17, 100, 0.01 + step * 1e-6)
    assert not any(due)
    assert table.is_due(1, 100)
    assert not table.is_due(10 * SIZES[-1], 100)


def test_one_that_was_seen_once_is_soon_due_again():
    table = CostTable()
    table.learn(1, 100, 0.005)
    for _ in range(8):
        assert not table.is_due(1, 100)
        table.learn(17, 100, 0.01)
    assert table.is_due(1, 100)


@pytest.mark.parametrize("context", [1, *CONTEXTS, 10**9])
def test_every_step_has_a_cost(context):
    table = CostTable()
    table.learn(1, 100, 0.01)
    assert table.curve(1, 2 * SIZES[-1], context).min() > 0
    table.learn(10 * SIZES[-1], context, 3.0)


# --- forecasts ------------------------------------------------------------------------------------------------------


def test_a_drafter_is_expected_to_do_what_it_did():
    step_s = [1.0, 1.1, 1.2, 1.3]
    good, bad = Forecast(), Forecast()
    for forecast, num_accepted in ((good, 3), (bad, 0)):
        forecast.learn_cost(0.1)
        for _ in range(200):
            forecast.learn_accepted(3, num_accepted)
    assert good.tokens_per_s(step_s) == pytest.approx(4 / 1.4, rel=0.01)
    assert bad.tokens_per_s(step_s) < 1.0


def test_one_that_is_not_worth_it_is_tried_again_now_and_then():
    """At once, and ever more rarely; some drafts in a row, for the first one of a row says little of its cost."""
    forecast, step_s, otherwise = Forecast(), [1.0] * 4, 3.0
    begins, num_steps = [1], 7 * RETRY_STEPS
    for patience in (RETRY_STEPS, 2 * RETRY_STEPS):
        begins.append(begins[-1] + TRIAL_DRAFTS - 1 + patience)
    forecast.learn_cost(0.1)
    asked = [forecast.is_worth_asking(step_s, otherwise) for _ in range(num_steps)]
    places = [place + 1 for place, is_asked in enumerate(asked) if is_asked]
    assert places == [begin + draft for begin in begins for draft in range(TRIAL_DRAFTS)]
    assert forecast.is_worth_asking(step_s, 1.0)
    assert sum(forecast.is_worth_asking(step_s, otherwise) for _ in range(RETRY_STEPS)) == 1


def test_one_that_could_not_win_if_it_were_always_right_is_not_tried():
    forecast = Forecast()
    forecast.learn_cost(0.1)
    assert not any(forecast.is_worth_asking([1.0] * 4, 4.0) for _ in range(10 * RETRY_STEPS))


def test_what_the_first_draft_takes_is_not_what_a_draft_costs():
    forecast = Forecast()
    assert forecast.draft_s(plain_s=0.005) == 0.005
    forecast.learn_cost(0.2, catches_up=True)
    assert forecast.draft_s(plain_s=0.005) == 0.005
    forecast.learn_cost(0.001)
    forecast.learn_cost(0.2, catches_up=True)
    assert forecast.draft_s(plain_s=0.005) == 0.001


def test_an_interrupted_trial_does_not_make_a_drafter_too_dear_for_ever():
    forecast = Forecast()
    forecast.learn_cost(0.030)
    forecast.learn_cost(0.002)
    assert forecast.draft_s(plain_s=0.005) == 0.002
    dear = Forecast()
    dear.learn_cost(0.030)
    for _ in range(LONGEST_RETRY_STEPS):
        assert dear.draft_s(plain_s=0.005) == 0.030
        dear.pass_over(1)
    assert dear.draft_s(plain_s=0.005) == 0.005


def test_one_that_is_idle_is_due_again_after_steps_that_nobody_counted_one_by_one():
    forecast, step_s = Forecast(), [1.0, 1.5, 2.0, 2.5]
    forecast.learn_cost(0.5)
    asked = [forecast.is_worth_asking(step_s, 1.0) for _ in range(TRIAL_DRAFTS)]
    assert all(asked)
    assert forecast.is_idle(step_s)
    forecast.pass_over(RETRY_STEPS)
    assert not forecast.is_idle(step_s)
    assert forecast.is_worth_asking(step_s, 1.0)


# --- allowances -----------------------------------------------------------------------------------------------------

TERMS = Terms(share=0.01, head_start_steps=2.0, most_steps=3.0)


def lost_share(gain: float, num_steps: int) -> float:
    """Part of the time that is lost when each step with speculation brings `gain` times what it costs."""
    allowance, balance, plain, taken = Allowance(TERMS), 0.0, 0.0, 0.0
    for _ in range(num_steps):
        can_try = allowance.risk_s(max(0.0, balance), 0.01) >= 0.01
        spent, gained = (0.02, gain * 0.02 - 0.02) if can_try else (0.01, 0.0)
        balance = allowance.settle(balance, gained, 0.01, 0.01)
        plain, taken = plain + spent + gained, taken + spent
    return 1 - plain / taken


@pytest.mark.parametrize("gain", [0.2, 0.5, 0.9, 0.97])
def test_what_loses_time_is_left_before_it_costs_three_percent(gain):
    assert lost_share(gain, 2_000) < 0.03


def test_what_gains_time_is_gone_on_with():
    assert lost_share(3.0, 1_000) == pytest.approx(1 - 3.0)


def test_what_one_stream_won_is_not_another_one_s_to_lose():
    allowance = Allowance(TERMS)
    won = allowance.settle(0.0, 5.0, 0.0, 0.01)
    assert allowance.risk_s(won, 0.01) == pytest.approx(5.0 + 0.02)
    assert allowance.risk_s(0.0, 0.01) == pytest.approx(0.02)


def test_what_is_lost_and_won_back_is_there_again():
    allowance = Allowance(TERMS)
    balance = allowance.settle(0.0, -0.015, 0.0, 0.01)
    assert allowance.risk_s(0.0, 0.01) == pytest.approx(0.005)
    balance = allowance.settle(balance, 0.025, 0.0, 0.01)
    assert allowance.risk_s(balance, 0.01) == pytest.approx(0.02 + 0.01)


def test_neither_credit_nor_debt_grows_without_bound():
    allowance = Allowance(TERMS)
    allowance.settle(0.0, 0.0, 1_000.0, 0.01)
    assert allowance.risk_s(0.0, 0.01) == pytest.approx(0.03)
    allowance.settle(0.0, -1_000.0, 0.0, 0.01)
    assert allowance.risk_s(0.0, 0.01) == 0
    allowance.settle(0.0, 0.0, 3.5, 0.01)
    assert allowance.risk_s(0.0, 0.01) == pytest.approx(0.005)


def test_an_open_ended_allowance_bears_any_loss():
    allowance = Allowance(TERMS, is_open_ended=True)
    for _ in range(100):
        allowance.settle(0.0, -1.0, 0.01, 0.01)
    assert allowance.risk_s(0.0, 0.01) == float("inf")
