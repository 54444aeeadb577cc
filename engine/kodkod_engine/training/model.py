"""The architecture with gradients, over whole documents side by side.

The parameters are the engine's own modules, so what is trained is what is exported, tensor by tensor; only the way
through them differs: no cache, expanded attention, sparse gradients for the N-gram tables. Blocks are functions of
tensors alone, so that one compilation serves all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.feed_forward import FeedForward, swiglu
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher
from kodkod_engine.layers.norm import RMSNorm
from kodkod_engine.layers.rotary import inverse_frequencies
from kodkod_engine.models.config import LATENT_NORM_EPS, ModelConfig
from kodkod_engine.models.loading import build_model
from kodkod_engine.models.longcat_flash import DualLayer, HalfLayer, unpacked_slots
from kodkod_engine.training.causal_attention import causal_attention


class AttentionSizes(NamedTuple):
    """What attention needs to know beside its weights."""

    num_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    q_scale: float
    """Of the query, the score's scale included."""
    kv_scale: float
    eps: float

    @classmethod
    def of(cls, config: ModelConfig) -> AttentionSizes:
        """From a model's config."""
        return cls(
            num_heads=config.num_heads,
            q_lora_rank=config.q_lora_rank,
            kv_lora_rank=config.kv_lora_rank,
            nope_dim=config.qk_nope_head_dim,
            rope_dim=config.qk_rope_head_dim,
            value_dim=config.v_head_dim,
            q_scale=config.q_scale * config.score_scale,
            kv_scale=config.kv_scale,
            eps=config.rms_norm_eps,
        )


class AttentionWeights(NamedTuple):
    """Of one block and the norm before it."""

    norm: Tensor
    qkv_a: Tensor
    q_norm: Tensor
    q_b: Tensor
    kv_norm: Tensor
    kv_b: Tensor

    @classmethod
    def of(cls, norm: RMSNorm, attention: LatentAttention) -> AttentionWeights:
        """From the engine's modules."""
        return cls(
            norm.weight,
            attention.qkv_a.weight,
            attention.q_norm.weight,
            attention.q_b.weight,
            attention.kv_norm.weight,
            attention.kv_b.weight,
        )


class DenseWeights(NamedTuple):
    """Of the way from one attention block's output to the next block's input."""

    out: Tensor
    norm: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, attention: LatentAttention, norm: RMSNorm, dense: FeedForward) -> DenseWeights:
        """From the engine's modules."""
        return cls(attention.o.weight, norm.weight, dense.gate_up.weight, dense.down.weight)


