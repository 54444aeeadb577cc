"""Multi-head latent attention (arXiv 2405.04434) with LongCat-Flash's scale factors (arXiv 2509.01322).

The cache holds one row per token: the normalised, scaled latent and the rotated rope key, shared by all heads. Two
ways lead from it to the same output. *Absorbed*: the key and value projections move to the query and output side and
attention runs over the latents; best for few new tokens. *Expanded*: keys and values are rebuilt from the latents;
best for prefill.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kodkod_engine.kernels.latent_attention import latent_attention
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.layers.expanded_context import ExpandedLayer
from kodkod_engine.layers.linear import Linear, max_thin_rows, narrowed, product_dtype
from kodkod_engine.layers.norm import RMSNorm
from kodkod_engine.layers.on_device import fits_tile, has_kernels, takes_kernels
from kodkod_engine.layers.rotary import rotate
from kodkod_engine.layers.step_batch import AttentionGroup, StepBatch
from kodkod_engine.layers.tiled_attention import tiled_attention
from kodkod_engine.models.config import LATENT_NORM_EPS, ModelConfig

MAX_KERNEL_CONTEXT = 1024
"""Steps of few rows and contexts up to this go through the fused kernel, where it beats batched products."""

MAX_ABSORBED_TOKENS = 64
"""New tokens of a sequence up to which a CUDA device attends over the latents themselves."""


class LatentAttention(nn.Module):
    """One attention block with its own cache layer."""

    def __init__(self, config: ModelConfig, cache_layer: int, *, activation_dtype: torch.dtype | None = None) -> None:
        """`activation_dtype`: of everything that is no large matrix; None takes the model's."""
        super().__init__()
        self.config = config
        self.cache_layer = cache_layer
        heads, rank = config.num_heads, config.kv_lora_rank
        # q_a and kv_a read the same input: one matrix, rows of q_a first.
        self.qkv_a = Linear(config.hidden_size, config.q_lora_rank + config.latent_dim)
        self.q_norm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS, dtype=activation_dtype)
        self.q_b = Linear(config.q_lora_rank, heads * (config.qk_nope_head_dim + config.qk_rope_head_dim))
        self.kv_norm = RMSNorm(rank, LATENT_NORM_EPS, dtype=activation_dtype)
        # Kernels widen bf16 where they read it; other dtypes are kept as the products of this block take them.
        own_dtype = torch.bfloat16 if torch.get_default_dtype() == torch.bfloat16 else activation_dtype
        self.kv_b = Linear(rank, heads * (config.qk_nope_head_dim + config.v_head_dim), dtype=own_dtype)
        self.o = Linear(heads * config.v_head_dim, config.hidden_size)

    def forward(self, x: Tensor, batch: StepBatch, rope_table: Tensor, cache: KvCache) -> Tensor:
        """Write this step's KV, then attend.

        Args:
            x: [tokens, hidden], normalised.
            rope_table: complex64 [tokens, rope / 2].

        Returns:
            [tokens, hidden].
        """
        config = self.config
        down, latent, rope_key = self.qkv_a(x).split(
            [config.q_lora_rank, config.kv_lora_rank, config.qk_rope_head_dim], dim=-1
        )
        latent = self.kv_norm(latent) * config.kv_scale
        cache.write(self.cache_layer, batch.slots, torch.cat([latent, rotate(rope_key, rope_table)], dim=-1))
        query = self._scaled(self.q_b(self.q_norm(down))).unflatten(-1, (config.num_heads, -1))
        query = self._rotated(query, rope_table)
        out = query.new_empty(query.shape[0], config.num_heads * config.v_head_dim)
        for group in batch.groups:
            out[group.rows] = self._attend(query[group.rows], group, cache)
        result: Tensor = self.o(out)
        return result

    def _scaled(self, query: Tensor) -> Tensor:
        return query * self.config.q_scale if query.requires_grad else query.mul_(self.config.q_scale)

    def _rotated(self, query: Tensor, rope_table: Tensor) -> Tensor:
        """The rope part of a fresh query turned: [tokens, heads, nope + rope]."""
        nope, rope = query.split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], dim=-1)
        turned = rotate(rope, rope_table[:, None])
        if query.requires_grad:
            return torch.cat([nope, turned], dim=-1)
        rope.copy_(turned)  # a third of what joining them would move
        return query

    def _attend(self, query: Tensor, group: AttentionGroup, cache: KvCache) -> Tensor:
        """[rows, heads, head_dim] -> [rows, heads * v_head_dim]."""
        if self._fits_kernel(query, group):
            return self._attend_in_kernel(query, group, cache)
        if takes_kernels(query) and query.dtype != torch.float32 and fits_tile(*self._tile_sizes):
            return self.on_device(query, group, cache)
        is_absorbed = self._absorbing_is_cheaper(group)
        if group.expanded is not None and not is_absorbed:
            whole = self._kept(group, cache, group.expanded.layer(self.cache_layer))
            key, value = whole.split([query.shape[2], self.config.v_head_dim], dim=1)
            return tiled_attention(query, key, value, group.positions[0], self.config.score_scale).flatten(1)
        latents = cache.read(self.cache_layer, group.context_slots)
        latents = latents.reshape(group.num_sequences, group.context_len, -1)
        query = query.unflatten(0, (group.num_sequences, group.query_len))
        attend = self.absorbed if is_absorbed else self.expanded
        attended: Tensor = attend(query, latents, group.positions)
        return attended.flatten(2).flatten(0, 1)

    def _fits_kernel(self, query: Tensor, group: AttentionGroup) -> bool:
        is_small = query.shape[0] <= max_thin_rows() and group.context_len <= MAX_KERNEL_CONTEXT
        return is_small and query.device.type == "cpu" and query.dtype == torch.float32 and not query.requires_grad

    def _attend_in_kernel(self, query: Tensor, group: AttentionGroup, cache: KvCache) -> Tensor:
        slots = group.context_slots
        if isinstance(slots, slice):
            slots = torch.arange(slots.start, slots.stop)[None]
        per_token = slots.repeat_interleave(group.query_len, dim=0) if group.query_len > 1 else slots
        kv_weight = self.kv_b.weight.view(self.config.num_heads, -1, self.config.kv_lora_rank)
        out = latent_attention(
            query,
            cache.layer(self.cache_layer),
            per_token,
            group.positions.flatten(),
            kv_weight,
            self.config.score_scale,
            self.config.v_head_dim,
        )
        return out.flatten(1)

    @property
    def _tile_sizes(self) -> tuple[int, ...]:
        config = self.config
        return config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim

    def on_device(self, query: Tensor, group: AttentionGroup, cache: KvCache) -> Tensor:
        """The two forms as Triton kernels, without a copy of scores or keys. Arguments and result as `_attend`."""
        few = group.query_len <= MAX_ABSORBED_TOKENS or group.num_sequences > 1
        return (self._absorbed_on_device if few else self._expanded_on_device)(query, group, cache)

    def _absorbed_on_device(self, query: Tensor, group: AttentionGroup, cache: KvCache) -> Tensor:
        from kodkod_engine.kernels.gpu.latent_decode import latent_decode
        from kodkod_engine.kernels.gpu.latent_plans import plans_for

        config, slots = self.config, group.context_slots
        if isinstance(slots, slice):
            slots = torch.arange(slots.start, slots.stop, device=query.device)[None]
        nope, rope = query.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        key_weight, _ = self.head_weights(query.dtype)
        wide = torch.cat([torch.bmm(nope.transpose(0, 1), key_weight).transpose(0, 1), rope], dim=-1)
        attended: Tensor = latent_decode(
            wide.view(group.num_sequences, group.query_len, config.num_heads, -1),
            cache.layer(self.cache_layer),
            slots.contiguous(),
            group.positions.contiguous(),
            self.kv_b.weight,
            config.v_head_dim,
            config.score_scale,
            plan=plans_for(group.context_len, group.num_sequences, group.query_len * config.num_heads)[0],
        )
        return attended

    def _expanded_on_device(self, query: Tensor, group: AttentionGroup, cache: KvCache) -> Tensor:
        from kodkod_engine.kernels.gpu.prefill_attention import TILINGS, Tiling, prefill_attention, shape_class
        from kodkod_engine.kernels.gpu.tuning import tuner_of

        per_head, rope_keys = self._per_head(group, cache)

        def attend(tiling: Tiling) -> Tensor:
            return prefill_attention(query, per_head, rope_keys, self.config.score_scale, tiling)

        shape = (shape_class(len(query)), *query.shape[1:], *per_head.shape[1:])
        return attend(tuner_of(query.device).quickest(shape, TILINGS, attend)).flatten(1)

    def _per_head(self, group: AttentionGroup, cache: KvCache) -> tuple[Tensor, Tensor]:
        """Keys and values [context, heads, nope + value], rope keys [context, rope]; what is kept is not rebuilt."""
        config, rank = self.config, self.config.kv_lora_rank
        if group.expanded is None:
            latents = cache.read(self.cache_layer, _slots_from(group, 0))
            rebuilt: Tensor = self.kv_b(latents[:, :rank]).unflatten(-1, (config.num_heads, -1))
            return rebuilt, latents[:, rank:]
        everyone = cache.layer(self.cache_layer)
        sizes = config.num_heads, config.qk_nope_head_dim + config.v_head_dim

        def fill(room: Tensor, first: int) -> None:
            latents = cache.read(self.cache_layer, _slots_from(group, first))
            room.flatten(1).copy_(self.kv_b(latents[:, :rank]))

        layer = group.expanded.layer(self.cache_layer)
        kept = layer.whole(group.context_len, lambda num_tokens: everyone.new_empty(num_tokens, *sizes), fill, dim=0)
        # Of what is not rebuilt the rope keys alone are read: a ninth of the latents.
        return kept, everyone[:, rank:][_slots_from(group, 0)]

    def _absorbing_is_cheaper(self, group: AttentionGroup) -> bool:
        """Compare multiplications per head and sequence of the two forms."""
        config, new, context = self.config, group.query_len, group.context_len
        kept = 0 if group.expanded is None else min(context, group.expanded.layer(self.cache_layer).num_tokens)
        rank, nope, rope, value = (
            config.kv_lora_rank,
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        )
        absorbed = new * rank * (nope + value) + new * context * (2 * rank + rope)
        expanded = (context - kept) * rank * (nope + value) + new * context * (nope + rope + value)
        return absorbed <= expanded

    def head_weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Key part [heads, nope, rank] and value part [heads, value, rank] of kv_b; per head keys come first."""
        config = self.config
        per_head = self.kv_b.weight.to(dtype).view(config.num_heads, -1, config.kv_lora_rank)
        return per_head[:, : config.qk_nope_head_dim], per_head[:, config.qk_nope_head_dim :]

    def absorbed(self, query: Tensor, latents: Tensor, positions: Tensor) -> Tensor:
        """Attend over the latents themselves.

        Args:
            query: [sequences, new, heads, nope + rope], rotated and scaled.
            latents: [sequences, context, rank + rope].
            positions: int64 [sequences, new].

        Returns:
            [sequences, new, heads, value].
        """
        config = self.config
        nope, rope = query.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        key_weight, value_weight = self.head_weights(query.dtype)
        sequences, new, heads, _ = query.shape
        # [heads, sequences * new, nope] x [heads, nope, rank]
        absorbed = torch.bmm(nope.flatten(0, 1).transpose(0, 1), key_weight).transpose(0, 1)
        wide = torch.cat([absorbed.unflatten(0, (sequences, new)), rope], dim=-1).flatten(1, 2) * config.score_scale
        # For a few rows narrowing the latents would cost more than it saves.
        latents = narrowed(latents, self.o.home, sequences * new)
        scores = torch.bmm(wide.to(latents.dtype), latents.transpose(1, 2)).view(sequences, new, heads, -1)
        weights = _causal_softmax(scores, positions[:, :, None])
        mixed = torch.bmm(weights.flatten(1, 2), latents[:, :, : config.kv_lora_rank])
        per_head = mixed.to(query.dtype).view(sequences * new, heads, -1).transpose(0, 1)
        values = torch.bmm(per_head, value_weight.transpose(1, 2)).transpose(0, 1)
        out: Tensor = values.unflatten(0, (sequences, new))
        return out

    def expanded(self, query: Tensor, latents: Tensor, positions: Tensor) -> Tensor:
        """Attend over keys and values rebuilt from the latents. Arguments and result as `absorbed`."""
        return torch.stack(
            [
                tiled_attention(
                    one_query, *self._rebuilt(one_latents, query.dtype), one_positions, self.config.score_scale
                )
                for one_query, one_latents, one_positions in zip(query, latents, positions, strict=True)
            ]
        )

    def _rebuilt(self, latents: Tensor, activation_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[context, rank + rope] -> [heads, nope + rope, context] and [heads, value, context].

        Keys and values stand on end, as the products want them: no copy but the rope keys'.
        """
        key, rope_key, value = self._parts(latents.to(product_dtype(self.o.home, activation_dtype)))
        return torch.cat([key, rope_key.expand(len(key), -1, -1)], dim=1), value

    def _parts(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [heads, nope, context], rope keys [rope, context], values [heads, value, context]."""
        config = self.config
        latent, rope_key = latents.split([config.kv_lora_rank, config.qk_rope_head_dim], dim=-1)
        per_head = (self.kv_b.weight.to(latent.dtype) @ latent.t()).unflatten(0, (config.num_heads, -1))
        key, value = per_head.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
        return key, rope_key.t(), value

    def expanded_bytes(self, device: torch.device, activation_dtype: torch.dtype) -> int:
        """Of one token's keys and values, as they are kept there."""
        config = self.config
        values = config.qk_nope_head_dim + config.v_head_dim
        is_in_kernel = has_kernels(device) and activation_dtype != torch.float32 and fits_tile(*self._tile_sizes)
        # Plain products want the rope keys of each head, a device's kernel reads them from the cache.
        values += 0 if is_in_kernel else config.qk_rope_head_dim
        return config.num_heads * values * product_dtype(self.o.home, activation_dtype).itemsize

    def _kept(self, group: AttentionGroup, cache: KvCache, layer: ExpandedLayer) -> Tensor:
        """As `_rebuilt`, one above the other, of a group's one sequence; what is kept is not rebuilt."""
        config = self.config
        heads, nope, rope = config.num_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
        dtype = product_dtype(self.o.home, cache.dtype)

        def empty(num_tokens: int) -> Tensor:
            return cache.layer(self.cache_layer).new_empty(
                heads, nope + rope + config.v_head_dim, num_tokens, dtype=dtype
            )

        def fill(room: Tensor, first: int) -> None:
            parts = self._parts(cache.read(self.cache_layer, _slots_from(group, first)).to(dtype))
            for place, part in zip(room.split([nope, rope, config.v_head_dim], dim=1), parts, strict=True):
                place.copy_(part)

        return layer.whole(group.context_len, empty, fill, dim=2)


def _slots_from(group: AttentionGroup, first: int) -> Tensor | slice:
    """Where the places from the given one on of a group's one sequence lie."""
    slots = group.context_slots
    return slice(slots.start + first, slots.stop) if isinstance(slots, slice) else slots[0, first:]


def _causal_softmax(scores: Tensor, positions: Tensor) -> Tensor:
    """Softmax in fp32 over places up to each query's position.

    Args:
        scores: [..., context].
        positions: int64, broadcastable to scores' leading dimensions.
    """
    places = torch.arange(scores.shape[-1], device=scores.device)
    hidden = places > positions[..., None]
    return scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
