"""How long nothing will be drafted: what the loop may take as one visit, and what is learnt of a visit."""

from __future__ import annotations

import asyncio
import math

import pytest

from engine.speculation.guessers import FakeDrafter, always
from kodkod_engine.api import GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.config import EngineConfig
from kodkod_engine.core import visits
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.speculator import Speculator
from kodkod_engine.speculation.step_times import StepTimes

ANSWER = tuple(range(100, 160))


class Costs(CostTable):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, float]] = []

    def learn(self, num_tokens, context, seconds, *, is_plain=True):
        self.told.append((num_tokens, seconds))
        super().learn(num_tokens, context, seconds, is_plain=is_plain)


@pytest.fixture
def costs() -> Costs:
    return Costs()


@pytest.fixture
def speculator(costs) -> Speculator:
    drafter = FakeDrafter(lambda _task: ())
    return Speculator([drafter], costs, default=Speculation.AUTO, vocab_size=1_000)


def entry() -> StepEntry:
    return StepEntry(Sequence("a", [1, 2, 3, 4], 3, 100), 3, 1, samples=True)


def reserve(*_arguments) -> bool:
    return True


def test_where_nobody_is_drafted_for_there_is_no_end(speculator):
    speculator.begin("a", GenerationRequest((1, 2, 3), speculation=Speculation.NONE), frozenset())
    assert speculator.propose([entry()], 8, reserve) == {}
    assert speculator.plain_steps == math.inf


def test_where_drafts_may_come_with_each_step_there_is_one(speculator):
    speculator.begin("a", GenerationRequest((1, 2, 3)), frozenset())
    speculator.propose([entry()], 8, reserve)
    assert speculator.plain_steps == 1


def test_a_rest_goes_on_to_its_end(speculator, costs):
    speculator.begin("a", GenerationRequest((1, 2, 3)), frozenset())
    speculator._resting.begin(["a"], 6)
    assert speculator.propose([entry()], 8, reserve) == {}
    assert speculator.plain_steps == 6
    speculator.took(StepTimes(1, 4, {"a": 4}, 0.4, num_steps=4))
    assert costs.told == [(1, pytest.approx(0.1))]
    assert speculator.propose([entry()], 8, reserve) == {}
    assert speculator.plain_steps == 2
    speculator.took(StepTimes(1, 4, {"a": 2}, 0.2, num_steps=2))
    assert costs.told == [(1, pytest.approx(0.1))] * 2
    speculator.propose([entry()], 8, reserve)
    assert speculator.plain_steps == 1, "the rest is over"


def test_who_is_drafted_for_shares_no_visit_and_who_is_not_does(monkeypatch):
    monkeypatch.setattr(visits, "VISIT_S", math.inf)
    drafter = FakeDrafter(lambda task: ANSWER[task.sequence.num_generated + len(task.prefix_ids) :])
    engine = ScriptedEngine(
        lambda _prompt: ANSWER,
        vocab_size=1_000,
        config=EngineConfig(max_cached_tokens=256, block_size=4, max_step_tokens=64, steps_per_visit=4),
        speculator=always([drafter], 1_000),
    )
    taken: list[tuple[set[str], int]] = []
    run = engine._runner.run

    def counted(copies, runs, num_steps=1):
        taken.append(({one.request_id for one in runs}, num_steps))
        return run(copies, runs, num_steps)

    engine._runner.run = counted
    modes = (Speculation.AUTO, Speculation.NONE)
    requests = [GenerationRequest((1, 2, 3), SamplingParams(max_tokens=20), speculation=mode) for mode in modes]

    async def ask() -> list:
        return list(await asyncio.gather(*(collect(engine.generate(one)) for one in requests)))

    done = asyncio.run(ask())
    engine.close()
    engine.check_integrity()
    assert [one.token_ids for one in done] == [ANSWER[:20]] * 2
    assert done[0].usage.accepted_tokens > 0
    assert all(num_steps == 1 for names, num_steps in taken if "stream-1" in names)
    assert max(num_steps for names, num_steps in taken if names == {"stream-2"}) == 4
