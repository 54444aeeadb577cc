"""Which of several orders a step's kernels run in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from kodkod_engine.kernels.gpu.overlap import early
from kodkod_engine.models import step_graphs
from kodkod_engine.models.step_graphs import Order, StepGraph, StepGraphs

ONES, TWOS = torch.ones(2), torch.full((2,), 2.0)
PLAIN, EARLY, MAIN = Order(), Order(begins_early=True), Order(favours_main=True)
BOTH = Order(begins_early=True, favours_main=True)


@dataclass
class Graph:
    """What a capture leaves, and how long it takes."""

    ms: float

    def replay(self) -> None:
        pass


@dataclass
class Graphs(StepGraphs):
    """A device that says how long each order takes, and what it leaves."""

    times_ms: dict[Order, float]
    results: dict[Order, Tensor] = field(default_factory=dict)
    captured: list[Order] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def _captured(self, step: Callable[[], Tensor], order: Order) -> StepGraph:
        self.captured.append(order)
        if order not in self.times_ms:
            raise RuntimeError("not captured")
        return StepGraph(order, Graph(self.times_ms[order]), self.results.get(order, ONES))  # type: ignore[arg-type]

    def best(self, like: str = "") -> Order:
        return self.quickest(lambda: ONES, like).order


@pytest.fixture(autouse=True)
def _times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "replay_ms", lambda graph: graph.ms)
    monkeypatch.setattr(step_graphs, "can_begin_early", lambda _device: True)


def test_the_quickest_order_is_taken_and_the_first_step_decides_when_kernels_begin() -> None:
    graphs = Graphs({PLAIN: 3, EARLY: 2, BOTH: 1.5})
    assert graphs.best() == BOTH
    graphs.captured.clear()
    assert graphs.best("more") == BOTH
    assert graphs.captured == [EARLY, BOTH]


def test_an_order_that_leaves_something_else_is_out() -> None:
    graphs = Graphs({PLAIN: 3, EARLY: 2, MAIN: 2.5}, {EARLY: TWOS})
    assert graphs.best() == MAIN


def test_an_order_that_is_not_captured_is_out() -> None:
    assert Graphs({PLAIN: 3, MAIN: 2}).best() == MAIN


def test_steps_that_are_alike_are_timed_once() -> None:
    graphs = Graphs({PLAIN: 3, MAIN: 2})
    assert graphs.best("alike") == MAIN
    graphs.captured.clear()
    assert graphs.best("alike") == MAIN
    assert graphs.captured == [MAIN]


def test_a_step_is_rehearsed_in_its_order_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, bool]] = []

    def took(what: str) -> Tensor:
        taken.append((what, early()["EARLY"]))
        return ONES

    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_args, **_options: nullcontext())
    monkeypatch.setattr(step_graphs, "rehearse", lambda _step: took("rehearsal"))
    StepGraphs(torch.device("cpu"))._captured(lambda: took("run"), EARLY)
    assert taken == [("rehearsal", True), *[("run", True)] * 3]
