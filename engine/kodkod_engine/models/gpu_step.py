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
from kodkod_engine.kernels.gpu.latent_decode import latent_decode, splits_of
from kodkod_engine.kernels.gpu.latent_inputs import LatentShape, latent_inputs
from kodkod_engine.kernels.gpu.ngram_input import NgramInput
from kodkod_engine.kernels.gpu.route import Routing, route
from kodkod_engine.kernels.gpu.thin_linear import thin_linear
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.layers.packed import PackedMatrix
from kodkod_engine.layers.step_batch import StepBatch
from kodkod_engine.models.config import LATENT_NORM_EPS, ModelConfig

if TYPE_CHECKING:
    from kodkod_engine.models.longcat_flash import DualLayer, HalfLayer, LongcatFlash

MAX_TOKENS = 32
"""Longer steps read most experts anyway and go through the modules."""

SMALLEST_BUCKET = 256
WARM_UPS = 2
"""Runs before a capture, which may not compile or allocate."""

ShapeKey = tuple[int, int, int]


def bucket_of(context_len: int) -> int:
    """The next power of two: contexts share a graph within it."""
    return max(SMALLEST_BUCKET, 1 << (context_len - 1).bit_length())


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
        dtype = self.model.norm.weight.dtype
        self.routing = Routing(MAX_TOKENS, choices, config.experts_per_token, config.hidden_size, device, dtype)
        self.inner = scratch(MAX_TOKENS, config.experts_per_token, config.expert_ffn_hidden_size, device, dtype)
        self._nothing = torch.zeros(MAX_TOKENS, config.hidden_size, dtype=dtype, device=device)
        self.latent = latent_shape(config)
        # A place for every token of the cache, so no sequence is longer: 256 bytes each beside 32 KiB.
        places = torch.arange(self.cache.layout.num_slots, device=device)
        self.turns = torch.view_as_real(self.model.rope_table(places)).contiguous()
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
        for layer in self.model.dual_layers:
            x = self._layer(layer, x, shape, key)
        return x

    def _layer(self, layer: DualLayer, x: Tensor, shape: StepBuffers, key: ShapeKey) -> Tensor:
        first, second = layer.first, layer.second
        # The second stream reads it to the end of the layer, so its memory may not be given away before.
        shared = self._attend(first, x, shape, key)
        with self._beside():
            shortcut = self._experts(layer, shared)
        x = thin_linear(self._gated(first, shared), first.dense.down.weight, residual=shared)
        x = self._attend(second, x, shape, key)
        inner = self._gated(second, x)
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        return thin_linear(inner, second.dense.down.weight, residual=x, also=shortcut)

    def _beside(self) -> Any:
        """The second stream, which goes on from where the first is now."""
        if self._side is None:
            return nullcontext()
        self._side.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._side)

    def _gated(self, half: HalfLayer, x: Tensor) -> Tensor:
        """Norm, gate and up of a dense network: [tokens, hidden] -> [tokens, width]."""
        norm = half.post_norm
        return thin_linear(x, half.dense.gate_up.weight, norm=norm.weight, eps=norm.eps, is_pair=True)

    def _experts(self, layer: DualLayer, x: Tensor) -> Tensor:
        """[tokens, hidden], before the norm that the first dense network has as well -> [tokens, hidden]."""
        experts, norm, tokens, to = layer.experts, layer.first.post_norm, len(x), self.routing
        router = experts.router
        scale, real = router.scaling_factor, experts.num_experts
        route(x, norm.weight, norm.eps, router.weight, router.selection_bias, scale, real, to)
        return expert_decode(
            to.normed[:tokens],
            self._nothing[:tokens],
            experts.gate_up,
            experts.down,
            to.chosen[:tokens],
            to.weights[:tokens],
            to.identity[:tokens],
            self.inner,
            torch.empty_like(x),
        )

    def _attend(self, half: HalfLayer, x: Tensor, shape: StepBuffers, key: ShapeKey) -> Tensor:
        """Norm, attention and residual: [tokens, hidden] -> [tokens, hidden]."""
        attention, config, (sequences, new, bucket) = half.attention, self.model.config, key
        rank, heads, norm = config.q_lora_rank, config.num_heads, attention.q_norm
        down = thin_linear(x, attention.qkv_a.weight, norm=half.input_norm.weight, eps=half.input_norm.eps)
        query = thin_linear(down[:, :rank], attention.q_b.weight, norm=norm.weight, eps=norm.eps)
        cache, kv_b = self.cache.layer(attention.cache_layer), attention.kv_b.weight
        wide = latent_inputs(
            query,
            down[:, rank:],
            kv_b,
            attention.kv_norm.weight,
            self.turns,
            shape.positions,
            shape.slots,
            cache,
            self.latent,
        )
        values = latent_decode(
            wide.view(sequences, new, heads, -1),
            cache,
            shape.context_slots,
            shape.positions.view(sequences, new),
            kv_b,
            config.v_head_dim,
            config.score_scale,
            splits=splits_of(bucket, sequences, new * heads),
        )
        return thin_linear(values, attention.o.weight, residual=x)
