"""The kernels of a CUDA decode step one by one: the bytes each must read and what to run to time it.

A case runs its kernel once for every layer of the model, so that no weight is found in the second cache: what is timed
is what a step pays. Calls from Python take longer than the kernels; on a device they belong into a graph (`graphed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from kodkod_engine.kernels.gpu import thin_linear as thin
from kodkod_engine.kernels.gpu.around import Around
from kodkod_engine.kernels.gpu.expert_decode import ways_to_finish, ways_to_start
from kodkod_engine.kernels.gpu.latent_decode import latent_decode
from kodkod_engine.kernels.gpu.latent_inputs import latent_inputs
from kodkod_engine.kernels.gpu.latent_plans import Plan
from kodkod_engine.kernels.gpu.route import route
from kodkod_engine.kernels.gpu.tuning import name_of
from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.packed import Slot
from kodkod_engine.models.gpu_step import GpuStep
from kodkod_engine.models.step_buffers import Ending, ShapeKey, bucket_of

WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class KernelCase:
    """One kernel over all layers."""

    name: str
    calls: int
    """Kernels that `work` starts."""
    num_bytes: float
    """Weights and cache that `work` must read, in all."""
    work: Callable[[], None]


def graphed(work: Callable[[], None]) -> Callable[[], None]:
    """The work as one graph on the current CUDA device; as it is where there is none."""
    if not torch.cuda.is_available():
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


@torch.inference_mode()
def kernel_cases(step: GpuStep, tokens: int, context: int) -> Iterator[KernelCase]:
    """Cases at a step of `tokens` sequences with one new token each; the step's cache holds `context` places at least.

    Linear maps and packed experts come in each way they have, with the kernels that a way needs around it.
    """
    yield from _linear_cases(step, tokens)
    yield from _attention_cases(step, tokens, context)
    yield from _expert_cases(step, tokens)


def _linear_cases(step: GpuStep, tokens: int) -> Iterator[KernelCase]:
    halves = list(chain.from_iterable((layer.first, layer.second) for layer in step.model.dual_layers))
    like = step.model.norm.weight
    every: list[tuple[str, list[Slot], dict[str, bool]]] = [
        ("norm, q and kv down", [half.attention.qkv_a.home for half in halves], {"has_norm": True}),
        ("norm, q up", [half.attention.q_b.home for half in halves], {"has_norm": True}),
        ("output, residual", [half.attention.o.home for half in halves], {"has_residual": True}),
        ("norm, gate and up", [half.dense.gate_up.home for half in halves], {"has_norm": True, "is_pair": True}),
        ("down, residual", [half.dense.down.home for half in halves], {"has_residual": True}),
        ("norm, head", [step.model.head_weight], {"has_norm": True}),
    ]
    for name, weights, around in every:
        yield from _linear(name, weights, like, tokens, **around)


def _linear(
    name: str,
    weights: Sequence[Slot],
    like: Tensor,
    tokens: int,
    *,
    has_norm: bool = False,
    has_residual: bool = False,
    is_pair: bool = False,
) -> Iterator[KernelCase]:
    outputs, size = weights[0].shape
    x = torch.randn(tokens, size, dtype=like.dtype, device=like.device)
    norm = torch.ones_like(x[0]) if has_norm else None
    residual = x.new_zeros(tokens, outputs) if has_residual else None
    around = Around(norm, 1e-5, residual, is_pair=is_pair)
    num_bytes = sum(weight.nbytes for weight in weights)

    def work(way: thin.Way) -> None:
        for weight in weights:
            way(x, weight, around)

    for way in thin.ways_of(x, weights[0]):
        yield KernelCase(f"{name}, {name_of(way)}", len(weights), num_bytes, partial(work, way))


def _attention_cases(step: GpuStep, tokens: int, context: int) -> Iterator[KernelCase]:
    config, cache = step.model.config, step.cache
    blocks = list(
        chain.from_iterable((layer.first.attention, layer.second.attention) for layer in step.model.dual_layers)
    )
    one = blocks[0].kv_b.weight
    query = torch.randn(tokens, blocks[0].q_b.home.shape[-2], dtype=one.dtype, device=one.device)
    down = torch.randn(tokens, config.latent_dim, dtype=one.dtype, device=one.device)
    wide = torch.randn(tokens, 1, config.num_heads, config.latent_dim, dtype=one.dtype, device=one.device)
    slots = torch.arange(tokens, device=one.device)
    places = torch.full((tokens,), context - 1, device=one.device)
    layout = cache.layout
    each, all_blocks = -(-context // layout.block_size), layout.num_slots // layout.block_size
    # Each sequence reads places of its own, as far as there are any.
    table = torch.arange(tokens * each, device=one.device).view(tokens, -1) % all_blocks
    key = ShapeKey(tokens, 1, bucket_of(context), Ending.HIDDEN)
    projections = len(blocks) * one.nbytes / 2

    def inputs() -> None:
        for block in blocks:
            own, rest = cache.layer(block.cache_layer), (block.kv_norm.weight, step.turns, places, slots)
            latent_inputs(query, down, block.kv_b.weight, *rest, own, step.latent)

    def attend(block: LatentAttention, plan: Plan) -> Tensor:
        own, sizes = cache.layer(block.cache_layer), (config.v_head_dim, config.score_scale, layout.block_size)
        return latent_decode(wide, own, table, places[:, None], block.kv_b.weight, *sizes, plan=plan)

    plan = step.plan(key, partial(attend, blocks[0]))

    def attention() -> None:
        for block in blocks:
            attend(block, plan)

    yield KernelCase("latent inputs", len(blocks), projections, inputs)
    cached = len(blocks) * min(tokens * context, layout.num_slots) * config.latent_dim * one.itemsize
    yield KernelCase(
        f"latent attention, {context}, {plan}",
        2 * len(blocks),
        projections + cached,
        attention,
    )


def _expert_cases(step: GpuStep, tokens: int) -> Iterator[KernelCase]:
    model, to, inner = step.model, step.routing, step.inner
    x = torch.randn(tokens, model.config.hidden_size, dtype=model.norm.weight.dtype, device=model.norm.weight.device)
    residual, out = torch.zeros_like(x), torch.empty_like(x)

    def routed() -> None:
        for layer in model.dual_layers:
            norm, router, real = layer.first.post_norm, layer.experts.router, layer.experts.num_experts
            weights = (router.weight, router.selection_bias)
            route(x, norm.weight, norm.eps, *weights, router.scaling_factor, real, to)

    def start(way: Callable[..., Tensor]) -> None:
        for layer in model.dual_layers:
            way(x, layer.experts.homes[0], to.chosen[:tokens], to.weights[:tokens], inner)

    def finish(way: Callable[..., Tensor]) -> None:
        for layer in model.dual_layers:
            way(x, residual, layer.experts.homes[1], to.chosen[:tokens], to.identity[:tokens], inner, out)

    count, experts = len(model.dual_layers), model.dual_layers[0].experts
    yield KernelCase("norm, router", count, count * experts.router.weight.nbytes, routed)
    routed()
    chosen = to.chosen[:tokens]
    distinct = len(chosen[chosen < experts.num_experts].unique())
    gate_up, down = (count * distinct * home[0].nbytes for home in experts.homes)
    for first in ways_to_start(x, experts.homes[0]):
        yield KernelCase(f"experts, gate and up, {name_of(first)}", count, gate_up, partial(start, first))
    for second in ways_to_finish(x, experts.homes[1]):
        yield KernelCase(f"experts, down, {name_of(second)}", count, down, partial(finish, second))
