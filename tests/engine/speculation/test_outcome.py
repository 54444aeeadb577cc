"""What a step's drafts are said to have brought its streams."""

from __future__ import annotations

import numpy as np
import pytest

from kodkod_engine.api import GenerationRequest, Speculation
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.drafter import Draft
from kodkod_engine.speculation.means import Kind
from kodkod_engine.speculation.outcome import brought
from kodkod_engine.speculation.proposal import Proposal, Segment
from kodkod_engine.speculation.step_times import StepTimes
from kodkod_engine.speculation.stream import Planned, Stream

CONTEXT = 128


class Tenths(CostTable):
    """A step of one token takes a second, each further token a tenth of it."""

    def curve(self, num_tokens, num_more, context):
        return 0.9 + 0.1 * np.arange(num_tokens, num_tokens + num_more + 1)


@pytest.fixture
def costs() -> CostTable:
    return Tenths()


def stream() -> Stream:
    return Stream(GenerationRequest((1,)), Speculation.AUTO, frozenset(), {}, {})


def proposal(drafter: str, num_tokens: int) -> Proposal:
    return Proposal((Segment(drafter, Draft((1,) * num_tokens, (0.9,) * num_tokens)),))


def planned(num_streams: int = 1, **fields) -> Planned:
    streams = {str(index): stream() for index in range(num_streams)}
    return Planned(num_streams, num_streams, streams, **fields)


def step(num_tokens: int, **emitted: int) -> StepTimes:
    return StepTimes(num_tokens, CONTEXT, {name.strip("_"): count for name, count in emitted.items()}, seconds=99.0)


def test_a_plain_step_brings_nothing(costs):
    (one,) = brought(planned(), step(1, _0=1), costs, 1.0)
    assert one.gained_s == {Kind.COPIED: 0.0, Kind.COMPUTED: 0.0}
    assert one.decoded_s == 1.0


@pytest.mark.parametrize(
    ("drafter", "kind"),
    [("suffix", Kind.COPIED), ("forced", Kind.COPIED), ("mtp", Kind.COMPUTED), ("ngram_head", Kind.COMPUTED)],
)
def test_tokens_that_took_no_step_are_gained_less_what_the_step_was_longer(costs, drafter, kind):
    (one,) = brought(planned(drafted={"0": proposal(drafter, 4)}), step(5, _0=3), costs, 1.0)
    assert one.gained_s[kind] == pytest.approx(2 * 1.0 - 4 * 0.1)
    assert one.total_s == one.gained_s[kind]
    assert one.decoded_s == 3.0


def test_asking_in_vain_is_lost_by_those_who_were_asked_for(costs):
    plan = planned(3, looking_s=0.02, looked_for=("0", "1"), computing_s=0.3, computed_for=("1",))
    first, second, third = brought(plan, step(3, _0=1, _1=1, _2=1), costs, 1.2)
    assert first.gained_s == {Kind.COPIED: -0.01, Kind.COMPUTED: 0.0}
    assert second.gained_s == {Kind.COPIED: -0.01, Kind.COMPUTED: -0.3}
    assert third.gained_s == {Kind.COPIED: 0.0, Kind.COMPUTED: 0.0}
    assert third.decoded_s == pytest.approx(0.4), "its part of the step"


def test_who_drafted_pays_for_the_longer_step(costs):
    drafter, other = brought(planned(2, drafted={"0": proposal("suffix", 3)}), step(5, _0=1, _1=1), costs, 1.1)
    assert drafter.total_s == pytest.approx(-3 * 0.1)
    assert other.total_s == 0.0


def test_what_the_clock_says_does_not_matter(costs):
    plan = planned(drafted={"0": proposal("suffix", 2)})
    slow = StepTimes(3, CONTEXT, {"0": 3}, seconds=1_000.0)
    assert brought(plan, slow, costs, 1.0)[0].gained_s == brought(plan, step(3, _0=3), costs, 1.0)[0].gained_s
