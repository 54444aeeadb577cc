"""The quickest of several ways to do the same, found on the device itself, once for each shape.

Ways are timed in a graph, as they will run, and from memory: a step reads gigabytes, so nothing that a kernel reads is
in the device's cache when its turn comes. One that has no room there, or says something else than the first that has,
is out. All are compiled before, side by side. What was found is kept for the next process (`kept_ways`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TypeVar

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from kodkod_engine.kernels.gpu.kept_ways import KeptWays
from kodkod_engine.kernels.gpu.rehearsal import is_rehearsal, rehearse

Way = TypeVar("Way")

TIMED_MS = 2
"""Of each way, several times over."""

SWEPT_CACHES = 2
"""Sizes of the device's cache that are read before each run, so that nothing of an earlier one is left in it."""

REPLAYS = 10

TOLERANCE = 0.05
"""Of the relative difference from the first way; two ways round differently."""

NO_WAY = (RuntimeError, TritonError)
"""What a way raises that has no room, or that this device's compiler does not know."""


class Tuner:
    """Choices of one device, by shape."""

    def __init__(self, device: torch.device, kept: KeptWays | None = None) -> None:
        """`kept`: where choices are read from and added to."""
        self._is_able = device.type == "cuda"
        self._kept = kept
        self._names = kept.read() if kept is not None else {}
        self._chosen: dict[Hashable, object] = {}

    def quickest(self, key: Hashable, ways: Sequence[Way], run: Callable[[Way], Tensor]) -> Way:
        """One of the ways; while a graph is captured, and where there is no CUDA device, what is known or the first.

        In a rehearsal each is taken where none is known.

        Args:
            key: what the choice depends on.
            ways: the first that the device has room for is right.
            run: does it; called several times, unless the way is kept from an earlier process.
        """
        if key in self._chosen:
            return self._chosen[key]  # type: ignore[return-value]
        if not self._is_able or torch.cuda.is_current_stream_capturing():
            return ways[0]
        kept = [way for way in ways if name_of(way) == self._names.get(repr(key))]
        if not kept and is_rehearsal():
            return each_taken(ways, run)
        self._chosen[key] = best = kept[0] if kept else self._timed(key, ways, run)
        return best

    def _timed(self, key: Hashable, ways: Sequence[Way], run: Callable[[Way], Tensor]) -> Way:
        rehearse(lambda: each_taken(ways, run))
        able, wanted = able_ways(ways, run)
        times = [_milliseconds(way, run, wanted) for way in able]
        best = able[times.index(min(times))]
        if self._kept is not None:
            self._kept.add(repr(key), name_of(best))
        return best

    def names(self) -> dict[str, str]:
        """What was chosen so far, by key."""
        return {repr(key): name_of(way) for key, way in self._chosen.items()}


def name_of(way: object) -> str:
    """The same in every process: a function's own name, the fields of a value."""
    return str(getattr(way, "__name__", way))


@cache
def tuner_of(device: torch.device) -> Tuner:
    """The device's own, so that what one model found serves the next."""
    return Tuner(device, KeptWays.of(device) if device.type == "cuda" else None)


def each_taken(ways: Sequence[Way], run: Callable[[Way], Tensor]) -> Way:
    """The first, after all were run that can be."""
    for way in ways:
        with suppress(*NO_WAY):
            run(way)
    return ways[0]


def able_ways(ways: Sequence[Way], run: Callable[[Way], Tensor]) -> tuple[Sequence[Way], Tensor]:
    """The ways from the first that the device has room for, and what that one says."""
    for index, way in enumerate(ways[:-1]):
        with suppress(*NO_WAY):
            return ways[index:], run(way).float()
    return ways[-1:], run(ways[-1]).float()


def _milliseconds(way: Way, run: Callable[[Way], Tensor], wanted: Tensor) -> float:
    try:
        got = run(way).float()
        if not bool((got - wanted).norm() <= TOLERANCE * wanted.norm()):
            return float("inf")
        sweep = sweep_of(wanted.device)
        return float(triton.testing.do_bench_cudagraph(lambda: (sweep(), run(way)), rep=TIMED_MS, return_mode="min"))
    except NO_WAY:
        return float("inf")


@cache
def sweep_of(device: torch.device) -> Callable[[], object]:
    """Reads more than the device's cache holds; always the same, so ways that are timed with it stay comparable."""
    size = SWEPT_CACHES * torch.cuda.get_device_properties(device).L2_cache_size
    # Kept for the next shape; what is read alone need not be written back while a way is timed.
    return partial(torch.amax, torch.zeros(max(1, size // 4), dtype=torch.int32, device=device), dim=0)


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
