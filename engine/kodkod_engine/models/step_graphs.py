"""A step as a graph of a CUDA device: when its kernels begin, and which go first, as the device finds it quickest."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kodkod_engine.kernels.gpu.overlap import beginning_early, can_begin_early
from kodkod_engine.kernels.gpu.rehearsal import rehearse
from kodkod_engine.kernels.gpu.tuning import replay_ms

WARM_UPS = 2
"""Runs before a capture, which may not compile or allocate."""

TURNS = 3
"""In which two orders are compared."""

FIRST = -1
"""The priority of a stream whose kernels go first; 0 is the usual one."""


@dataclass(frozen=True, slots=True)
class Order:
    """Of a step's kernels."""

    begins_early: bool = False
    """Whether kernels begin before the one before them has ended."""
    favours_main: bool = False
    """Whether attention and dense networks go first where the experts could begin too."""


@dataclass(frozen=True, slots=True)
class StepGraph:
    """A captured step."""

    order: Order
    graph: torch.cuda.CUDAGraph
    out: Tensor
    """What it leaves; overwritten when it is replayed."""

    def result(self) -> Tensor:
        """A copy of what it leaves."""
        self.graph.replay()
        return self.out.clone()


def _is_quicker(one: StepGraph, other: StepGraph) -> bool:
    """In turns, for a device's pace changes."""
    turns = [(replay_ms(one.graph), replay_ms(other.graph)) for _ in range(TURNS)]
    return sum(mine for mine, _ in turns) < sum(others for _, others in turns)


class StepGraphs:
    """Captures steps on one device, in memory that their graphs share."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._begins_early: bool | None = None
        """None until a step decided."""
        self._orders: dict[Hashable, Order] = {}
        """What was found quickest for steps that are alike."""

    def quickest(self, step: Callable[[], Tensor], like: Hashable) -> StepGraph:
        """The step in the order that ends first, of those that leave the same; found once for steps that are alike.

        Args:
            step: launches its kernels; leaves the same however often it runs. The first decides for all whether kernels
                begin early, for each that does is compiled anew.
            like: what steps that are alike have in common.
        """
        if like in self._orders:
            return self._captured(step, self._orders[like])
        best = self._timed(step)
        self._begins_early, self._orders[like] = best.order.begins_early, best.order
        return best

    def _timed(self, step: Callable[[], Tensor]) -> StepGraph:
        best = self._captured(step, Order(self._begins_early is True))
        wanted = best.result()
        for change in self._changes():
            try:
                other = self._captured(step, replace(best.order, **change))
                if torch.equal(other.result(), wanted) and _is_quicker(other, best):
                    best = other
            except RuntimeError:  # the driver does not capture such launches
                continue
        return best

    def _changes(self) -> Iterator[dict[str, Any]]:
        if self._begins_early is None and can_begin_early(self._device):
            yield {"begins_early": True}
        yield {"favours_main": True}

    def _captured(self, step: Callable[[], Tensor], order: Order) -> StepGraph:
        with beginning_early(order.begins_early):
            stream = torch.cuda.Stream(self._device, priority=FIRST if order.favours_main else 0)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                rehearse(step)
                for _ in range(WARM_UPS):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                out = step()
        self._pool = self._pool or graph.pool()
        return StepGraph(order, graph, out)
