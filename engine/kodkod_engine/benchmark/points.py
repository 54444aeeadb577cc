"""Decode, prefill, a cached turn, speculation and the start of an engine, beside what the machine's rates allow."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kodkod_engine.api import Completion, Speculation, Usage
from kodkod_engine.benchmark.ceilings import Ceilings, measure_ceilings
from kodkod_engine.benchmark.completions import complete_together, decode_step_s, random_prompts
from kodkod_engine.passing import in_passing
from kodkod_engine.placement.sizes import PartSizes, part_sizes

if TYPE_CHECKING:
    from kodkod_engine.backends.native import NativeEngine
    from kodkod_engine.benchmark.peers import Peer
    from kodkod_engine.config import EngineConfig
    from kodkod_engine.models.checkpoint import Progress

CACHED_TURN_TOKENS = 64
PEER_STEPS = 4
COPIED_AFTER, COPIED_TOKENS = 64, 128
"""Tokens of a prompt, and of the answer that a file has too."""


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
    note: str = ""
    """What else is to be known of it."""

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

    @property
    def longest_tokens(self) -> int:
        """Of one sequence."""
        return max(max(self.prompts) + CACHED_TURN_TOKENS + 1, self.context_tokens + self.decode_tokens)

    @property
    def cached_tokens(self) -> int:
        """What the cache has to hold for all of a batch to decode side by side, blocks that are not full included."""
        return max(max(self.batches) * (self.context_tokens + 2 * self.decode_tokens), self.longest_tokens + 16)


class Bench:
    """Measures one engine; prompts are random and never the same twice, so that no prefix is found by chance."""

    def __init__(
        self, engine: NativeEngine, plan: Plan, checkpoint: Path, load_s: float, peer: Peer | None = None
    ) -> None:
        self.engine, self.plan, self.load_s, self.peer = engine, plan, load_s, peer
        self.checkpoint = checkpoint
        loaded = engine.runner.loaded
        files = sorted(checkpoint.glob("*.safetensors"), key=lambda file: -file.stat().st_size)
        ceilings = partial(measure_ceilings, loaded.device, files[0] if files else None)
        self.ceilings: Ceilings = in_passing(ceilings)
        self.sizes: PartSizes = part_sizes(loaded.config, loaded.dtype.itemsize)
        self.precision = str(loaded.precisions.experts)
        self._generator = torch.Generator().manual_seed(7)

    def points(self) -> Iterator[Point]:
        """One after another; the first steps compile and capture, and count for the cold start alone."""
        yield Point("load", self.load_s, self.load_s, self.load_s, None, None)
        started = time.perf_counter()
        self._complete(self._prompts(1, 8), 1)
        cold_s = self.load_s + time.perf_counter() - started
        yield Point("cold start, to the first token", cold_s, cold_s, cold_s, None, None)
        self._complete(self._prompts(1, 8), 4)
        for batch in self.plan.batches:
            yield self._decode(batch)
        for length in self.plan.prompts:
            yield self._prefill(length)
        yield self._cached_turn(max(self.plan.prompts))
        yield self._speculation()

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
            steps.append(decode_step_s(self.engine, prompts, self.plan.decode_tokens - 1))
            if self.peer is not None:
                others.append(self.peer.decode(batch, self.plan.context_tokens, PEER_STEPS))
        limit = batch * self.ceilings.read_bytes_per_s / self._step_bytes(batch)
        return _point(f"decode, batch {batch}", steps, batch, limit, others)

    def _step_bytes(self, batch: int) -> float:
        """Bytes of a step when experts are hit evenly: all but the experts once, each expert hit once."""
        sizes, weight = self.sizes, self.sizes.weight_bytes(self.precision)
        layout = self.engine.runner.layout
        one = sizes.read_bytes(self.precision, 0, 0)
        num_experts = sizes.experts / sizes.num_layers / sizes.expert
        distinct = num_experts * (1 - (1 - sizes.active_experts / num_experts) ** batch)
        more = (distinct - sizes.active_experts) * sizes.num_layers * sizes.expert * weight
        return one + more + batch * self.plan.context_tokens * layout.bytes_per_token

    def _flop_per_token(self) -> float:
        sizes = self.sizes
        active = sizes.attention + sizes.latent_maps + sizes.dense + sizes.projection
        return 2 * (active + sizes.num_layers * sizes.active_experts * sizes.expert)

    def _flop_per_s(self) -> float:
        narrow = self.engine.runner.loaded.activation_dtype != torch.float32
        return self.ceilings.bf16_flop_per_s if narrow else self.ceilings.fp32_flop_per_s

    def _prefill(self, length: int) -> Point:
        times, others = [], []
        for _ in range(self.plan.repeats):
            times.append(self._complete(self._prompts(1, length), 1)[0].usage.prefill_s)
            if self.peer is not None:
                others.append(self.peer.prefill(self._prompts(1, length)[0]))
        return _point(f"prefill, {length} tokens", times, length, self._flop_per_s() / self._flop_per_token(), others)

    def _cached_turn(self, length: int) -> Point:
        times = []
        for _ in range(self.plan.repeats):
            (prompt,) = self._prompts(1, length)
            self._complete([prompt], 1)
            (more,) = self._prompts(1, CACHED_TURN_TOKENS)
            times.append(self._complete([prompt + more], 1)[0].usage.prefill_s)
        # Whichever takes longer: its products, or reading each weight that one of them needs.
        read_s = self._step_bytes(CACHED_TURN_TOKENS) / self.ceilings.read_bytes_per_s
        floor_s = max(CACHED_TURN_TOKENS * self._flop_per_token() / self._flop_per_s(), read_s)
        name = f"cached turn, {CACHED_TURN_TOKENS} new on {length}"
        return _point(name, times, CACHED_TURN_TOKENS, CACHED_TURN_TOKENS / floor_s)

    def _speculation(self) -> Point:
        """The best case: an answer that stands in an open file, so that all drafts are right; and without drafts."""
        drafted: list[float] = []
        plain: list[float] = []
        usages: list[Usage] = []
        for _ in range(self.plan.repeats):
            (prompt,) = self._prompts(1, COPIED_AFTER)
            (done,) = self._complete([prompt], COPIED_TOKENS, Speculation.NONE)
            plain.append(_decode_token_s(done.usage))
            source = prompt + done.token_ids
            (done,) = complete_together(self.engine, [prompt], COPIED_TOKENS, Speculation.AUTO, (source,))
            drafted.append(_decode_token_s(done.usage))
            usages.append(done.usage)
        point = _point("speculation, a text from an open file", drafted, 1, None)
        gain = statistics.median(plain) / point.seconds
        return replace(point, note=f"{gain:.2f} times as fast as without, {_accepted(usages)} right")

    def _prompts(self, count: int, length: int) -> list[tuple[int, ...]]:
        return random_prompts(self.engine.vocab_size, count, length, self._generator)

    def _complete(
        self, prompts: Sequence[tuple[int, ...]], max_tokens: int, speculation: Speculation | None = None
    ) -> list[Completion]:
        return complete_together(self.engine, prompts, max_tokens, speculation)


def _decode_token_s(usage: Usage) -> float:
    return usage.decode_s / (usage.generated_tokens - 1)


def _accepted(usages: Sequence[Usage]) -> str:
    accepted, drafted = (sum(getattr(one, f"{what}_tokens") for one in usages) for what in ("accepted", "drafted"))
    return f"{accepted} of {drafted} drafts"


def _point(name: str, samples: list[float], tokens: int, limit: float | None, others: Sequence[float] = ()) -> Point:
    median = statistics.median(samples)
    peer_s = statistics.median(others) if others else None
    return Point(name, median, min(samples), max(samples), tokens / median, limit, peer_s)


def timed_load(checkpoint: Path, config: EngineConfig, progress: Progress | None = None) -> tuple[NativeEngine, float]:
    """An engine and the seconds it took to load."""
    from kodkod_engine.backends.native import load_native

    started = time.perf_counter()
    engine = load_native(checkpoint, config, progress)
    return engine, time.perf_counter() - started
