"""A decode step on a CUDA device: fused kernels, the experts on a second stream, one graph per shape.

The reference is the model itself (`LongcatFlash.forward`); this computes the same for steps of few tokens whose
sequences all add equally many. A step's shape is (sequences, new tokens, context bucket): its graph is captured when it
first comes up and replayed from then on, so the host only copies a few integers per step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kodkod_engine.kernels.gpu.expert_decode import expert_decode, scratch
from kodkod_engine.kernels.gpu.latent_decode import latent_decode
from kodkod_engine.kernels.gpu.ngram_input import NgramInput
from kodkod_engine.kernels.gpu.residual_norm import residual_norm
from kodkod_engine.kernels.gpu.route import Routing, route
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.packed import PackedMatrix
from kodkod_engine.layers.rotary import rotate
from kodkod_engine.layers.step_batch import StepBatch

if TYPE_CHECKING:
    from kodkod_engine.models.longcat_flash import DualLayer, LongcatFlash

MAX_TOKENS = 32
"""Longer steps read most experts anyway and go through the modules."""

SMALLEST_BUCKET = 256
PLACES_PER_SPLIT = 512
MAX_SPLITS = 64
WARM_UPS = 2
"""Runs before a capture, which may not compile or allocate."""

ShapeKey = tuple[int, int, int]


def bucket_of(context_len: int) -> int:
    """The next power of two: contexts share a graph within it."""
    return max(SMALLEST_BUCKET, 1 << (context_len - 1).bit_length())


def splits_of(bucket: int) -> int:
    """How many programs share a context."""
    return min(MAX_SPLITS, max(1, bucket // PLACES_PER_SPLIT))


@dataclass
class StepBuffers:
    """The integers of one shape, where its graph reads them, and what it leaves."""

    token_ids: Tensor
    windows: Tensor | None
    positions: Tensor
    slots: Tensor
    context_slots: Tensor
    embedded: Tensor
    """[tokens, hidden]: filled before the graph when the tables are not on the device."""
    out: Tensor | None = None
    replay: Callable[[], None] | None = None


@dataclass
class GpuStep:
    """Steps of one model on one cache. Not thread-safe: the engine thread owns it."""

    model: LongcatFlash
    cache: KvCache
    _shapes: dict[ShapeKey, StepBuffers] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config, device = self.model.config, self.model.norm.weight.device
        choices = config.num_experts + config.num_identity_experts
        self._device = device
        self._routing = Routing(MAX_TOKENS, choices, config.experts_per_token, device)
        self._inner = scratch(MAX_TOKENS, config.experts_per_token, config.expert_ffn_hidden_size, device)
        self._nothing = torch.zeros(MAX_TOKENS, config.hidden_size, dtype=self.model.norm.weight.dtype, device=device)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool: Any = None
        embedding = self.model.embedding
        resident = embedding.resident if embedding is not None else None
        self._input = NgramInput(embedding, resident.weight) if embedding is not None and resident is not None else None

    def admits(self, batch: StepBatch) -> bool:
        """Whether a step is one for it: few tokens, one group, weights as they are stored."""
        is_packed = any(isinstance(home, PackedMatrix) for home in self.model.dual_layers[0].experts.homes)
        is_plain = not isinstance(self.model.dual_layers[0].first.dense.down.home, PackedMatrix) and not is_packed
        return is_plain and len(batch.groups) == 1 and len(batch.token_ids) <= MAX_TOKENS

    @torch.inference_mode()
    def __call__(self, batch: StepBatch) -> Tensor:
        """Hidden states before the final norm, [tokens, hidden]; overwritten by the next step of the same shape."""
        group = batch.groups[0]
        key = (group.num_sequences, group.query_len, bucket_of(group.context_len))
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = self._buffers(key, batch)
        self._fill(shape, batch)
        if shape.replay is None:
            self._prepare(shape, key)
        assert shape.replay is not None
        shape.replay()
        assert shape.out is not None
        return shape.out

    def _buffers(self, key: ShapeKey, batch: StepBatch) -> StepBuffers:
        sequences, new, bucket = key
        tokens = sequences * new
        return StepBuffers(
            token_ids=torch.empty_like(batch.token_ids),
            windows=None if batch.windows is None else torch.empty_like(batch.windows),
            positions=torch.empty_like(batch.positions),
            slots=torch.empty_like(batch.slots),
            context_slots=torch.zeros(sequences, bucket, dtype=torch.int64, device=self._device),
            embedded=self._nothing.new_empty(tokens, self.model.config.hidden_size),
        )

    def _fill(self, shape: StepBuffers, batch: StepBatch) -> None:
        group = batch.groups[0]
        shape.token_ids.copy_(batch.token_ids)
        shape.positions.copy_(batch.positions)
        shape.slots.copy_(batch.slots)
        if shape.windows is not None and batch.windows is not None:
            shape.windows.copy_(batch.windows)
        slots = group.context_slots
        if isinstance(slots, slice):
            slots = torch.arange(slots.start, slots.stop, device=self._device)[None]
        # What lies beyond a sequence's position is never seen, so older slots may stay there.
        shape.context_slots[:, : slots.shape[1]].copy_(slots)
        if self._input is None:
            shape.embedded.copy_(self.model.embed(batch))

    def _prepare(self, shape: StepBuffers, key: ShapeKey) -> None:
        def run() -> None:
            shape.out = self._compute(shape, key)

        if self._device.type != "cuda":
            shape.replay = run
            return
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        self._pool = self._pool or graph.pool()
        shape.replay = graph.replay

    def _compute(self, shape: StepBuffers, key: ShapeKey) -> Tensor:
        x = shape.embedded
        if self._input is not None:
            assert shape.windows is not None
            x = self._input(shape.windows, x)
        table = self.model.rope_table(shape.positions)
        layers = self.model.dual_layers
        normed = layers[0].first.input_norm(x)
        for layer, following in zip(layers, (*layers[1:], None), strict=True):
            weight = (self.model.norm if following is None else following.first.input_norm).weight
            x, normed = self._layer(layer, x, normed, weight, table, shape, key)
        return x

    def _layer(
        self,
        layer: DualLayer,
        x: Tensor,
        normed: Tensor,
        next_norm: Tensor,
        table: Tensor,
        shape: StepBuffers,
        key: ShapeKey,
    ) -> tuple[Tensor, Tensor]:
        """x and its norm before the layer -> both after it."""
        first, second, eps = layer.first, layer.second, self.model.config.rms_norm_eps
        attended = self._attend(first.attention, normed, table, shape, key)
        x, normed = residual_norm(x, attended, first.post_norm.weight, eps)
        with self._beside():
            shortcut = self._experts(layer, normed)
        x, inner = residual_norm(x, first.dense(normed), second.input_norm.weight, eps)
        attended = self._attend(second.attention, inner, table, shape, key)
        x, inner = residual_norm(x, attended, second.post_norm.weight, eps)
        x = x + second.dense(inner)
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        return residual_norm(x, shortcut, next_norm, eps)

    def _beside(self) -> Any:
        """The second stream, which goes on from where the first is now."""
        if self._side is None:
            return nullcontext()
        self._side.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._side)

    def _experts(self, layer: DualLayer, normed: Tensor) -> Tensor:
        experts, tokens = layer.experts, len(normed)
        router, to = experts.router, self._routing
        route(normed, router.weight, router.selection_bias, router.scaling_factor, experts.num_experts, to)
        return expert_decode(
            normed,
            self._nothing[:tokens],
            experts.gate_up,
            experts.down,
            to.chosen[:tokens],
            to.weights[:tokens],
            to.identity[:tokens],
            self._inner,
            torch.empty_like(normed),
        )

    def _attend(
        self, attention: LatentAttention, x: Tensor, table: Tensor, shape: StepBuffers, key: ShapeKey
    ) -> Tensor:
        config, (sequences, new, bucket) = attention.config, key
        down, latent, rope_key = attention.qkv_a(x).split(
            [config.q_lora_rank, config.kv_lora_rank, config.qk_rope_head_dim], dim=-1
        )
        latent = attention.kv_norm(latent) * config.kv_scale
        rows = torch.cat([latent, rotate(rope_key, table)], dim=-1)
        self.cache.write(attention.cache_layer, shape.slots, rows)
        query = (attention.q_b(attention.q_norm(down)) * config.q_scale).unflatten(-1, (config.num_heads, -1))
        nope, rope = query.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        key_weight, value_weight = attention.head_weights(query.dtype)
        absorbed = torch.bmm(nope.transpose(0, 1), key_weight).transpose(0, 1)
        wide = torch.cat([absorbed, rotate(rope, table[:, None])], dim=-1).contiguous()
        mixed = latent_decode(
            wide.view(sequences, new, config.num_heads, -1),
            self.cache.layer(attention.cache_layer),
            shape.context_slots,
            shape.positions.view(sequences, new),
            config.kv_lora_rank,
            config.score_scale,
            splits_of(bucket),
        )
        values = torch.bmm(mixed.flatten(0, 1).transpose(0, 1), value_weight.transpose(1, 2)).transpose(0, 1)
        out: Tensor = attention.o(values.flatten(1))
        return out
