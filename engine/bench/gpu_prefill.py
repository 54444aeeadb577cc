"""Prompts and cached turns on the device, with the floor that its arithmetic sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

from gpu_attention import attention_rows
from gpu_bench import Bench
from gpu_model import Device, Player
from gpu_record import Rows
from gpu_tables import tables_away

from kodkod_engine.backends.native import expanded_for
from kodkod_engine.config import EngineConfig
from kodkod_engine.kernels.gpu import grouped_packed
from kodkod_engine.kernels.gpu.tuning import tuner_of
from kodkod_engine.layers import beside
from kodkod_engine.placement.sizes import part_sizes

PROFILED_KERNELS = 25


def prefill(bench: Bench) -> Rows:
    """A cold prompt of each length, then a turn of new tokens behind a cached context."""
    scale = bench.scale
    longest = max(*scale.prompts, scale.cached + max(scale.new)) + 16
    player = bench.player(longest)
    player.prefill_s(0, min(scale.prompts[0], scale.chunk_tokens), scale.chunk_tokens)  # compiles
    chunks = [
        (scale.prompts[0], scale.chunk_tokens // 2),
        *((length, scale.chunk_tokens) for length in scale.prompts),
    ]
    for length, chunk in chunks:
        spent = min(player.prefill_s(0, length, chunk) for _ in range(2))
        yield {"prompt": length, "chunk": chunk, **prefill_figures(bench, 0, length, spent)}
    for new in scale.new:
        spent = min(player.prefill_s(scale.cached, new, scale.chunk_tokens) for _ in range(3))
        yield {"cached": scale.cached, "new": new, **prefill_figures(bench, scale.cached, new, spent)}
    tuner = tuner_of(player.loaded.model.norm.weight.device)
    yield {"tilings": {str(step): str(tiling) for step, tiling in tuner._chosen.items()}}


def kept_turns(bench: Bench) -> Rows:
    """The same turns, in bf16 with tables off the device: keys and values of the context rebuilt and kept, experts in
    their turn and beside attention.
    """
    scale = bench.scale
    with tables_away(bench) as loaded:
        player = Player(loaded, scale.cached + max(scale.new) + 16, bench.device)
        kept = expanded_for(loaded, EngineConfig(device=bench.device.torch.type))
        for new, is_kept, is_beside in product(scale.new, (False, True), (False, True)):
            player.runner.expanded = kept if is_kept else None
            with _experts_beside(is_beside):
                # The first time all are rebuilt.
                spent = min(player.prefill_s(scale.cached, new, scale.chunk_tokens) for _ in range(4))
            has = {"kept_tokens": kept.num_tokens, "kept_gb": kept.num_bytes / 1e9} if is_kept and kept else {}
            row = {"cached": scale.cached, "new": new, "experts_beside": is_beside, **has}
            yield {**row, **prefill_figures(bench, scale.cached, new, spent)}


def packed_turns(bench: Bench, precision: str) -> Rows:
    """Short turns with packed weights: experts unpacked before they are multiplied, and read as they lie."""
    scale = bench.scale
    player = bench.player(precision=precision)
    for new, are_unpacked in product(scale.turns, (True, False)):
        with _experts_unpacked(are_unpacked):
            spent = min(player.prefill_s(scale.short_context, new, scale.chunk_tokens) for _ in range(4))
        row = {"precision": precision, "cached": scale.short_context, "new": new, "experts_unpacked": are_unpacked}
        yield {**row, **prefill_figures(bench, scale.short_context, new, spent)}


@contextmanager
def _experts_unpacked(are_unpacked: bool) -> Iterator[None]:
    usual = grouped_packed.MOST_ROWS_OF_GROUP
    grouped_packed.MOST_ROWS_OF_GROUP = 0 if are_unpacked else usual
    try:
        yield
    finally:
        grouped_packed.MOST_ROWS_OF_GROUP = usual


@contextmanager
def _experts_beside(is_beside: bool) -> Iterator[None]:
    usual = beside.MAX_TOKENS
    beside.MAX_TOKENS = usual if is_beside else 0
    try:
        yield
    finally:
        beside.MAX_TOKENS = usual


def prefill_figures(bench: Bench, cached: int, new: int, spent: float) -> dict[str, float]:
    config, sizes = bench.config, part_sizes(bench.config)
    active = sizes.attention + sizes.latent_maps + sizes.dense + sizes.projection + sizes.router
    linear = 2 * (active + sizes.num_layers * sizes.active_experts * sizes.expert) * new
    per_pair = 2 * config.num_attention_blocks * config.num_heads
    per_pair *= config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    flop = linear + per_pair * new * (cached + new / 2)
    floor_s = flop / bench.flop_rate
    return {
        "seconds": spent,
        "tokens_per_s": new / spent,
        "flop": flop,
        "floor_s": floor_s,
        "fraction": floor_s / spent,
    }


def attention(bench: Bench) -> Rows:
    """Long attention alone, by every way there is."""
    bench.drop_player()
    yield from attention_rows(bench.config, bench.device, bench.scale)


def prefill_profile(bench: Bench) -> Rows:
    """Where the time of the shortest prompt and of the shortest cached turn goes, by kernel."""
    scale = bench.scale
    player = bench.player(max(*scale.prompts, scale.cached + max(scale.new)) + 16)
    cases = {"prompt": (0, scale.prompts[0]), "cached turn": (scale.cached, scale.new[0])}
    for name, (start, new) in cases.items():
        work = partial(player.prefill_s, start, new, scale.chunk_tokens)
        for row in profiled(work, 1, bench.device):
            yield {"of": name, **row}


def profiled(work: Any, steps: int, device: Device) -> Rows:
    """Device time by kernel of some steps, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    work()
    activities = [ProfilerActivity.CUDA] if device.is_cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        work()
        device.wait()
    kernels = sorted(seen.key_averages(), key=lambda one: -one.self_device_time_total)
    total = sum(one.self_device_time_total for one in kernels)
    yield {"kernel": "all", "us_per_step": total / steps}
    for one in kernels[:PROFILED_KERNELS]:
        yield {
            "kernel": one.key[:90],
            "calls_per_step": one.count / steps,
            "us_per_step": one.self_device_time_total / steps,
            "share": one.self_device_time_total / total if total else 0.0,
        }
