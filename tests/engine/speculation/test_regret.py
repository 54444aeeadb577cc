"""What speculation wins and loses by all that it decides, in simulated time."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.speculation.simulation import Clock, Machine, PacedDrafter
from kodkod_engine.api import GenerationRequest, Speculation
from kodkod_engine.speculation.means import Brought, Kind, share_losses
from kodkod_engine.speculation.stream import Stream

STEP_S = 0.005
HOPELESS = {"suffix": 0.0, "mtp": 0.0}
EASY = {"suffix": 0.99, "mtp": 0.8}


def machine(
    marginal: float = 0.1,
    ask_s: float = 0.00005,
    draft_s: float = 0.002,
    confidence: float = 0.95,
    interruptions: float = 0.0,
    catch_up_s: float = 0.01,
) -> Machine:
    """Each further token costs `marginal` of the first one."""
    clock = Clock()
    drafters = [
        PacedDrafter(clock, "suffix", confidence, ask_s),
        PacedDrafter(clock, "mtp", confidence, draft_s, catch_up_s),
    ]
    return Machine(lambda size: STEP_S * (1 + marginal * (size - 1)), drafters, clock, interruptions)


def lost_share(taken: float, plain: float) -> float:
    return 1 - plain / taken


@settings(max_examples=25, deadline=None)
@given(
    marginal=st.floats(0.001, 1.0),
    ask_s=st.floats(0.0, STEP_S),
    draft_s=st.floats(0.0, 5 * STEP_S),
    confidence=st.floats(0.0, 1.0),
    batch=st.integers(1, 4),
)
def test_drafts_that_are_never_right_cost_less_than_three_percent(marginal, ask_s, draft_s, confidence, batch):
    taken, plain = machine(marginal, ask_s, draft_s, confidence).decode(600, HOPELESS, batch)
    assert lost_share(taken, plain) < 0.03


@settings(max_examples=15, deadline=None)
@example(acceptance=0.883, marginal=0.678, batch=2)  # side by side each draft makes the step of all longer
@example(acceptance=0.6381872201415526, marginal=0.18387039964969024, batch=4)
@example(acceptance=0.8041532400875129, marginal=0.4931503558232818, batch=3)
@given(acceptance=st.floats(0.0, 1.0), marginal=st.floats(0.01, 1.0), batch=st.integers(1, 4))
def test_no_acceptance_costs_more_than_three_percent(acceptance, marginal, batch):
    taken, plain = machine(marginal).decode(600, {"suffix": acceptance, "mtp": acceptance}, batch)
    assert lost_share(taken, plain) < 0.03


def test_what_was_won_before_is_not_lost_afterwards():
    subject = machine()
    for _ in range(5):
        subject.decode(300, EASY)
    taken, plain = subject.decode(400, HOPELESS)
    assert lost_share(taken, plain) < 0.03


def test_many_short_answers_cost_no_more_than_one_long_one():
    subject = machine()
    times = [subject.decode(24, HOPELESS) for _ in range(25)]
    assert lost_share(sum(taken for taken, _ in times), sum(plain for _, plain in times)) < 0.03


def test_sources_that_nothing_is_copied_from_cost_no_more_either():
    subject = machine()
    subject.sources = ((1, 2, 3),)
    times = [subject.decode(150, HOPELESS) for _ in range(5)]
    assert lost_share(sum(taken for taken, _ in times), sum(plain for _, plain in times)) < 0.03


def test_where_sources_are_named_a_copy_is_tried_whatever_was_lost_before():
    subject = machine()
    subject.decode(600, HOPELESS)
    subject.sources = ((1, 2, 3),)
    taken, plain = subject.decode(100, {"suffix": 0.99, "mtp": 0.0})
    assert plain / taken > 2


def test_where_nothing_is_found_it_is_hardly_looked_for():
    subject = machine(confidence=0.0)
    subject.decode(600, HOPELESS)
    assert subject.drafters[0].num_asked < 60


def test_interruptions_of_the_machine_are_not_taken_for_losses_or_gains():
    hopeless = machine(interruptions=0.05)
    assert lost_share(*hopeless.decode(800, HOPELESS)) < 0.03
    easy = machine(interruptions=0.05)
    taken, plain = easy.decode(600, EASY)
    assert plain / taken > 3.5


def test_copies_that_are_right_win_what_the_costs_allow():
    taken, plain = machine(marginal=0.1).decode(500, {"suffix": 1.0, "mtp": 1.0})
    limit = 1 / 0.1  # tokens that a plain step's time buys, however many
    assert plain / taken > 0.6 * limit


def test_after_losses_a_text_that_can_be_copied_wins_again():
    subject = machine()
    subject.decode(600, HOPELESS)
    taken, plain = subject.decode(500, {"suffix": 0.99, "mtp": 0.0})
    assert plain / taken > 3.5


def test_a_good_block_is_used_and_a_bad_or_a_dear_one_is_not():
    wins = machine(draft_s=0.3 * STEP_S)
    taken, plain = wins.decode(600, {"suffix": 0.0, "mtp": 0.9})
    assert plain / taken > 1.5
    for subject, acceptance in ((machine(draft_s=0.3 * STEP_S), 0.1), (machine(draft_s=3 * STEP_S), 0.9)):
        taken, plain = subject.decode(600, {"suffix": 0.0, "mtp": acceptance})
        assert lost_share(taken, plain) < 0.03
        assert subject.drafters[1].num_asked < 30


def test_a_block_that_must_first_catch_up_is_judged_by_what_comes_after():
    subject = machine(draft_s=0.3 * STEP_S, catch_up_s=1.5 * STEP_S)
    taken, plain = subject.decode(600, {"suffix": 0.0, "mtp": 0.9})
    assert plain / taken > 1.4


@pytest.mark.parametrize("batch", [2, 4])
def test_streams_side_by_side_win_too(batch):
    taken, plain = machine(marginal=0.02).decode(300, {"suffix": 0.98, "mtp": 0.0}, batch)
    assert plain / taken > 2.0


def test_a_prompt_is_read_for_copies_while_it_is_computed_whatever_can_be_risked():
    """Later that would be one answer's loss."""
    subject = machine()
    subject.decode(600, HOPELESS)
    num_asked = subject.drafters[0].num_asked
    assert not subject.prefill()
    assert subject.drafters[0].num_asked == num_asked + 1


def test_what_a_stream_loses_beyond_its_balance_is_paid_by_those_beside_it():
    loser, winner, bystander = (Brought(stream(balance_s), {Kind.COPIED: gained_s, Kind.COMPUTED: 0.0}, 1.0)
                                for balance_s, gained_s in ((1.0, -5.0), (2.0, 1.0), (-1.0, 0.0)))  # fmt: skip
    share_losses([loser, winner, bystander])
    assert loser.total_s == -2.0
    assert winner.total_s == -2.0
    assert bystander.total_s == 0.0


def stream(balance_s):
    return Stream(GenerationRequest((1,)), Speculation.AUTO, frozenset(), {}, {}, balance_s=balance_s)
