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
from kodkod_engine.layers.linear import Linear, linear
from kodkod_engine.layers.norm import RMSNorm
from kodkod_engine.layers.rotary import rotate
from kodkod_engine.layers.step_batch import AttentionGroup, StepBatch
from kodkod_engine.models.config import LATENT_NORM_EPS, ModelConfig

MAX_KERNEL_TOKENS = 64
MAX_KERNEL_CONTEXT = 1024
"""Steps and contexts up to these sizes go through the fused kernel, where it beats batched products."""

MAX_SCORE_VALUES = 1 << 24
"""Scores held at a time in the expanded form; 64 MiB in fp32."""


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
        self.kv_b = Linear(rank, heads * (config.qk_nope_head_dim + config.v_head_dim), dtype=activation_dtype)
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
        query = (self.q_b(self.q_norm(down)) * config.q_scale).unflatten(-1, (config.num_heads, -1))
        nope, rope = query.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        query = torch.cat([nope, rotate(rope, rope_table[:, None])], dim=-1)
        out = query.new_empty(query.shape[0], config.num_heads * config.v_head_dim)
        for group in batch.groups:
            out[group.rows] = self._attend(query[group.rows], group, cache)
        result: Tensor = self.o(out)
        return result

    def _attend(self, query: Tensor, group: AttentionGroup, cache: KvCache) -> Tensor:
        """[rows, heads, head_dim] -> [rows, heads * v_head_dim]."""
        if self._fits_kernel(query, group):
            return self._attend_in_kernel(query, group, cache)
        latents = cache.read(self.cache_layer, group.context_slots)
        latents = latents.reshape(group.num_sequences, group.context_len, -1)
        query = query.unflatten(0, (group.num_sequences, group.query_len))
        attend = self.absorbed if self._absorbing_is_cheaper(group) else self.expanded
        attended: Tensor = attend(query, latents, group.positions)
        return attended.flatten(2).flatten(0, 1)

    def _fits_kernel(self, query: Tensor, group: AttentionGroup) -> bool:
        is_small = query.shape[0] <= MAX_KERNEL_TOKENS and group.context_len <= MAX_KERNEL_CONTEXT
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

    def _head_weights(self) -> tuple[Tensor, Tensor]:
        """Key part [heads, nope, rank] and value part [heads, value, rank] of kv_b; per head keys come first."""
        config = self.config
        per_head = self.kv_b.weight.view(config.num_heads, -1, config.kv_lora_rank)
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
        key_weight, value_weight = self._head_weights()
        sequences, new, heads, _ = query.shape
        # [heads, sequences * new, nope] x [heads, nope, rank]
        absorbed = torch.bmm(nope.flatten(0, 1).transpose(0, 1), key_weight).transpose(0, 1)
        wide = torch.cat([absorbed.unflatten(0, (sequences, new)), rope], dim=-1).flatten(1, 2)
        scores = torch.bmm(wide, latents.transpose(1, 2)).view(sequences, new, heads, -1)
        weights = _causal_softmax(scores * config.score_scale, positions[:, :, None])
        mixed = torch.bmm(weights.flatten(1, 2), latents[:, :, : config.kv_lora_rank])
        per_head = mixed.view(sequences * new, heads, -1).transpose(0, 1)
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
        latent, rope_key = latents.split([config.kv_lora_rank, config.qk_rope_head_dim], dim=-1)
        per_head = linear(latent.contiguous(), self.kv_b.weight).unflatten(-1, (config.num_heads, -1))
        key, value = per_head.split([config.qk_nope_head_dim, config.v_head_dim], dim=-1)
        key = torch.cat([key, rope_key[:, None].expand(-1, config.num_heads, -1)], dim=-1)
        key, value = (
            key.permute(1, 2, 0),
            value.transpose(0, 1).contiguous(),
        )  # [heads, dim, context], [heads, context, v]
        tile = max(1, MAX_SCORE_VALUES // (config.num_heads * latents.shape[0]))
        parts = [
            self._expanded_tile(tile_query, key, value, tile_positions)
            for tile_query, tile_positions in zip(query.split(tile), positions.split(tile), strict=True)
        ]
        return torch.cat(parts)

    def _expanded_tile(self, query: Tensor, key: Tensor, value: Tensor, positions: Tensor) -> Tensor:
        """[new, heads, dim] -> [new, heads, value]. Keys beyond the tile's last position are not touched."""
        visible = min(int(positions.max()) + 1, key.shape[2])
        scores = torch.bmm(query.transpose(0, 1), key[:, :, :visible]) * self.config.score_scale
        weights = _causal_softmax(scores, positions[None])
        return torch.bmm(weights, value[:, :visible]).transpose(0, 1)


def _causal_softmax(scores: Tensor, positions: Tensor) -> Tensor:
    """Softmax in fp32 over places up to each query's position.

    Args:
        scores: [..., context].
        positions: int64, broadcastable to scores' leading dimensions.
    """
    places = torch.arange(scores.shape[-1], device=scores.device)
    hidden = places > positions[..., None]
    return scores.float().masked_fill_(hidden, float("-inf")).softmax(dim=-1).to(scores.dtype)
