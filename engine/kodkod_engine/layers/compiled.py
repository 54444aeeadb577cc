"""What the whole-layer kernel takes, as arrays: a layer's weights, and the places of a step that is one for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kodkod_engine.kernels.bf16 import bits_of, float_or_bits
from kodkod_engine.kernels.dual_layer import ExpertWeights, HalfWeights, LayerScalars, LayerWeights, StepArrays
from kodkod_engine.kernels.packed_linear import packed_arrays
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.kernels.tiled_latents import numbers_of, takes_tiled_latents
from kodkod_engine.layers.linear import kernel_rows
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.layers.packed import PackedMatrix, Slot
from kodkod_engine.layers.step_batch import AttentionGroup, StepBatch
from kodkod_engine.models.config import LATENT_NORM_EPS

if TYPE_CHECKING:
    from kodkod_engine.layers.attention import LatentAttention
    from kodkod_engine.models.longcat_flash import HalfLayer

MAX_SCORES = 1 << 16
"""See `_most_scores`."""

MAX_SCORES_IN_WIDE_VECTORS = 1 << 18
"""The same where there is AVX-512 BF16 without AMX. Measured in turns, 1.25 billion parameters, a step of 8 tokens at
16,000 tokens of context: 0.76 of the time that the modules take; at 8,000 they take 1.46 times as long for 9 tokens."""


def step_arrays(x: Tensor, half: HalfLayer, batch: StepBatch, rope_table: Tensor) -> StepArrays | None:
    """The step for the kernel; None when it is not one for it: another device or dtype, too many tokens or context.

    Args:
        x: [tokens, hidden].
        half: any of the model.
        batch: the step.
        rope_table: complex64 [tokens, rope / 2].
    """
    context_len = max(group.context_len for group in batch.groups)
    is_small = len(x) <= kernel_rows(half.dense.down.home) and len(x) * context_len <= _most_scores(half.attention)
    if not (is_small and x.dtype == torch.float32) or torch.is_grad_enabled():
        return None
    return StepArrays(
        turns=torch.view_as_real(rope_table).contiguous().numpy(),
        slots=batch.slots.numpy(),
        context_slots=torch.cat([_per_token(group, context_len) for group in batch.groups]).numpy(),
        positions=batch.positions.numpy(),
    )


def _most_scores(attention: LatentAttention) -> float:
    """Tokens times context, up to which attention in the kernel beats batched products."""
    if torch.cpu._is_amx_tile_supported():  # which batched products use
        return MAX_SCORES
    if takes_tiled_latents(_per_head(attention), attention.config.qk_rope_head_dim):
        return math.inf
    return MAX_SCORES_IN_WIDE_VECTORS if has_tile_products() else MAX_SCORES


def _per_head(attention: LatentAttention) -> Tensor:
    return attention.kv_b.weight.view(attention.config.num_heads, -1, attention.config.kv_lora_rank)


def _per_token(group: AttentionGroup, context_len: int) -> Tensor:
    """Slots of each token's sequence: int64 [rows, context_len], the padding never read."""
    slots = group.context_slots
    if isinstance(slots, slice):
        slots = torch.arange(slots.start, slots.stop)[None]
    padded = torch.nn.functional.pad(slots, (0, context_len - slots.shape[1]))
    return padded.repeat_interleave(group.query_len, dim=0)


def layer_weights(first: HalfLayer, second: HalfLayer, experts: MixtureOfExperts) -> LayerWeights:
    """The weights where they lie, without a copy."""
    config = first.attention.config
    router = experts.router
    scalars = LayerScalars(
        eps=np.float32(config.rms_norm_eps),
        latent_eps=np.float32(LATENT_NORM_EPS),
        q_scale=np.float32(config.q_scale),
        kv_scale=np.float32(config.kv_scale),
        score_scale=np.float32(config.score_scale),
        routed_scale=np.float32(router.scaling_factor),
        experts_per_token=router.experts_per_token,
        nope=config.qk_nope_head_dim,
        num_experts=experts.num_experts,
    )
    own_experts = ExpertWeights(router.weight.numpy(), router.selection_bias.numpy(), *map(_arrays, experts.homes))
    return LayerWeights(_half(first), _half(second), own_experts, scalars)


def _arrays(home: Slot) -> Any:
    """A large matrix for the kernel: bf16 bits, or codes and scales."""
    if isinstance(home, PackedMatrix):
        return packed_arrays(home.codes, home.scales, home.bits, home.row_block)
    return bits_of(home)


def _half(half: HalfLayer) -> HalfWeights:
    attention, dense = half.attention, half.dense
    has_tiles = takes_tiled_latents(_per_head(attention), attention.config.qk_rope_head_dim)
    return HalfWeights(
        input_norm=half.input_norm.weight.numpy(),
        qkv_a=_arrays(attention.qkv_a.home),
        q_norm=attention.q_norm.weight.numpy(),
        q_b=_arrays(attention.q_b.home),
        kv_norm=attention.kv_norm.weight.numpy(),
        kv_b=float_or_bits(_per_head(attention)),
        tiles=(numbers_of(_per_head(attention)),) if has_tiles else (),
        o=_arrays(attention.o.home),
        post_norm=half.post_norm.weight.numpy(),
        gate_up=_arrays(dense.gate_up.home),
        down=_arrays(dense.down.home),
    )
