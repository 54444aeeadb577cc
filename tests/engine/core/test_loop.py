"""The engine thread over a runner that only counts: commands, plans, faults and the end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.workshop import WAIT_S, DeviceRunner, Workshop, until
from kodkod_engine.api import FinishReason, collect
from kodkod_engine.core import loop as loop_module
from kodkod_engine.core import visits as visits_module
from kodkod_engine.core.plan import StepPlan
from kodkod_engine.core.stream import ThreadedStream
from kodkod_engine.errors import EngineClosed, EngineError


@pytest.fixture
def shop() -> Iterator[Workshop]:
    shop = Workshop()
    yield shop
    shop.close()


# --- what the runner is given ---------------------------------------------------------------------------------------


def test_a_prompt_comes_in_runs_with_the_tokens_before_them(shop):
    prompt = list(range(100, 119))
    assert shop.ask("a", prompt, 2).token_ids == (19, 20)
    runs = [run for _, (run,) in shop.runner.steps]
    assert [run.token_ids for run in runs] == [prompt[:8], prompt[8:16], prompt[16:], [19]]
    assert [run.start for run in runs] == [0, 8, 16, 19]
    assert [run.context_ids for run in runs] == [[], prompt[5:8], prompt[13:16], prompt[16:19]]
    assert [[choice.position for choice in run.choices] for run in runs] == [[], [], [19], [20]]
    assert {run.request_id for run in runs} == {"a"}


def test_a_run_comes_with_the_blocks_of_all_its_tokens(shop):
    shop.ask("a", [1, 2, 3, 4, 5], 6)
    assert [len(run.block_ids) for _, (run,) in shop.runner.steps] == [2, 2, 2, 2, 3, 3]


def test_a_shared_partial_block_is_copied_before_it_is_written(shop):
    shop.ask("a", [1, 2, 3, 4, 5, 6], 1)
    shop.runner.steps.clear()
    shop.ask("b", [1, 2, 3, 4, 5, 7], 1)
    copies, (run,) = shop.runner.steps[0]
    assert [(copy.num_tokens, copy.target_block) for copy in copies] == [(1, run.block_ids[1])]
    assert (run.token_ids, run.start, run.context_ids) == ([7], 5, [3, 4, 5])


def test_the_rest_of_a_prompt_is_told_of_before_it_is_run_and_once(shop, monkeypatch):
    monkeypatch.setattr(loop_module, "EXPECTED_TOKENS", 12)
    prompt = list(range(100, 150))
    told: list[int] = []
    shop.runner.before = lambda: told.append(8 + sum(len(ids) for _, ids in shop.runner.expected))
    shop.ask("a", prompt, 3)
    assert [token for _, ids in shop.runner.expected for token in ids] == prompt[8:]
    assert told == [20, 28, 36, 44, 50, 50, 50, 50, 50]  # up to 12 tokens after a step, before the step
    for context, ids in shop.runner.expected:
        first = ids[0] - 100
        assert context == prompt[first - 3 : first]


def test_what_a_prefix_has_is_not_told_of(shop):
    shop.ask("a", list(range(100, 120)), 1)
    shop.runner.expected.clear()
    shop.ask("b", [*range(100, 120), *range(200, 220)], 1)
    assert [token for _, ids in shop.runner.expected for token in ids] == list(range(208, 220))


def test_a_loop_without_work_takes_no_steps(shop):
    shop.ask("a", [1], 2)
    time.sleep(0.05)
    assert len(shop.runner.steps) == shop.loop.stats.steps == 2


# --- when readers are told -------------------------------------------------------------------------------------------


def test_readers_are_told_of_a_step_while_the_device_computes_the_next(monkeypatch):
    shop = Workshop(runner=DeviceRunner(monkeypatch))
    stream = shop.submit("a", [1, 2], 3)
    until(lambda: stream.is_ended)
    shop.close()
    assert shop.runner.events == ["launch", "launch", "a", "launch", "a", "a"], "the end is told at once"


def test_who_is_preempted_for_a_step_that_fails_is_told_what_came_before(monkeypatch):
    class Failing(DeviceRunner):
        def run(self, copies, runs, num_steps=1):
            if self.steps and len(runs) < len(self.steps[-1][1]):
                self.events.append("fault")
                self.steps.clear()
                raise EngineError("the step failed")
            return super().run(copies, runs, num_steps)

    shop = Workshop(num_blocks=4, runner=Failing(monkeypatch))
    older, younger = shop.submit("a", [1, 2, 3, 4], 12), shop.submit("b", [5, 6, 7, 8], 12)
    until(lambda: older.is_ended and younger.is_ended)
    shop.close()
    events = shop.runner.events
    after = events.index("fault") + 1
    assert events[after : after + 3] == ["a", "b", "launch"]


# --- a store of prefixes ---------------------------------------------------------------------------------------------


class StoreOfPrompts:
    """Has so many tokens of every prompt, and notes what it is told."""

    def __init__(self, num_tokens: int = 0) -> None:
        self.num_tokens = num_tokens
        self.reads: list[tuple[int, int]] = []
        self.offered: dict[str, list[int]] = {}
        self.forgotten: list[str] = []
        self.is_closed = False

    def num_stored(self, token_ids):
        return min(self.num_tokens, len(token_ids) // 4 * 4)

    def read(self, token_ids, start, block_ids):
        self.reads.append((start, len(block_ids)))
        return len(block_ids)

    def offer(self, sequence_id, token_ids, num_computed, block_ids):
        assert num_computed <= min(len(token_ids), 4 * len(block_ids))
        self.offered.setdefault(sequence_id, []).append(num_computed)

    def forget(self, sequence_id):
        self.forgotten.append(sequence_id)

    def close(self):
        self.is_closed = True


def test_what_is_computed_is_offered_after_every_step_and_at_the_end():
    shop = Workshop(store=(store := StoreOfPrompts()))
    shop.ask("a", list(range(100, 119)), 3)
    assert store.offered["a"] == [8, 16, 19, 20, 21]
    assert store.forgotten == ["a"]
    shop.close()
    assert store.is_closed


def test_what_is_stored_is_read_before_the_first_step_and_counts_as_reused():
    shop = Workshop(store=(store := StoreOfPrompts(12)))
    done = shop.ask("a", list(range(100, 119)), 2)
    assert store.reads == [(0, 3)]
    assert (done.usage.reused_tokens, shop.loop.stats.restored_tokens) == (12, 12)
    assert [run.start for _, (run,) in shop.runner.steps] == [12, 19]
    shop.ask("b", list(range(100, 119)), 2)
    assert store.reads == [(0, 3)], "it is cached by now"
    shop.close()


def test_what_a_broken_step_leaves_is_not_offered():
    shop = Workshop(store=(store := StoreOfPrompts()))
    shop.runner.before = fail
    assert shop.ask("a", list(range(100, 108)), 2).finish_reason is FinishReason.ERROR
    assert (store.offered, store.forgotten) == ({}, ["a"])
    shop.close()


def test_who_was_preempted_is_looked_up_again():
    shop = Workshop(num_blocks=8, store=(store := StoreOfPrompts(8)))
    streams = [
        shop.submit(name, [start + place for place in range(12)], 14) for name, start in (("a", 100), ("b", 200))
    ]
    done = [asyncio.run(collect(stream)) for stream in streams]
    assert [len(one.token_ids) for one in done] == [14, 14]
    assert shop.loop.stats.preemptions > 0
    assert len(store.reads) > 2
    shop.close()


@pytest.mark.parametrize("question", ["num_stored", "read", "offer", "forget", "close"])
def test_a_store_that_fails_costs_no_answer_and_no_block(question, monkeypatch):
    store = StoreOfPrompts(8)
    monkeypatch.setattr(store, question, lambda *_: fail())
    shop = Workshop(store=store)
    done = [shop.ask(name, list(range(100, 119)), 3) for name in ("a", "b")]
    assert [one.token_ids for one in done] == [(19, 20, 21)] * 2
    assert [one.finish_reason for one in done] == [FinishReason.LENGTH] * 2
    shop.close()


# --- requests that fail alone ---------------------------------------------------------------------------------------


def test_a_sequence_that_outgrows_the_cache_is_told_so_in_one_line():
    shop = Workshop(num_blocks=4)
    done = shop.ask("long", [1] * 10, 50)
    assert done.finish_reason is FinishReason.ERROR
    assert (len(done.token_ids), "\n" in done.error) == (7, False)  # 16 slots: 10 + 7 tokens, the last one without KV
    assert "KV cache of 16" in done.error
    assert shop.ask("short", [1, 2], 2).finish_reason is FinishReason.LENGTH
    shop.close()


def test_a_prompt_that_can_never_fit_holds_nobody_up():
    shop = Workshop(num_blocks=4)
    long, short = shop.submit("long", [1] * 17), shop.submit("short", [1, 2])
    assert asyncio.run(collect(long)).finish_reason is FinishReason.ERROR
    assert asyncio.run(collect(short)).finish_reason is FinishReason.LENGTH
    shop.close()


# --- faults ---------------------------------------------------------------------------------------------------------


def fail() -> None:
    raise RuntimeError("first line\nsecond line")


def test_a_failed_step_ends_those_who_run_and_spares_those_who_wait():
    shop = Workshop(max_running=1)
    entered, go_on = threading.Event(), threading.Event()

    def fail_once() -> None:
        entered.set()
        go_on.wait(WAIT_S)
        shop.runner.before = lambda: None
        fail()

    shop.runner.before = fail_once
    runs, waits = shop.submit("runs", [1, 2]), shop.submit("waits", [1, 2])
    assert entered.wait(WAIT_S)
    go_on.set()
    done = asyncio.run(collect(runs))
    assert done.finish_reason is FinishReason.ERROR
    assert "RuntimeError: first line second line" in done.error
    assert asyncio.run(collect(waits)).token_ids == (2, 3, 4, 5)
    shop.close()


def test_a_fault_that_the_engine_knows_is_told_in_its_own_words(shop, caplog):
    def fail_knowingly() -> None:
        shop.runner.before = lambda: None
        raise EngineError("the file is gone; put it back")

    shop.runner.before = fail_knowingly
    assert shop.ask("a", [1, 2]).error == "the file is gone; put it back"
    assert "Traceback" not in caplog.text
    assert shop.ask("b", [1, 2]).finish_reason is FinishReason.LENGTH, "and the engine goes on"


def test_a_runner_that_answers_for_too_few_is_a_fault(shop):
    shop.runner.run = lambda *_: []
    assert shop.ask("a", [1]).finish_reason is FinishReason.ERROR


def test_a_plan_that_fails_for_those_who_wait_is_not_tried_for_ever(shop, monkeypatch):
    calls = []

    def broken_schedule():
        calls.append(1)
        fail()

    with monkeypatch.context() as patch:
        patch.setattr(shop.loop._scheduler, "schedule", broken_schedule)
        assert shop.ask("a", [1]).finish_reason is FinishReason.ERROR
        time.sleep(0.02)
        assert len(calls) == 1
    assert shop.ask("b", [1]).finish_reason is FinishReason.LENGTH


def test_a_plan_of_nothing_is_a_fault(shop, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shop.loop._scheduler, "schedule", StepPlan)
        done = shop.ask("a", [1])
        assert done.finish_reason is FinishReason.ERROR
        assert "nothing was planned" in done.error
    assert shop.ask("b", [1]).finish_reason is FinishReason.LENGTH


def test_cancelling_what_is_not_there_is_nothing(shop):
    shop.loop.cancel("nobody")
    assert shop.ask("a", [1]).finish_reason is FinishReason.LENGTH
    shop.loop.cancel("a")
    assert shop.ask("b", [1]).finish_reason is FinishReason.LENGTH


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_requests_that_came_while_the_thread_died_are_told():
    shop = Workshop()
    entered, go_on = threading.Event(), threading.Event()

    def die() -> None:
        entered.set()
        go_on.wait(WAIT_S)
        raise SystemExit

    shop.runner.before = die
    streams = [shop.submit("runs", [1])]
    assert entered.wait(WAIT_S)
    streams += [shop.submit("queued", [1]), shop.submit("cancelled", [1])]
    streams[2].cancel()
    go_on.set()
    for stream in streams:
        done = asyncio.run(collect(stream))
        assert (done.finish_reason, done.usage.generated_tokens) == (FinishReason.ERROR, 0)
    with pytest.raises(EngineClosed, match="died"):
        shop.submit("late", [1])
    shop.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_every_reader_is_told_when_requests_cannot_be_taken_out_any_more(monkeypatch):
    shop = Workshop()
    entered, go_on = threading.Event(), threading.Event()
    shop.runner.before = lambda: (entered.set(), go_on.wait(WAIT_S))
    streams = [shop.submit(name, [1, 2], 400) for name in ("a", "b", "c")]
    assert entered.wait(WAIT_S)
    monkeypatch.setattr(shop.loop._scheduler, "finish", lambda _sequence: fail())
    streams[1].cancel()
    go_on.set()
    reasons = [asyncio.run(collect(stream)).finish_reason for stream in streams]
    assert reasons == [FinishReason.ERROR, FinishReason.CANCELLED, FinishReason.ERROR]
    shop.loop.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_every_reader_is_told_when_requests_cannot_be_taken_in_any_more(monkeypatch):
    shop = Workshop()
    entered, go_on = threading.Event(), threading.Event()
    shop.runner.before = lambda: (entered.set(), go_on.wait(WAIT_S))
    streams = [shop.submit("a", [1, 2], 400)]
    assert entered.wait(WAIT_S)
    monkeypatch.setattr(shop.loop._scheduler, "add", lambda *_, **__: fail())
    streams += [shop.submit(name, [1, 2], 400) for name in ("b", "c", "d")]
    go_on.set()
    for stream in streams:
        assert asyncio.run(asyncio.wait_for(collect(stream), WAIT_S)).finish_reason is FinishReason.ERROR
    shop.loop.close()


def test_a_step_that_an_end_breaks_is_not_tried_for_ever(shop, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shop.loop, "_keep", lambda _sequence: fail())
        assert shop.ask("a", [1, 2], 1).finish_reason is FinishReason.LENGTH
    assert shop.ask("b", [1, 2], 2).token_ids == (2, 3)


# --- closing --------------------------------------------------------------------------------------------------------


def test_after_close_nothing_is_taken(shop):
    shop.loop.close()
    with pytest.raises(EngineClosed, match="closed"):
        shop.submit("a", [1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_of_the_process_is_told_that_the_thread_is_not_in_it(shop):
    child = os.fork()
    if not child:
        try:
            shop.submit("a", [1])
        except EngineClosed as fault:
            os._exit(0 if "fork" in str(fault) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shop.ask("b", [1], 1).token_ids == (1,)


def test_what_was_submitted_before_close_is_cancelled():
    shop = Workshop(max_running=1)
    streams = [shop.submit(str(index), [index], 400) for index in range(1, 6)]
    shop.runner.before = lambda: time.sleep(0.001)
    shop.close()
    reasons = {asyncio.run(collect(stream)).finish_reason for stream in streams}
    assert FinishReason.CANCELLED in reasons
    assert reasons <= {FinishReason.CANCELLED, FinishReason.LENGTH}


def test_close_breaks_off_a_step_that_compiles(monkeypatch, caplog):
    compiles = threading.Event()

    class Compiling(DeviceRunner):
        def run(self, copies, runs, num_steps=1):
            compiles.set()
            while True:
                self.meanwhile()
                time.sleep(0.001)

    shop = Workshop(runner=Compiling(monkeypatch))
    stream = shop.submit("a", [1])
    assert compiles.wait(WAIT_S)
    shop.close()
    assert asyncio.run(collect(stream)).finish_reason is FinishReason.CANCELLED
    assert not caplog.records


# --- anything, in any order -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _no_hurry() -> Iterator[None]:
    """How many steps are taken at once does not depend on how long they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visits_module, "VISIT_S", float("inf"))
        yield


