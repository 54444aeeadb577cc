"""Decode, prefill, a cached turn and the start of an engine, each with the limit the machine's rates set it."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, collect
from kodkod_engine.benchmark.ceilings import Ceilings, measure_ceilings
from kodkod_engine.placement.sizes import BYTES_PER_WEIGHT, PartSizes, part_sizes

if TYPE_CHECKING:
    from kodkod_engine.backends.native import NativeEngine
    from kodkod_engine.benchmark.transformers_peer import TransformersPeer

LOWEST_ID = 3
CACHED_TURN_TOKENS = 64
PEER_STEPS = 4


@dataclass(frozen=True, slots=True)
class Point:
    """One figure."""

    name: str
    seconds: float
    """Median of the repeats: per step of decoding, to the first token otherwise."""
    fastest_s: float
    slowest_s: float
    tokens_per_s: float | None
    limit_tokens_per_s: float | None
    """What the rates of this run allow."""
    peer_s: float | None = None
    """The same by the peer, in turn with ours."""

    @property
    def fraction(self) -> float | None:
        """Of the limit that was reached."""
        if self.tokens_per_s is None or self.limit_tokens_per_s is None:
            return None
        return self.tokens_per_s / self.limit_tokens_per_s


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    batches: tuple[int, ...] = (1, 4, 16, 32)
    prompts: tuple[int, ...] = (512, 2048)
    context_tokens: int = 256
    decode_tokens: int = 16
    repeats: int = 3


class Bench:
    """Measures one engine; prompts are random and never the same twice, so that no prefix is found by chance."""

    def __init__(
        self, engine: NativeEngine, plan: Plan, checkpoint: Path, load_s: float, peer: TransformersPeer | None = None
    ) -> None:
        self.engine, self.plan, self.load_s, self.peer = engine, plan, load_s, peer
        loaded = engine.runner.loaded
        files = sorted(checkpoint.glob("*.safetensors"), key=lambda file: -file.stat().st_size)
        self.ceilings: Ceilings = measure_ceilings(loaded.device, files[0] if files else None)
        self.sizes: PartSizes = part_sizes(loaded.config)
        self.precision = str(loaded.precisions.experts)
        self._generator = torch.Generator().manual_seed(7)

    def points(self) -> Iterator[Point]:
        """One after another; the first steps compile and capture and are not counted."""
        self._complete(self._prompts(1, 8), 4)
        yield Point("load", self.load_s, self.load_s, self.load_s, None, None)
        for batch in self.plan.batches:
            yield self._decode(batch)
        for length in self.plan.prompts:
            yield self._prefill(length)
        yield self._cached_turn(max(self.plan.prompts))

    def memory(self) -> dict[str, float]:
        """The most this process had, in bytes."""
        peak = {"host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
        if self.engine.runner.loaded.device.type == "cuda":
            peak["device_peak_bytes"] = float(torch.cuda.max_memory_allocated())
        return peak

    def _decode(self, batch: int) -> Point:
        steps, others = [], []
        for _ in range(self.plan.repeats):
            prompts = self._prompts(batch, self.plan.context_tokens)
            self._complete(prompts, 1)  # found in the cache afterwards, so that all begin to decode in one step
            done = self._complete(prompts, self.plan.decode_tokens)
            steps.append(max(one.usage.decode_s for one in done) / (self.plan.decode_tokens - 1))
            if self.peer is not None:
                others.append(self.peer.decode(batch, self.plan.context_tokens, PEER_STEPS))
        limit = batch * self.ceilings.read_bytes_per_s / self._step_bytes(batch)
        return _point(f"decode, batch {batch}", steps, batch, limit, others)

    def _step_bytes(self, batch: int) -> float:
        """Bytes of a step when experts are hit evenly: all but the experts once, each expert hit once."""
        sizes, weight = self.sizes, BYTES_PER_WEIGHT[self.precision]
        layout = self.engine.runner.layout
        one = sizes.read_bytes(self.precision, 0, 0)
        num_experts = sizes.experts / sizes.num_layers / sizes.expert
        distinct = num_experts * (1 - (1 - sizes.active_experts / num_experts) ** batch)
        more = (distinct - sizes.active_experts) * sizes.num_layers * sizes.expert * weight
        return one + more + batch * self.plan.context_tokens * layout.bytes_per_token

    def _prefill(self, length: int) -> Point:
        times, others = [], []
        for _ in range(self.plan.repeats):
            times.append(self._complete(self._prompts(1, length), 1)[0].usage.prefill_s)
            if self.peer is not None:
                others.append(self.peer.prefill(self._prompts(1, length)[0]))
        sizes = self.sizes
        active = sizes.attention + sizes.latent_maps + sizes.dense + sizes.projection
        flop = 2 * (active + sizes.num_layers * sizes.active_experts * sizes.expert)
        loaded = self.engine.runner.loaded
        narrow = loaded.activation_dtype != torch.float32
        rate = self.ceilings.bf16_flop_per_s if narrow else self.ceilings.fp32_flop_per_s
        return _point(f"prefill, {length} tokens", times, length, rate / flop, others)

    def _cached_turn(self, length: int) -> Point:
        times = []
        for _ in range(self.plan.repeats):
            (prompt,) = self._prompts(1, length)
            self._complete([prompt], 1)
            (more,) = self._prompts(1, CACHED_TURN_TOKENS)
            times.append(self._complete([prompt + more], 1)[0].usage.prefill_s)
        return _point(f"cached turn, {CACHED_TURN_TOKENS} new on {length}", times, CACHED_TURN_TOKENS, None)

    def _prompts(self, count: int, length: int) -> list[tuple[int, ...]]:
        ids = torch.randint(LOWEST_ID, self.engine.vocab_size, (count, length), generator=self._generator)
        return [tuple(row) for row in ids.tolist()]

    def _complete(self, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> list[Completion]:
        sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)

        async def together() -> list[Completion]:
            streams = [self.engine.generate(GenerationRequest(prompt, sampling)) for prompt in prompts]
            return list(await asyncio.gather(*map(collect, streams)))

        return asyncio.run(together())


def _point(name: str, samples: list[float], tokens: int, limit: float | None, others: Sequence[float] = ()) -> Point:
    median = statistics.median(samples)
    peer_s = statistics.median(others) if others else None
    return Point(name, median, min(samples), max(samples), tokens / median, limit, peer_s)


def timed_load(checkpoint: Path, options: dict[str, Any]) -> tuple[NativeEngine, float]:
    """An engine and the seconds it took to load."""
    from kodkod_engine import load_engine

    started = time.perf_counter()
    engine = load_engine(checkpoint, **options)
    return engine, time.perf_counter() - started
