"""Whom the planner asks, for how much, and what of it is to be verified."""

from __future__ import annotations

import numpy as np
import pytest

from engine.speculation.guessers import FakeDrafter
from engine.speculation.simulation import Clock
from kodkod_engine.api import GenerationRequest, Speculation
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.speculation.calibration import Calibration
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.draft_planner import DraftPlanner
from kodkod_engine.speculation.drafter import Draft
from kodkod_engine.speculation.means import Brought, Kind, Means
from kodkod_engine.speculation.proposal import Segment
from kodkod_engine.speculation.stream import Asked, Planned, Stream

CONTEXT = 128
ROOM = 64


class Hundredths(CostTable):
    """A step of one token takes a second, each further token a hundredth of it."""

    def seconds(self, num_tokens, context):
        return 0.99 + 0.01 * num_tokens

    def curve(self, num_tokens, num_more, context):
        return 0.99 + 0.01 * np.arange(num_tokens, num_tokens + num_more + 1)


@pytest.fixture
def costs() -> CostTable:
    return Hundredths()


class Desk:
    """A planner with its drafters, and a step of one token for each stream."""

    def __init__(self, costs: CostTable, *drafters: FakeDrafter, num_streams: int = 1, always: bool = False) -> None:
        self.costs = costs
        self.drafters = {drafter.name: drafter for drafter in drafters}
        self.means = Means(is_open_ended=always)
        self.planner = DraftPlanner(self.drafters, costs, self.means, vocab_size=1_000, always=always, clock=Clock())
        self.reserved: list[tuple[str, int]] = []
        streams = {str(index): self.stream() for index in range(num_streams)}
        self.planned = Planned(num_streams, num_streams, streams)
        self.next_step()

    def next_step(self) -> None:
        """Nothing is guessed yet."""
        self.asked = [Asked(self.entry(name), stream, ROOM) for name, stream in self.planned.streams.items()]

    def stream(self) -> Stream:
        calibrations = {name: Calibration() for name in self.drafters}
        return Stream(GenerationRequest((1,)), Speculation.AUTO, frozenset(), dict(self.drafters), calibrations)

    def entry(self, name: str) -> StepEntry:
        return StepEntry(Sequence(name, [1, 2, 3, 4], 3, 1_000), 3, 1, samples=True)

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        self.reserved.append((sequence.id, num_tokens))
        return True

    def first_s(self) -> list[float]:
        return [self.costs.seconds(len(self.asked) + more, CONTEXT) for more in range(4)]

    def has_means(self) -> bool:
        return self.planner.has_means(self.planned, self.asked, self.first_s())

    def proposals(self, reserve=None) -> dict[str, list[int]]:
        step_s = self.costs.curve(len(self.asked), ROOM * len(self.asked), CONTEXT)
        proposals = self.planner.proposals(self.planned, self.asked, step_s, reserve or self.reserve)
        return {name: list(proposal.token_ids) for name, proposal in proposals.items()}


def test_what_is_forced_comes_first_and_a_copy_goes_on_behind_it(costs):
    forced, suffix = FakeDrafter(lambda _: [7, 8], "forced"), FakeDrafter(lambda _: [9, 10])
    desk = Desk(costs, forced, suffix, always=True)
    assert desk.proposals() == {"0": [7, 8, 9, 10]}
    assert suffix.asked[0].prefix_ids == (7, 8)


def test_where_something_is_forced_nothing_is_computed(costs):
    forced, mtp = [], FakeDrafter(lambda _: [4, 5, 6], "mtp")
    desk = Desk(costs, FakeDrafter(lambda _: forced, "forced"), mtp, always=True)
    desk.proposals()
    assert len(mtp.asked) == 1, "it takes no time, which is known now"
    forced.append(7)
    desk.next_step()
    assert desk.proposals() == {"0": [7]}
    assert len(mtp.asked) == 1


@pytest.mark.parametrize(("copied", "best"), [([], [4, 5, 6]), ([9], [4, 5, 6]), (list(range(16)), list(range(16)))])
def test_the_better_of_a_copy_and_a_computed_draft_is_verified(costs, copied, best):
    says = []
    desk = Desk(costs, FakeDrafter(lambda _: says), FakeDrafter(lambda _: [4, 5, 6], "mtp"), always=True)
    assert desk.proposals() == {"0": [4, 5, 6]}, "it takes no time, which is known now"
    says += copied
    desk.next_step()
    assert desk.proposals() == {"0": best}


def test_a_computed_draft_that_is_shorter_than_it_promised_gives_way_to_a_copy(costs):
    copied, computed = [], [4, 5, 6]
    mtp = FakeDrafter(lambda _: computed, "mtp")
    desk = Desk(costs, FakeDrafter(lambda _: copied), mtp, always=True)
    desk.proposals()
    for _ in range(50):
        desk.planner.learn_accepted(Segment("mtp", Draft((4, 5, 6), (0.99,) * 3)), 3)
    copied[:], computed[:] = [9, 10], [4]
    desk.next_step()
    assert desk.proposals() == {"0": [9, 10]}
    assert len(mtp.asked) == 2


def test_what_is_computed_is_verified_where_nothing_can_be_copied(costs):
    desk = Desk(costs, FakeDrafter(lambda _: [4, 5, 6], "mtp"))
    assert desk.has_means()
    assert desk.proposals() == {"0": [4, 5, 6]}


def test_after_looks_in_vain_a_stream_is_left_alone(costs):
    suffix = FakeDrafter(lambda _: [9])
    desk = Desk(costs, suffix)
    stream = desk.asked[0].stream
    stream.vain_looks, stream.looked_at = 5, 4
    assert desk.proposals() == {}
    assert not suffix.asked
    stream.looked_at = -100
    assert desk.proposals() == {"0": [9]}


def test_without_means_nobody_is_asked(costs):
    suffix, mtp = FakeDrafter(lambda _: [9]), FakeDrafter(lambda _: [4], "mtp")
    desk = Desk(costs, suffix, mtp)
    assert desk.has_means(), "a head start"
    lost_s = {Kind.COPIED: -50.0, Kind.COMPUTED: -50.0}
    desk.means.settle([Brought(desk.asked[0].stream, lost_s, 1.0)], 1.0)
    assert not desk.has_means()
    assert desk.proposals() == {}
    assert not suffix.asked
    assert not mtp.asked


def test_a_forced_draft_needs_no_means(costs):
    desk = Desk(costs, FakeDrafter(lambda _: [7], "forced"))
    assert desk.has_means()


def test_nothing_is_proposed_that_has_no_slots(costs):
    desk = Desk(costs, FakeDrafter(lambda _: [9, 10]), num_streams=2, always=True)
    assert desk.proposals(lambda sequence, _: sequence.id == "1") == {"1": [9, 10]}


def test_a_look_in_vain_is_remembered(costs):
    desk = Desk(costs, FakeDrafter(lambda _: []), always=True)
    assert desk.proposals() == {}
    stream = desk.asked[0].stream
    assert (stream.vain_looks, stream.looked_at) == (1, 4)


def test_who_was_computed_for_is_told_to_the_plan(costs):
    desk = Desk(costs, FakeDrafter(lambda _: [4, 5], "mtp"), num_streams=2, always=True)
    assert desk.proposals() == {"0": [4, 5], "1": [4, 5]}
    assert desk.planned.computed_for == ("0", "1")
    assert desk.reserved[:2] == [("0", 3), ("1", 3)], "before it is asked, for it may write there"
