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
from kodkod_engine.layers.linear import Linear, max_thin_rows, narrowed, product_dtype
from kodkod_engine.layers.norm import RMSNorm
from kodkod_engine.layers.on_device import fits_tile, takes_kernels
from kodkod_engine.layers.rotary import rotate
from kodkod_engine.layers.step_batch import AttentionGroup, StepBatch
from kodkod_engine.models.config import LATENT_NORM_EPS, ModelConfig

MAX_KERNEL_CONTEXT = 1024
"""Steps of few rows and contexts up to this go through the fused kernel, where it beats batched products."""

MAX_SCORE_VALUES = 1 << 22
"""Scores held at a time in the expanded form; 8 MiB in bf16, so that they stay in the processor's cache."""

MAX_TILE_QUERIES = 256
"""Queries at a time in the expanded form: up to here products keep their speed, and what a tile's last query alone may
see is computed for all of it."""

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
        latents = cache.read(self.cache_layer, group.context_slots)
        latents = latents.reshape(group.num_sequences, group.context_len, -1)
        query = query.unflatten(0, (group.num_sequences, group.query_len))
        attend = self.absorbed if self._absorbing_is_cheaper(group) else self.expanded
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

        config, slots = self.config, group.context_slots
        latents = cache.read(self.cache_layer, slots if isinstance(slots, slice) else slots[0])
        per_head = self.kv_b(latents[:, : config.kv_lora_rank]).unflatten(-1, (config.num_heads, -1))
        rope_keys = latents[:, config.kv_lora_rank :]

        def attend(tiling: Tiling) -> Tensor:
            return prefill_attention(query, per_head, rope_keys, config.score_scale, tiling)

        shape = (shape_class(len(query)), *query.shape[1:], *per_head.shape[1:])
        return attend(tuner_of(query.device).quickest(shape, TILINGS, attend)).flatten(1)

    def _absorbing_is_cheaper(self, group: AttentionGroup) -> bool:
        """Compare multiplications per head and sequence of the two forms."""
        config, new, context = self.config, group.query_len, group.context_len
        rank, nope, rope, value = (
            config.kv_lora_rank,
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        )
        absorbed = new * rank * (nope + value) + new * context * (2 * rank + rope)
        expanded = context * rank * (nope + value) + new * context * (nope + rope + value)
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
                self._expanded_one(one_query, one_latents, one_positions)
                for one_query, one_latents, one_positions in zip(query, latents, positions, strict=True)
            ]
        )

    def _expanded_one(self, query: Tensor, latents: Tensor, positions: Tensor) -> Tensor:
        config = self.config
        dtype = product_dtype(self.o.home, query.dtype)
        latent, rope_key = latents.to(dtype).split([config.kv_lora_rank, config.qk_rope_head_dim], dim=-1)
        # Keys and values stand on end, [heads, dim, context], as the products want them: no copy but the rope keys'.
        per_head = (self.kv_b.weight.to(dtype) @ latent.t()).unflatten(0, (config.num_heads, -1))
        key, value = per_head.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
        key = torch.cat([key, rope_key.t().expand(config.num_heads, -1, -1)], dim=1)
        scaled = _times(query, config.score_scale, dtype).transpose(0, 1)
        out = query.new_empty(len(query), config.num_heads, config.v_head_dim)
        tile = max(1, min(MAX_TILE_QUERIES, MAX_SCORE_VALUES // len(latents)))
        for start in range(0, len(query), tile):
            rows = slice(start, start + tile)
            visible = min(int(positions[rows][-1]) + 1, len(latents))
            mask = _mask(positions[rows], visible, dtype)
            # One head at a time: products of two matrices take operands as they lie, batched ones copy them.
            for head in range(config.num_heads):
                out[rows, head] = _attend_one_head(scaled[head, rows], key[head], value[head], mask, visible)
        return out


def _times(x: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    """The product in x's precision, rounded to a dtype; in one pass where no gradient is asked for."""
    if x.requires_grad:
        return (x * factor).to(dtype)
    return torch.mul(x, factor, out=torch.empty(x.shape, dtype=dtype, device=x.device))


def _mask(positions: Tensor, visible: int, dtype: torch.dtype) -> Tensor:
    """Of the places behind the first query's, for up to there nothing is hidden: -inf where one is, else 0.

    Args:
        positions: int64 [new], ascending.
        visible: places that the last query sees.

    Returns:
        [new, visible - places the first query sees].
    """
    hidden = torch.arange(int(positions[0]) + 1, visible, device=positions.device) > positions[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _attend_one_head(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, visible: int) -> Tensor:
    """Causal attention of a few queries; keys beyond the last one's position are not touched.

    Args:
        query: [new, dim], scaled.
        key: [dim, context].
        value: [value, context].
        mask: [new, places], added to the scores of the last visible places.
        visible: places that the last query sees.

    Returns:
        [new, value].
    """
    scores = query @ key[:, :visible]
    scores[:, visible - mask.shape[1] :] += mask
    return scores.softmax(dim=-1) @ value[:, :visible].t()


def _causal_softmax(scores: Tensor, positions: Tensor) -> Tensor:
    """Softmax in fp32 over places up to each query's position.

    Args:
        scores: [..., context].
        positions: int64, broadcastable to scores' leading dimensions.
    """
    places = torch.arange(scores.shape[-1], device=scores.device)
    hidden = places > positions[..., None]
    return scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
