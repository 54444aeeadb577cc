"""A decode step on a CUDA device: fused kernels, the experts on a second stream, one graph per shape.

The reference is the model itself (`LongcatFlash.forward`); this computes the same for steps of few tokens whose
sequences all add equally many. A step's shape is (sequences, new tokens, context bucket): its graph is captured when it
first comes up and replayed from then on, so the host only copies a few integers per step. A graph that ends with chosen
ids leaves its integers as the next step needs them: replayed again it is the next step, and the host need not look.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kodkod_engine.kernels.gpu.draw_ids import draw_ids
from kodkod_engine.kernels.gpu.expert_decode import expert_decode, scratch
from kodkod_engine.kernels.gpu.latent_decode import latent_decode
from kodkod_engine.kernels.gpu.latent_inputs import LatentShape, latent_inputs
from kodkod_engine.kernels.gpu.latent_plans import Plan, plans_for
from kodkod_engine.kernels.gpu.next_step import next_step
from kodkod_engine.kernels.gpu.ngram_input import NgramInput
from kodkod_engine.kernels.gpu.route import Routing, route
from kodkod_engine.kernels.gpu.thin_linear import thin_linear
from kodkod_engine.kernels.gpu.tuning import tuner_of
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.layers.draws import Draws
from kodkod_engine.layers.on_device import fits_tile
from kodkod_engine.layers.step_batch import Blocks, StepBatch
from kodkod_engine.models.config import LATENT_NORM_EPS, ModelConfig
from kodkod_engine.models.step_buffers import MOST_STEPS, Ending, ShapeKey, StepBuffers, bucket_of
from kodkod_engine.models.step_graphs import StepGraphs

if TYPE_CHECKING:
    from kodkod_engine.models.longcat_flash import DualLayer, HalfLayer, LongcatFlash

MAX_TOKENS = 32
"""Longer steps read most experts anyway and go through the modules."""


def latent_shape(config: ModelConfig) -> LatentShape:
    """What the attention kernels want to know of a model."""
    return LatentShape(
        heads=config.num_heads,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        rank=config.kv_lora_rank,
        value=config.v_head_dim,
        q_scale=config.q_scale,
        kv_scale=config.kv_scale,
        eps=LATENT_NORM_EPS,
    )


def _ids(logits: Tensor, shape: StepBuffers) -> Tensor:
    return logits.argmax(dim=-1) if shape.draws is None else draw_ids(logits, shape.draws, shape.places.step)


@dataclass
class GpuStep:
    """Steps of one model on one cache. Not thread-safe: the engine thread owns it."""

    model: LongcatFlash
    cache: KvCache
    _shapes: dict[ShapeKey, StepBuffers] = field(default_factory=dict)
    _last: StepBuffers | None = None
    """Those of the last step."""

    def __post_init__(self) -> None:
        config, device = self.model.config, self.model.norm.weight.device
        choices = config.num_experts + config.num_identity_experts
        self._device = device
        dtype = self.model.norm.weight.dtype
        self.routing = Routing(MAX_TOKENS, choices, config.experts_per_token, config.hidden_size, device, dtype)
        self.inner = scratch(MAX_TOKENS, config.experts_per_token, config.expert_ffn_hidden_size, device, dtype)
        self._nothing = torch.zeros(MAX_TOKENS, config.hidden_size, dtype=dtype, device=device)
        self.latent = latent_shape(config)
        sides = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.kv_lora_rank)
        self._has_kernels = fits_tile(*sides)
        # A place for every token of the cache, so no sequence is longer: 256 bytes each beside 32 KiB.
        places = torch.arange(self.cache.layout.num_slots, device=device)
        self.turns = torch.view_as_real(self.model.rope_table(places)).contiguous()
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.graphs = StepGraphs(device)
        self._tuner = tuner_of(device)
        embedding = self.model.embedding
        resident = embedding.resident if embedding is not None else None
        self._input = NgramInput(embedding, resident.weight) if embedding is not None and resident is not None else None

    def admits(self, batch: StepBatch, num_steps: int = 1) -> bool:
        """Whether a step is one for it: few tokens, one group; several in a row where it embeds tokens by itself."""
        is_small = len(batch.groups) == 1 and len(batch.token_ids) <= MAX_TOKENS
        is_able = self._has_kernels and is_small and isinstance(batch.groups[0].places, Blocks)
        return is_able and (num_steps == 1 or self._goes_on(batch, num_steps))

    def _goes_on(self, batch: StepBatch, num_steps: int) -> bool:
        embeds = self._input is not None or self.model.embedding is None
        return embeds and batch.groups[0].query_len == 1 and num_steps <= MOST_STEPS

    @torch.inference_mode()
    def __call__(self, batch: StepBatch) -> Tensor:
        """Hidden states before the final norm, [tokens, hidden]; overwritten by the next step of the same shape."""
        return self._run(batch, Ending.HIDDEN)

    @torch.inference_mode()
    def choose(self, batch: StepBatch, draws: Draws | None = None, num_steps: int = 1, more: int = 0) -> Tensor:
        """The ids after each token, and after those: a visit of several steps, each with the ids of the one before.

        Args:
            batch: of the first step; its blocks and context have room for all.
            draws: how they are chosen, on the host; None takes the most probable ones.
            num_steps: more than 1 only for one token of each sequence.
            more: steps after these for which there are blocks and draws too, should they be gone on with.

        Returns:
            int64 [num_steps, tokens], on the device, `NO_NUMBER` where the logits were none; overwritten like the
            hidden states.
        """
        ending = Ending.GREEDY if draws is None else Ending.DRAWN
        return self._run(batch, ending, draws, num_steps, more if self._goes_on(batch, num_steps) else 0)

    @torch.inference_mode()
    def go_on(self, num_steps: int = 1) -> Tensor | None:
        """The steps after the last ones, each sequence with what was chosen for it: the device has all that they need.

        None, and nothing done, where it has not.
        """
        last = self._last
        return last.take(num_steps) if last is not None and last.left >= num_steps else None

    def _run(
        self, batch: StepBatch, ending: Ending, draws: Draws | None = None, num_steps: int = 1, more: int = 0
    ) -> Tensor:
        group = batch.groups[0]
        key = ShapeKey(group.num_sequences, group.query_len, bucket_of(group.context_len), ending)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = self._buffers(key, self.cache.layout.block_size)
        if shape.replay is None:
            # Alone, so that it stays where it is however often it is run.
            self._fill(shape, batch, draws, 1)
            self._prepare(shape, key)
        self._fill(shape, batch, draws, num_steps + min(more, MOST_STEPS - num_steps, key.context - group.context_len))
        self._last = shape
        return shape.take(num_steps)

    def _fill(self, shape: StepBuffers, batch: StepBatch, draws: Draws | None, num_steps: int) -> None:
        shape.fill(batch, draws, num_steps)
        if self._input is None and self.model.embedding is not None:
            shape.embedded.copy_(self.model.embed(batch.to(self._device)))

    def _buffers(self, key: ShapeKey, block_size: int) -> StepBuffers:
        spec = self.model.config.ngram
        embedded = self._nothing.new_empty(key.tokens, self.model.config.hidden_size)
        return StepBuffers(key, 1 + (spec.context_tokens if spec else 0), block_size, embedded)

    def plan(self, key: ShapeKey, attend: Callable[[Plan], Tensor]) -> Plan:
        """The quickest way to attend in a shape; `attend` does it in one."""
        shape = (key.context, key.sequences, key.query_len * self.model.config.num_heads)
        return self._tuner.quickest((self.latent, *shape), plans_for(*shape), attend)

    def _prepare(self, shape: StepBuffers, key: ShapeKey) -> None:
        if self._device.type != "cuda":
            shape.replay = partial(self._run_here, shape, key)
            return
        # Alike are steps of one sequence, or of several, with about as many tokens.
        like = key.sequences == 1, (key.tokens - 1).bit_length()
        best = self.graphs.quickest(partial(self._result, shape, key), like)
        shape.replay, shape.out, shape.order = best.graph.replay, best.out, best.order

    def _run_here(self, shape: StepBuffers, key: ShapeKey) -> None:
        shape.out = self._result(shape, key)

    def _result(self, shape: StepBuffers, key: ShapeKey) -> Tensor:
        x = self._compute(shape, key)
        if key.ending is Ending.HIDDEN:
            return x
        logits = self._logits(x)
        next_step(_ids(logits, shape), logits, shape.places, shape.chosen, self.cache.layout.block_size)
        return shape.chosen

    def _compute(self, shape: StepBuffers, key: ShapeKey) -> Tensor:
        x = self._embed(shape)
        for layer in self.model.dual_layers:
            x = self._layer(layer, x, shape, key)
        return x

    def _embed(self, shape: StepBuffers) -> Tensor:
        if self._input is not None:
            return self._input(shape.places.windows, shape.embedded)
        if self.model.embedding is None:
            return F.embedding(shape.places.windows[:, 0], self.model.words)
        return shape.embedded

    def _logits(self, x: Tensor) -> Tensor:
        norm = self.model.norm
        return thin_linear(x, self.model.head_weight, norm=norm.weight, eps=norm.eps)

    def _layer(self, layer: DualLayer, x: Tensor, shape: StepBuffers, key: ShapeKey) -> Tensor:
        first, second = layer.first, layer.second
        # The second stream reads it to the end of the layer, so its memory may not be given away before.
        shared = self._attend(first, x, shape, key)
        with self._beside():
            shortcut = self._experts(layer, shared)
        x = thin_linear(self._gated(first, shared), first.dense.down.home, residual=shared)
        x = self._attend(second, x, shape, key)
        inner = self._gated(second, x)
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        return thin_linear(inner, second.dense.down.home, residual=x, also=shortcut, follows=False)

    def _beside(self) -> Any:
        """The second stream, which goes on from where the first is now."""
        if self._side is None:
            return nullcontext()
        self._side.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._side)

    def _gated(self, half: HalfLayer, x: Tensor) -> Tensor:
        """Norm, gate and up of a dense network: [tokens, hidden] -> [tokens, width]."""
        norm = half.post_norm
        return thin_linear(x, half.dense.gate_up.home, norm=norm.weight, eps=norm.eps, is_pair=True)

    def _experts(self, layer: DualLayer, x: Tensor) -> Tensor:
        """[tokens, hidden], before the norm that the first dense network has as well -> [tokens, hidden]."""
        experts, norm, tokens, to = layer.experts, layer.first.post_norm, len(x), self.routing
        router = experts.router
        scale, real = router.scaling_factor, experts.num_experts
        route(x, norm.weight, norm.eps, router.weight, router.selection_bias, scale, real, to)
        return expert_decode(
            to.normed[:tokens],
            self._nothing[:tokens],
            *experts.homes,
            to.chosen[:tokens],
            to.weights[:tokens],
            to.identity[:tokens],
            self.inner,
            torch.empty_like(x),
        )

    def _attend(self, half: HalfLayer, x: Tensor, shape: StepBuffers, key: ShapeKey) -> Tensor:
        """Norm, attention and residual: [tokens, hidden] -> [tokens, hidden]."""
        attention, config, (sequences, new) = half.attention, self.model.config, (key.sequences, key.query_len)
        rank, heads, norm = config.q_lora_rank, config.num_heads, attention.q_norm
        down = thin_linear(x, attention.qkv_a.home, norm=half.input_norm.weight, eps=half.input_norm.eps)
        query = thin_linear(down[:, :rank], attention.q_b.home, norm=norm.weight, eps=norm.eps)
        cache, kv_b = self.cache.layer(attention.cache_layer), attention.kv_b.weight
        wide = latent_inputs(
            query,
            down[:, rank:],
            kv_b,
            attention.kv_norm.weight,
            self.turns,
            shape.places.positions,
            shape.places.slots,
            cache,
            self.latent,
        )
        places = shape.places.positions.view(sequences, new)

        def attend(plan: Plan) -> Tensor:
            sizes = (config.v_head_dim, config.score_scale, self.cache.layout.block_size)
            query = wide.view(sequences, new, heads, -1)
            return latent_decode(query, cache, shape.places.blocks, places, kv_b, *sizes, plan=plan)

        values = attend(self.plan(key, attend))
        return thin_linear(values, attention.o.home, residual=x)