def mix_all_experts(x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The same as `mix_experts`, every token through every expert: two large products, and no shape that depends on the
    choices. More arithmetic than is needed, but a GPU that waits for nothing has it done sooner.
    """
    num_experts = gate_up.shape[0]
    is_chosen = chosen[:, :, None] == torch.arange(num_experts, device=chosen.device)
    shares = (weights[:, :, None] * is_chosen).sum(dim=1)
    of_identity = (weights * (chosen >= num_experts)).sum(dim=1, keepdim=True)
    inner = swiglu(F.linear(x, gate_up.flatten(0, 1)).unflatten(-1, (num_experts, -1)))
    inner = inner * shares[:, :, None].to(inner.dtype)
    mixed = F.linear(inner.flatten(1), down.transpose(0, 1).flatten(1))
    return x * of_identity.to(x.dtype) + mixed.to(x.dtype)


def count_choices(chosen: Tensor, is_token: Tensor, num_choices: int) -> Tensor:
    """How many tokens chose each expert: int64 [tokens, k] and bool [tokens] -> int64 [experts]."""
    hits = chosen[:, :, None] == torch.arange(num_choices, device=chosen.device)
    return (hits & is_token[:, None, None]).sum(dim=(0, 1))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `layers.norm.RMSNorm`, statistics in fp32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotate_pairs(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """As `layers.rotary.rotate`, in real numbers: [..., tokens, dim] with [tokens, dim / 2] tables."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


def attention_inputs(
    x: Tensor, weights: AttentionWeights, sizes: AttentionSizes, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm and projections: [documents, tokens, hidden] -> query, key and value [documents, heads, tokens, dim]."""
    normed = rms_norm(x, weights.norm, sizes.eps)
    down, latent, rope_key = F.linear(normed, weights.qkv_a).split(
        [sizes.q_lora_rank, sizes.kv_lora_rank, sizes.rope_dim], dim=-1
    )
    query = F.linear(rms_norm(down, weights.q_norm, LATENT_NORM_EPS), weights.q_b) * sizes.q_scale
    latent = rms_norm(latent, weights.kv_norm, LATENT_NORM_EPS) * sizes.kv_scale
    keys_values = F.linear(latent, weights.kv_b)
    query = query.unflatten(-1, (sizes.num_heads, -1)).transpose(1, 2)
    keys_values = keys_values.unflatten(-1, (sizes.num_heads, -1)).transpose(1, 2)
    nope, rope = query.split([sizes.nope_dim, sizes.rope_dim], dim=-1)
    key, value = keys_values.split([sizes.nope_dim, sizes.value_dim], dim=-1)
    shared = rotate_pairs(rope_key, cosine, sine)[:, None].expand(-1, sizes.num_heads, -1, -1)
    query = torch.cat([nope, rotate_pairs(rope, cosine, sine)], dim=-1)
    return query, torch.cat([key, shared.to(key.dtype)], dim=-1), value.contiguous()


def dense_step(x: Tensor, attended: Tensor, weights: DenseWeights, eps: float) -> tuple[Tensor, Tensor]:
    """Add attention's output and the dense network's.

    Args:
        x: [documents, tokens, hidden], the residual stream before attention.
        attended: [documents, heads, tokens, value dim].

    Returns:
        The residual stream after the dense network, and what that network read, each in x's shape.
    """
    x = x + F.linear(attended.transpose(1, 2).flatten(2), weights.out)
    normed = rms_norm(x, weights.norm, eps)
    return x + F.linear(swiglu(F.linear(normed, weights.gate_up)), weights.down), normed


def mix_experts(x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Dropless experts: assignments sorted by expert, one product per expert; identity experts return their input.

    Args:
        x: [tokens, hidden].
        chosen: int64 [tokens, k], numbers of experts; identity experts follow the real ones.
        weights: fp32 [tokens, k].
        gate_up: [experts, 2 * width, hidden].
        down: [experts, hidden, width].

    Returns:
        [tokens, hidden].
    """
    num_experts = gate_up.shape[0]
    is_identity = chosen >= num_experts
    total = x * (weights * is_identity).sum(dim=1, keepdim=True).to(x.dtype)
    order = chosen.flatten().argsort(stable=True)
    sizes = chosen.flatten().bincount(minlength=num_experts)[:num_experts].tolist()
    order = order[: sum(sizes)]
    tokens = order.div(chosen.shape[1], rounding_mode="floor")
    parts = x.index_select(0, tokens).split(sizes)
    wide = torch.cat([F.linear(part, matrix) for part, matrix in zip(parts, gate_up.unbind(), strict=True)])
    parts = swiglu(wide).split(sizes)
    narrow = torch.cat([F.linear(part, matrix) for part, matrix in zip(parts, down.unbind(), strict=True)])
    row_weights = weights.flatten().index_select(0, order)[:, None]
    return total.index_add(0, tokens, (narrow * row_weights.to(narrow.dtype)).to(total.dtype))


class Passed(NamedTuple):
    """What a pass over documents gives."""

    normed: Tensor
    """[documents, tokens, hidden] behind the final norm: what the head and the draft block read."""
    choices: Tensor
    """int64 [layers, real and identity experts]: how many of the pass's tokens chose each."""


class TrainableModel(nn.Module):
    """A LongCat-Flash model whose every weight, but the router's selection bias, has a gradient."""

    def __init__(self, config: ModelConfig, *, with_mtp: bool = True) -> None:
        super().__init__()
        self.config = config
        self.sizes = AttentionSizes.of(config)
        self.main, self.mtp = build_model(
            config, with_mtp=with_mtp, dtype=torch.float32, activation_dtype=torch.float32, device="cpu"
        )
        self.requires_grad_(True)
        for layer in self.main.dual_layers:
            layer.experts.router.selection_bias.requires_grad_(False)
        self._inputs: Callable[..., tuple[Tensor, Tensor, Tensor]] = attention_inputs
        self._dense: Callable[..., tuple[Tensor, Tensor]] = dense_step
        self.is_static = False
        """Whether no shape in a step depends on values, for which a GPU's host would have to wait. The tables' gradient
        is dense then."""
        self._hasher: NgramHasher | None = None
        self._row_offsets: Tensor | None = None
        self._frequencies: Tensor | None = None

    def compile_blocks(self) -> None:
        """Fuse the element-wise work; the first steps take tens of seconds, and a C++ compiler is needed on a CPU."""
        self._inputs = torch.compile(attention_inputs, dynamic=True)
        self._dense = torch.compile(dense_step, dynamic=True)

    @property
    def head(self) -> Tensor:
        """[vocab, hidden]."""
        return self.main.words if self.main.lm_head is None else self.main.lm_head.weight

    @property
    def tables(self) -> nn.Parameter | None:
        """All N-gram tables, one after another: [rows, width]. Their gradient is sparse
        unless `is_static`."""
        embedding = self.main.embedding
        return None if embedding is None or embedding.resident is None else embedding.resident.weight

    def checkpoint_slots(self) -> dict[str, Tensor]:
        """Every tensor by its published name."""
        return unpacked_slots(self.main.checkpoint_slots(), *([self.mtp.checkpoint_slots()] if self.mtp else []))

    def forward(self, token_ids: Tensor, is_token: Tensor) -> Passed:
        """Run documents from their starts.

        Args:
            token_ids: int64 [documents, tokens], padded at the right.
            is_token: bool, same shape; False at padding.
        """
        x = self.embed(token_ids)
        cosine, sine = self.rope_tables(token_ids)
        real = is_token.flatten()
        choices = []
        for layer in self.main.dual_layers:
            x, chosen = self._dual_layer(layer, x, cosine, sine)
            choices.append(count_choices(chosen, real, layer.experts.router.weight.shape[0]))
        norm = self.main.norm
        return Passed(rms_norm(x, norm.weight, norm.eps), torch.stack(choices))

    def draft(self, normed: Tensor, next_ids: Tensor) -> Tensor:
        """The draft block: what it hands to the head for the token after next.

        Args:
            normed: [documents, tokens, hidden] from `forward`.
            next_ids: int64 [documents, tokens], the token that follows each position.
        """
        mtp = self.mtp
        assert mtp is not None
        eps = self.config.rms_norm_eps
        embedded = rms_norm(F.embedding(next_ids, mtp.word), mtp.embedding_norm.weight, eps)
        joined = torch.cat([embedded.to(normed.dtype), rms_norm(normed, mtp.hidden_norm.weight, eps)], dim=-1)
        x = F.linear(joined, mtp.join.weight)
        cosine, sine = self.rope_tables(next_ids)
        attended = self._attend(x, AttentionWeights.of(mtp.input_norm, mtp.attention), cosine, sine)
        x, _ = self._dense(x, attended, DenseWeights.of(mtp.attention, mtp.post_norm, mtp.dense), eps)
        return rms_norm(x, mtp.norm.weight, eps)

    def embed(self, token_ids: Tensor) -> Tensor:
        """int64 [documents, tokens] -> [documents, tokens, hidden]."""
        embedding = self.main.embedding
        words = F.embedding(token_ids, self.main.words)
        if embedding is None or self.tables is None:
            return words
        ids = self.row_ids(token_ids)
        rows = F.embedding(ids, self.tables, sparse=not self.is_static).flatten(-2)
        combiner = embedding.spec.combiner
        projected = F.linear(rows, embedding.projection.weight)
        return words * combiner.word_scale + projected * combiner.ngram_scale

    def row_ids(self, token_ids: Tensor) -> Tensor:
        """Rows in the joined tables: int64 [documents, tokens] -> [documents, tokens, tables]."""
        spec = self.config.ngram
        assert spec is not None
        if self._hasher is None or self._row_offsets is None or self._row_offsets.device != token_ids.device:
            self._hasher = NgramHasher(spec, token_ids.device)
            self._row_offsets = torch.tensor(spec.row_offsets[:-1], device=token_ids.device)
        context = token_ids.new_full((len(token_ids), spec.context_tokens), ABSENT)
        padded = torch.cat([context, token_ids], dim=1)
        windows = padded.unfold(1, spec.context_tokens + 1, 1).flip(-1).flatten(0, 1)
        return torch.unflatten(self._hasher.row_ids(windows) + self._row_offsets, 0, token_ids.shape)

    def rope_tables(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions: fp32 [tokens, rope / 2] each."""
        spec = self.config.rope
        if self._frequencies is None or self._frequencies.device != token_ids.device:
            self._frequencies = inverse_frequencies(spec).to(token_ids.device)
        angles = torch.arange(token_ids.shape[1], device=token_ids.device)[:, None].float() * self._frequencies
        return angles.cos() * spec.table_scale, angles.sin() * spec.table_scale

    def _attend(self, x: Tensor, weights: AttentionWeights, cosine: Tensor, sine: Tensor) -> Tensor:
        return causal_attention(*self._inputs(x, weights, self.sizes, cosine, sine))

    def _half(self, half: HalfLayer, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        attended = self._attend(x, AttentionWeights.of(half.input_norm, half.attention), cosine, sine)
        weights = DenseWeights.of(half.attention, half.post_norm, half.dense)
        return self._dense(x, attended, weights, self.config.rms_norm_eps)

    def _dual_layer(self, layer: DualLayer, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """[documents, tokens, hidden] -> the same, and the experts chosen int64 [documents * tokens, k]."""
        x, normed = self._half(layer.first, x, cosine, sine)
        flat = normed.flatten(0, 1)
        chosen, weights = self._route(layer.experts, flat)
        mix = mix_all_experts if self.is_static else mix_experts
        shortcut = mix(flat, chosen, weights, layer.experts.gate_up, layer.experts.down)
        x, _ = self._half(layer.second, x, cosine, sine)
        return x + shortcut.view_as(x), chosen

    @staticmethod
    def _route(experts: MixtureOfExperts, x: Tensor) -> tuple[Tensor, Tensor]:
        """The engine's router, in fp32 also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            chosen, weights = experts.router(x)
        return chosen, weights
