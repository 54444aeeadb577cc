"""Decoding on the device: that it is right, and how near it comes to the read rate."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from gpu_bench import Bench, large_matmul_rate
from gpu_equality import equality_row, reference_row, widened
from gpu_model import BLOCK_SIZE, Player, build, config_of, step_bytes
from gpu_prefill import prefill_figures, profiled
from gpu_record import Rows
from gpu_visits import USUAL_STEPS, visit_s
from triton.errors import TritonError

from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.benchmark.gpu_kernels import KernelCase, graphed, kernel_cases
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.step import TokenRun

PROFILED_STEPS = 3
ENGINE_TOKENS = 48
GREEDY = SamplingParams()


# Parts.


def ceilings(bench: Bench) -> Rows:
    yield asdict(bench.ceilings)
    if bench.device.is_cuda:
        yield {"large_bf16_flop_per_s": large_matmul_rate(bench.device)}


@torch.inference_mode()
def load(bench: Bench) -> Rows:
    spent = bench.device.seconds(bench.loaded)
    yield {"build_s": spent, **_memory(bench)}
    spent = bench.device.seconds(bench.player)
    yield {"cache_tokens": bench.scale.cache_tokens, "build_s": spent, **_memory(bench)}


def _memory(bench: Bench) -> dict[str, float]:
    if not bench.device.is_cuda:
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"device_used_gb": (total - free) / 1e9, "device_free_gb": free / 1e9}


def equality(bench: Bench) -> Rows:
    """One token, drafts, sequences, and the longest draft."""
    for sequences, new in ((1, 1), (1, 3), (3, 1), (2, 4), (1, max(bench.scale.drafts))):
        yield equality_row(bench.player(), sequences, bench.scale.short_context, new)


def equality_with_fp32(bench: Bench) -> Rows:
    """Two layers against themselves in fp32; before the model is there, which leaves no room for them."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(Path(folder), bench.small)
    player = Player(build(config, "bf16", bench.device), bench.scale.short_context * 4, bench.device)
    wide = widened(player)
    for sequences, new in ((1, 1), (3, 1), (1, 8)):
        yield reference_row(player, wide, sequences, bench.scale.short_context, new)


@torch.inference_mode()
def kernels(bench: Bench, precision: str = "bf16") -> Rows:
    """Every kernel of the step alone, over all layers and in a graph, for one sequence and for several."""
    player, scale = bench.player(precision=precision), bench.scale
    for tokens in sorted({1, min(4, max(scale.batches)), max(scale.batches)}):
        for case in kernel_cases(player.fused, tokens, scale.context):
            row = {"precision": precision, "kernel": case.name, "tokens": tokens}
            try:
                yield row | _kernel_figures(bench, case)
            except TritonError as fault:  # one that does not start for so many tokens
                yield row | {"fault": str(fault)}


def _kernel_figures(bench: Bench, case: KernelCase) -> dict[str, float]:
    replay = graphed(case.work)
    replay()
    spent = bench.device.seconds(replay, 1 if bench.is_dry else 3)
    return {
        "calls": case.calls,
        "bytes": case.num_bytes,
        "us_per_call": spent / case.calls * 1e6,
        "us_per_step": spent * 1e6,
        "fraction": case.num_bytes / spent / bench.ceilings.read_bytes_per_s,
    }


def decode(bench: Bench, context: int, batches: tuple[int, ...], precision: str = "bf16") -> Rows:
    for batch in batches:
        yield _point(bench, batch, context, 1, precision)


def precision(bench: Bench, precision: str) -> Rows:
    """The fused step against the modules, decoding at each batch, and the shortest prompt."""
    yield equality_row(bench.player(precision=precision), 3, bench.scale.short_context, 1)
    yield from decode(bench, bench.scale.context, bench.scale.batches, precision)
    player, length = bench.player(precision=precision), bench.scale.prompts[0]
    spent = min(player.prefill_s(0, length, bench.scale.chunk_tokens) for _ in range(2))
    yield {"precision": precision, "prompt": length, **prefill_figures(bench, 0, length, spent)}


def verify(bench: Bench) -> Rows:
    """What a verified draft costs, by its length; and the ways the step found quickest by then."""
    for draft in bench.scale.drafts:
        yield _point(bench, 1, bench.scale.context, draft)
    yield {"plans": bench.player().fused._tuner.names()}


def _order(player: Player, runs: list[TokenRun]) -> dict[str, Any]:
    """In which the kernels of such a step run."""
    batch = player.batch(runs)
    if not player.fused.admits(batch):
        return {}
    return asdict(player.shape_of(batch).order)


