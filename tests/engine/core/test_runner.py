"""What the runner does beside computing: when the host has time for others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import Choice, TokenRun
from kodkod_engine.kernels.first_use import kernel_compiled
from kodkod_engine.models.longcat_flash import LongcatFlash

RUN = TokenRun("a", [7], [], 0, [0], [Choice(SamplingParams(), 1, None)])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def runner_of(loaded, events: list[str], *, has_device: bool = False) -> ModelRunner:
    runner = ModelRunner(loaded, 2, 4)
    runner.meanwhile = lambda: events.append("meanwhile")
    runner._chooses_on_device = has_device
    assert runner.overlaps is has_device
    return runner


def test_the_host_has_time_once_the_device_computes(tiny, monkeypatch):
    class Ids(torch.Tensor):
        def tolist(self):
            events.append("wait")
            return [[5]]

    def choose(*_):
        events.append("launch")
        return torch.zeros(1, 1).as_subclass(Ids)

    events: list[str] = []
    runner = runner_of(tiny, events, has_device=True)
    monkeypatch.setattr(LongcatFlash, "choose", choose)
    assert runner.run((), [RUN])[0][0].token_id == 5
    assert events == ["launch", "meanwhile", "wait"]


def test_the_host_has_none_while_it_computes_itself(tiny, monkeypatch):
    events: list[str] = []
    runner = runner_of(tiny, events)
    forward = runner.forward
    monkeypatch.setattr(runner, "forward", lambda runs: (events.append("forward"), forward(runs))[1])
    # A device's kernels may have to be compiled here.
    monkeypatch.setattr("kodkod_engine.core.runner.telling", lambda *_: nullcontext())
    runner.run((), [RUN])
    assert events == ["meanwhile", "forward"]


def test_a_step_without_runs_is_no_step_but_the_host_has_time(tiny):
    events: list[str] = []
    assert runner_of(tiny, events).run((), []) == []
    assert events == ["meanwhile"]


def test_readers_do_not_wait_for_a_compiler(tiny):
    events: list[str] = []
    runner = runner_of(tiny, events, has_device=True)
    runner.on_compile = lambda: events.append("told")
    runner._tell_compiling()
    assert events == ["meanwhile", "told"]


def test_the_host_has_time_after_each_kernel_that_is_compiled_for_a_device(tiny, monkeypatch):
    events: list[str] = []
    runner = runner_of(tiny, events, has_device=True)
    runner.on_compile = lambda: events.append("told")

    def choose(*_):
        kernel_compiled()
        kernel_compiled()
        events.append("launch")
        return torch.full((1, 1), 5)

    monkeypatch.setattr(LongcatFlash, "choose", choose)
    runner.run((), [RUN])
    assert events == ["meanwhile", "told", "meanwhile", "meanwhile", "launch", "meanwhile"]


@pytest.mark.parametrize(("is_small", "threads"), [(True, 1), (False, 2)])
def test_a_small_model_keeps_to_one_thread_until_it_has_chosen(tiny, monkeypatch, two_threads, is_small, threads):
    runner, asked, logits = runner_of(tiny, []), [], LongcatFlash.logits
    assert runner._is_small
    runner._is_small = is_small
    monkeypatch.setattr(
        LongcatFlash, "logits", lambda *given: (asked.append(torch.get_num_threads()), logits(*given))[1]
    )
    runner.run((), [RUN])
    assert (asked, torch.get_num_threads()) == ([threads], 2)
