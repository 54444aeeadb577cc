"""Several steps per visit of the runner: who gets them, what ends them, and what is left of what came too much."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from engine.core.workshop import WAIT_S, CountingRunner, Workshop, until
from kodkod_engine.api import FinishReason, SamplingParams, collect
from kodkod_engine.core import visits as visits_module
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import Choice, ChosenToken, TokenRun, next_run
from kodkod_engine.core.visits import Visits
from kodkod_engine.speculation.rest import Rest


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch):
    """How long a step takes on a busy machine decides nothing here."""
    monkeypatch.setattr(visits_module, "VISIT_S", float("inf"))


@pytest.fixture
def shop() -> Iterator[Workshop]:
    shop = Workshop(steps_per_visit=4)
    yield shop
    shop.close()


class Anything:
    """A constraint that forbids nothing."""

    def allowed_ids(self, _generated_ids):
        return None


# --- the plan -------------------------------------------------------------------------------------------------------


def entry(num_tokens: int = 1, *, prompt: int = 3, generated: int = 2, most: int = 100) -> StepEntry:
    sequence = Sequence("a", list(range(prompt + generated)), prompt, most)
    return StepEntry(sequence, prompt + generated - num_tokens, num_tokens, samples=True)


def planned(*entries: StepEntry, choice: Choice | None = None, **fields) -> int:
    choices = [[choice or Choice(SamplingParams(), 5, None)]] * len(entries)
    return Visits(8).num_steps(entries, choices, **{"plain_steps": float("inf"), "step_s": 0.001, **fields})


def test_those_that_run_free_get_them_all():
    assert planned(entry(), entry()) == 8
    assert planned(entry(), choice=Choice(SamplingParams(1.0, stop_strings=("x",)), 5, None)) == 8


@pytest.mark.parametrize(
    "wanted",
    [
        Choice(SamplingParams(), 5, frozenset({7})),
        Choice(SamplingParams(logprobs=0), 5, None),
    ],
)
def test_who_asks_for_more_than_ids_or_not_for_any_is_served_step_by_step(wanted):
    assert planned(entry(), entry(), choice=wanted) == 1


def test_prompts_and_first_tokens_come_by_themselves():
    assert planned(entry(), entry(2)) == 1
    assert planned(entry(), entry(generated=0)) == 1
    assert planned() == 1


def test_nobody_goes_on_past_the_end_of_the_budget():
    assert planned(entry(most=5 + 3)) == 3
    assert planned(entry(), entry(most=5 + 1)) == 1


@pytest.mark.parametrize(("steps", "num_steps"), [(1, 1), (3, 3), (float("inf"), 8)])
def test_a_step_that_may_have_drafts_is_not_run_into(steps, num_steps):
    assert planned(entry(), plain_steps=steps) == num_steps


@pytest.mark.parametrize(("step_s", "num_steps"), [(0.0, 8), (0.001, 8), (0.0035, 4), (0.009, 1), (1.0, 1)])
def test_a_visit_is_not_long(step_s, num_steps, monkeypatch):
    monkeypatch.setattr(visits_module, "VISIT_S", 0.016)
    assert planned(entry(), step_s=step_s) == num_steps


def test_the_run_after_a_run():
    sampling = SamplingParams(1.0, seed=4)
    run = TokenRun("a", [9], [7, 8], 2, [5], [Choice(sampling, 3, None)])
    following = next_run(next_run(run, 10, 3), 11, 3)
    assert following == TokenRun("a", [11], [8, 9, 10], 4, [5], [Choice(sampling, 5, None)])
    assert next_run(run, 10, 0).context_ids == []


def test_steps_of_a_visit_count_as_rested():
    rest, entries = Rest(), [entry()]
    rest.begin(["a"], 6)
    assert rest.goes_on(entries)
    rest.pass_over(3)
    assert rest.left_steps == 2
    assert rest.take_steps() == 4
    rest.pass_over(9)
    assert not rest.goes_on(entries)
    assert rest.take_steps() == 2


# --- by the loop ----------------------------------------------------------------------------------------------------


def test_a_prompt_a_first_token_then_visits_up_to_the_last_one(shop):
    assert shop.ask("a", list(range(100, 112)), 12).token_ids == tuple(range(12, 24))
    assert shop.runner.visits == [1, 1, 4, 4, 3]
    assert [run.start for _, (run,) in shop.runner.steps] == [0, 8, 12, 16, 20]
    shop.loop.close()
    assert shop.loop.stats.steps == 13


def test_the_blocks_of_a_visit_are_there_before_it_and_no_more_after_it(shop):
    shop.ask("a", [1, 2, 3, 4, 5], 9)
    assert [(run.start, len(run.block_ids)) for _, (run,) in shop.runner.steps] == [(0, 2), (5, 3), (9, 4)]


def test_what_comes_after_a_stop_is_not_the_answers(shop):
    done = shop.ask("a", [1, 2, 3], 30, sampling=SamplingParams(max_tokens=30, stop_ids=frozenset({6})))
    assert (done.token_ids, done.finish_reason) == ((3, 4, 5, 6), FinishReason.STOP)
    assert done.usage.generated_tokens == 4
    shop.runner.steps.clear()
    shop.ask("b", [1, 2, 3, 3, 4, 5, 6, 7, 8], 1)
    (run,) = shop.runner.steps[0][1]
    assert run.start == 7, "the KV of the stop was computed in its visit; what came after it is not kept"


def test_while_one_waits_there_are_no_visits():
    shop = Workshop(steps_per_visit=4, max_running=1)
    ready = threading.Event()
    shop.runner.before = lambda: ready.wait(WAIT_S)
    streams = [shop.submit(name, [1, 2], 9) for name in ("runs", "waits")]
    until(lambda: shop.loop.stats.waiting == 2 or shop.loop.stats.running == 1)
    ready.set()
    assert [asyncio.run(collect(stream)).token_ids for stream in streams] == [tuple(range(2, 11))] * 2
    shop.close()
    others = [len(runs) for _, runs in shop.runner.steps]
    assert others == [1] * len(others)
    assert shop.runner.visits[-3:] == [1, 4, 4]


def test_where_there_is_no_room_for_a_visit_there_is_for_a_step():
    """Two sequences of one block of four each, and a third block for one of them: never for both."""
    shop = Workshop(num_blocks=3, steps_per_visit=4)
    ready = threading.Event()
    shop.runner.before = lambda: ready.wait(WAIT_S)
    streams = [shop.submit(name, [1, 2, 3], 2 if name == "b" else 8) for name in ("a", "b")]
    ready.set()
    assert [asyncio.run(collect(stream)).token_ids for stream in streams] == [tuple(range(3, 11)), (3, 4)]
    shop.close()


def test_who_cancels_waits_for_one_visit_at_most(shop):
    entered, go_on = threading.Event(), threading.Event()

    def before() -> None:
        if len(shop.runner.visits) == 2:
            entered.set()
            go_on.wait(WAIT_S)

    shop.runner.before = before
    stream = shop.submit("a", [1, 2], 400)
    assert entered.wait(WAIT_S)
    stream.cancel()
    go_on.set()
    done = asyncio.run(collect(stream))
    assert done.finish_reason is FinishReason.CANCELLED
    assert len(done.token_ids) == done.usage.generated_tokens == 1 + 4 + 4
    assert shop.runner.visits == [1, 4, 4]


class Obedient(CountingRunner):
    """As the one that counts, but where only some ids are allowed it says the lowest of them."""

    def run(self, copies, runs, num_steps=1):
        chosen = super().run(copies, runs, num_steps)
        bound = {index: run.choices[0].allowed_ids for index, run in enumerate(runs) if run.choices}
        assert num_steps == 1 or not any(bound.values()), "these ids were chosen from all"
        return [(ChosenToken(min(bound[index])),) if bound.get(index) else said for index, said in enumerate(chosen)]


@pytest.fixture
def obedient() -> Iterator[Workshop]:
    shop = Workshop(steps_per_visit=4, runner=Obedient())
    yield shop
    shop.close()


class Forbidding:
    """A constraint of a function of what was said; remembers what it was asked."""

    def __init__(self, allowed) -> None:
        self.allowed, self.asked = allowed, []

    def allowed_ids(self, generated_ids):
        self.asked.append(list(generated_ids))
        return self.allowed(generated_ids)


def test_a_constraint_that_says_nothing_costs_no_visit(shop):
    assert shop.ask("a", [1, 2], 14, constraint=Anything()).token_ids == tuple(range(2, 16))
    assert shop.runner.visits == [1, 4, 4, 4, 1]


@pytest.mark.parametrize("opens", range(3, 11))
def test_where_a_constraint_is_heard_again_the_visit_ends(obedient, opens):
    """Two tokens after the one that opens are the constraint's, wherever in a visit it comes."""

    def bound(said):
        since = len(said) - 1 - said.index(opens) if opens in said else None
        return {0: [700, 800], 1: [900]}.get(since)

    done = obedient.ask("a", [1, 2], 14, constraint=Forbidding(bound))
    free = [*range(2, opens + 1), 700, 900, *range(opens + 3, 16)]
    assert list(done.token_ids) == free[:14]
    assert 4 in obedient.runner.visits


