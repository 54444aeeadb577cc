"""The quickest of several ways to do the same, found on the device itself, once for each shape.

Ways are timed in a graph, as they will run. One that does not start, or says something else than the first, is out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import TypeVar

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

Way = TypeVar("Way")

TIMED_MS = 1
"""Of each way."""

REPLAYS = 10

TOLERANCE = 0.05
"""Of the relative difference from the first way; two ways round differently."""


class Tuner:
    """Choices of one device, by shape."""

    def __init__(self, device: torch.device) -> None:
        self._is_able = device.type == "cuda"
        self._chosen: dict[Hashable, object] = {}

    def quickest(self, key: Hashable, ways: Sequence[Way], run: Callable[[Way], Tensor]) -> Way:
        """One of the ways; while a graph is captured, and where there is no CUDA device, what is known or the first.

        Args:
            key: what the choice depends on.
            ways: the first is known to work.
            run: does it; called several times.
        """
        if key in self._chosen:
            return self._chosen[key]  # type: ignore[return-value]
        if not self._is_able or torch.cuda.is_current_stream_capturing():
            return ways[0]
        wanted = run(ways[0]).float()
        times = {index: _milliseconds(way, run, wanted) for index, way in enumerate(ways)}
        self._chosen[key] = best = ways[min(times, key=lambda index: times[index])]
        return best


@cache
def tuner_of(device: torch.device) -> Tuner:
    """The device's own, so that what one model found serves the next."""
    return Tuner(device)


def _milliseconds(way: Way, run: Callable[[Way], Tensor], wanted: Tensor) -> float:
    try:
        got = run(way).float()
        if not bool((got - wanted).norm() <= TOLERANCE * wanted.norm()):
            return float("inf")
        return float(triton.testing.do_bench_cudagraph(lambda: run(way), rep=TIMED_MS))
    except (RuntimeError, TritonError):  # no room, or nothing that this device's compiler knows
        return float("inf")


def replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    """Milliseconds of a graph: the least of a few times."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(REPLAYS):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(min(times))