prompts = st.lists(st.integers(1, 3), min_size=1, max_size=20)
acts = st.one_of(
    st.tuples(st.just("submit"), prompts, st.integers(1, 12)),
    st.tuples(st.just("fork"), st.integers(0, 9), prompts),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("fail")),
    st.tuples(st.just("wait")),
)


def act(shop: Workshop, streams: list[ThreadedStream], what: tuple) -> None:
    match what:
        case "submit", prompt, max_tokens:
            streams.append(shop.submit(str(len(streams)), prompt, max_tokens))
        case "fork", parent, prompt:
            streams.append(shop.submit(str(len(streams)), prompt, 5, parent_id=str(parent)))
        case "cancel", index if index < len(streams):
            streams[index].cancel()
        case ("fail",):
            shop.runner.before = fail_then_heal(shop)
        case _:
            time.sleep(0.001)


def fail_then_heal(shop: Workshop) -> Callable[[], None]:
    def before() -> None:
        shop.runner.before = lambda: None
        fail()

    return before


@pytest.mark.usefixtures("_no_hurry")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(6, 12), st.integers(1, 12), st.lists(acts, max_size=20), st.sampled_from([1, 2, 7]))
def test_whatever_happens_every_stream_ends_once_and_every_block_returns(
    num_blocks, max_step_tokens, what, steps_per_visit
):
    shop = Workshop(num_blocks, max_step_tokens, min(3, max_step_tokens), steps_per_visit)
    streams: list[ThreadedStream] = []
    for one in what:
        act(shop, streams, one)
    done = [asyncio.run(collect(stream)) for stream in streams]
    assert all(len(one.token_ids) == one.usage.generated_tokens for one in done)
    assert all(one.error is None or one.finish_reason is FinishReason.ERROR for one in done)
    for one in done:
        assert one.token_ids == tuple(range(one.usage.prompt_tokens, one.usage.prompt_tokens + len(one.token_ids)))
    shop.close()