def test_nothing_is_asked_past_the_end(obedient):
    rule = Forbidding(lambda _said: None)
    sampling = SamplingParams(max_tokens=30, stop_ids=frozenset({6}))
    done = obedient.ask("a", [1, 2], 30, sampling=sampling, constraint=rule)
    assert (done.token_ids, done.finish_reason) == ((2, 3, 4, 5, 6), FinishReason.STOP)
    assert all(6 not in said for said in rule.asked)


def test_a_constraint_that_fails_ahead_fails_when_its_step_comes(obedient):
    def bound(said):
        if 5 in said:
            raise ValueError("five")

    done = obedient.ask("a", [1, 2], 14, constraint=Forbidding(bound))
    assert (done.token_ids, done.finish_reason) == ((2, 3, 4, 5), FinishReason.ERROR)
    assert "five" in done.error


def test_a_constrained_neighbour_slows_all_down_and_spoils_nothing(obedient):
    ready = threading.Event()
    obedient.runner.before = lambda: ready.wait(WAIT_S)
    bound = Forbidding(lambda said: [500 + len(said)])
    streams = [obedient.submit("free", [1, 2], 20), obedient.submit("bound", [1, 2], 5, constraint=bound)]
    ready.set()
    done = [asyncio.run(collect(stream)).token_ids for stream in streams]
    assert done == [tuple(range(2, 22)), tuple(range(500, 505))]
    runner = obedient.runner
    together = [steps for steps, (_, runs) in zip(runner.visits, runner.steps, strict=True) if len(runs) > 1]
    assert set(together) <= {1}
    assert max(runner.visits) == 4