@torch.inference_mode()
def _point(bench: Bench, batch: int, context: int, new: int, precision: str = "bf16") -> dict[str, Any]:
    player, scale = bench.player(precision=precision), bench.scale
    point: dict[str, Any] = {"precision": precision, "batch": batch, "context": context, "new": new}
    if batch * (context + scale.steps + scale.warm_steps + new + 16) > player.num_tokens:
        return point | {"fault": "the cache does not hold so much beside the weights"}
    runs = player.runs(batch, context, new)
    is_fused = player.fused.admits(player.batch(runs))
    if not is_fused:
        scale = replace(scale, steps=3, warm_steps=1)
    distinct = player.distinct_experts(player.batch(runs))
    spent, replay_s = player.decode_s(batch, context, new, scale)
    num_bytes = step_bytes(player, distinct, batch, context + new)
    limit_s = num_bytes / bench.ceilings.read_bytes_per_s
    point |= {
        "fused_step": is_fused,
        **_order(player, runs),
        "distinct_experts": distinct,
        "bytes": num_bytes,
        "step_ms": spent * 1e3,
        "tokens_per_s": batch * new / spent,
        "limit_tokens_per_s": batch * new / limit_s,
        "fraction": limit_s / spent,
    }
    if replay_s is not None:
        point |= {
            "graph_ms": replay_s * 1e3,
            "host_ms": (spent - replay_s) * 1e3,
            "graph_fraction": limit_s / replay_s,
        }
    if is_fused and new == 1:
        step_s = visit_s(bench, player, batch, context)
        point |= {
            "steps_per_visit": USUAL_STEPS,
            "visit_step_ms": step_s * 1e3,
            "visit_tokens_per_s": batch / step_s,
            "visit_fraction": limit_s / step_s,
        }
    return point


@torch.inference_mode()
def modules(bench: Bench) -> Rows:
    """The modules without fused kernels' step or graph: what plain torch with a few kernels makes of it."""
    player = bench.player()
    runs = player.runs(1, bench.scale.context, 1)

    def step() -> None:
        hidden = player.plain(player.batch(runs))
        player.loaded.model.logits(hidden).argmax(dim=-1).tolist()

    step()
    spent = bench.device.seconds(step, repeats=3 if bench.is_dry else 10)
    yield {"batch": 1, "context": bench.scale.context, "modules_step_ms": spent * 1e3, "tokens_per_s": 1 / spent}


def engine(bench: Bench, steps_per_visit: int = 1, sampling: SamplingParams = GREEDY, precision: str = "bf16") -> Rows:
    """The engine as users have it, loop, scheduler and streams in it, without drafts."""
    bench.drop_player()
    loaded, scale = bench.loaded(precision), bench.scale
    many = min(4, max(scale.batches))
    room = many * (scale.short_context + ENGINE_TOKENS + 2 * BLOCK_SIZE) + scale.prompts[0]
    config = EngineConfig(
        device=bench.device.torch.type,
        max_cached_tokens=room,
        speculation=Speculation.NONE,
        steps_per_visit=steps_per_visit,
    )
    sampling = replace(sampling, max_tokens=4 if bench.is_dry else ENGINE_TOKENS, ignore_eos=True)
    engine = NativeEngine(loaded, None, config)
    try:
        for batch in (1, many):
            for _ in range(2):  # the first captures
                done = _complete(engine, _prompts(bench, batch), sampling)
            step_s = max(one.usage.decode_s / (one.usage.generated_tokens - 1) for one in done)
            first_s = max(one.usage.prefill_s for one in done)
            yield {
                "precision": precision,
                "batch": batch,
                "steps_per_visit": steps_per_visit,
                "temperature": sampling.temperature,
                "step_ms": step_s * 1e3,
                "tokens_per_s": batch / step_s,
                "first_token_s": first_s,
            }
    finally:
        engine.close()
        loaded.model._gpu_step = None


def _prompts(bench: Bench, batch: int) -> list[tuple[int, ...]]:
    ids = torch.randint(3, bench.config.vocab_size, (batch, bench.scale.short_context))
    return [tuple(row) for row in ids.tolist()]


@torch.inference_mode()
def decode_profile(bench: Bench) -> Rows:
    """Where the time of a decode step goes, by kernel, in its graph."""
    player = bench.player()
    runs = player.runs(1, bench.scale.context, 1)
    player.step(runs)
    steps = 1 if bench.is_dry else PROFILED_STEPS
    yield from profiled(lambda: [player.step(runs) for _ in range(steps)], steps, bench.device)


def _complete(engine: NativeEngine, prompts: list[tuple[int, ...]], sampling: SamplingParams) -> list[Completion]:
    async def together() -> list[Completion]:
        streams = [engine.generate(GenerationRequest(prompt, sampling)) for prompt in prompts]
        return list(await asyncio.gather(*map(collect, streams)))

    return asyncio.run(together())
