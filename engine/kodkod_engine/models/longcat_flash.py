"""LongCat-Flash and LongCat-Flash-Lite: dual-attention layers with a shortcut-connected mixture of experts.

Source: arXiv 2509.01322 (the backbone), arXiv 2601.21204 (the N-gram embedding), and the published model class.
Modules are laid out for speed (fused matrices, stacked experts); `checkpoint_slots` says which tensor of a
checkpoint file belongs where.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kodkod_engine.kernels.dual_layer import LayerWeights, StepArrays, dual_layer
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.beside import Beside
from kodkod_engine.layers.compiled import layer_weights, step_arrays
from kodkod_engine.layers.draws import Draws
from kodkod_engine.layers.feed_forward import FeedForward
from kodkod_engine.layers.linear import Linear, linear
from kodkod_engine.layers.mapped_files import MappedFiles
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.norm import RMSNorm
from kodkod_engine.layers.packed import Slot
from kodkod_engine.layers.rotary import Rotary
from kodkod_engine.layers.step_batch import StepBatch
from kodkod_engine.models.config import ModelConfig

if TYPE_CHECKING:
    from kodkod_engine.models.gpu_step import GpuStep

Slots = Iterator[tuple[str, Slot]]
"""Names of checkpoint tensors with the views they are loaded into."""


def unpacked_slots(*slots: Slots) -> dict[str, Tensor]:
    """The slots of parts that hold nothing packed."""
    return {name: slot for part in slots for name, slot in part if isinstance(slot, Tensor)}


class HalfLayer(nn.Module):
    """One attention block and one dense network, each behind its norm."""

    def __init__(self, config: ModelConfig, cache_layer: int, activation_dtype: torch.dtype | None) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_norm = RMSNorm(hidden, eps, dtype=activation_dtype)
        self.attention = LatentAttention(config, cache_layer, activation_dtype=activation_dtype)
        self.post_norm = RMSNorm(hidden, eps, dtype=activation_dtype)
        self.dense = FeedForward(hidden, config.ffn_hidden_size)


class DualLayer(nn.Module):
    """Two half layers in a row; the experts read what the first dense network reads and join at the end."""

    def __init__(self, config: ModelConfig, index: int, activation_dtype: torch.dtype | None) -> None:
        super().__init__()
        self.first = HalfLayer(config, 2 * index, activation_dtype)
        self.second = HalfLayer(config, 2 * index + 1, activation_dtype)
        self.experts = MixtureOfExperts(config)
        self._compiled: LayerWeights | None = None

    def in_kernel(self, x: Tensor, step: StepArrays, cache: KvCache) -> Tensor:
        """As `forward`, in one call; for the steps that `step_arrays` admits."""
        if self._compiled is None:
            self._compiled = layer_weights(self.first, self.second, self.experts)
        first, second = self.first.attention.cache_layer, self.second.attention.cache_layer
        return dual_layer(x, self._compiled, step, cache.layer(first), cache.layer(second))

    def forward(self, x: Tensor, batch: StepBatch, rope_table: Tensor, cache: KvCache) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        first, second = self.first, self.second
        x = x + first.attention(first.input_norm(x), batch, rope_table, cache)
        normed = first.post_norm(x)
        beside = Beside(normed, self.experts.homes)
        with beside:
            shortcut = self.experts(normed)
        x = x + first.dense(normed)
        x = x + second.attention(second.input_norm(x), batch, rope_table, cache)
        x = x + second.dense(second.post_norm(x))
        beside.join()
        out: Tensor = x + shortcut
        return out

    def checkpoint_slots(self, prefix: str) -> Slots:
        """The tensors of one `model.layers.{l}`. Note `mlps` (dense networks) against `mlp` (experts)."""
        for block, half in enumerate((self.first, self.second)):
            yield f"{prefix}input_layernorm.{block}.weight", half.input_norm.weight
            yield f"{prefix}post_attention_layernorm.{block}.weight", half.post_norm.weight
            yield from attention_slots(half.attention, f"{prefix}self_attn.{block}.")
            yield from dense_slots(half.dense, f"{prefix}mlps.{block}.")
        experts = self.experts
        yield f"{prefix}mlp.router.classifier.weight", experts.router.weight
        yield f"{prefix}mlp.router.e_score_correction_bias", experts.router.selection_bias
        gate_up, down = experts.homes
        for expert in range(experts.num_experts):
            gate, up = gate_up[expert].chunk(2)
            yield f"{prefix}mlp.experts.{expert}.gate_proj.weight", gate
            yield f"{prefix}mlp.experts.{expert}.up_proj.weight", up
            yield f"{prefix}mlp.experts.{expert}.down_proj.weight", down[expert]


def attention_slots(attention: LatentAttention, prefix: str) -> Slots:
    """The seven tensors of one attention block."""
    rank = attention.config.q_lora_rank
    yield f"{prefix}q_a_proj.weight", attention.qkv_a.home[:rank]
    yield f"{prefix}q_a_layernorm.weight", attention.q_norm.weight
    yield f"{prefix}q_b_proj.weight", attention.q_b.home
    yield f"{prefix}kv_a_proj_with_mqa.weight", attention.qkv_a.home[rank:]
    yield f"{prefix}kv_a_layernorm.weight", attention.kv_norm.weight
    yield f"{prefix}kv_b_proj.weight", attention.kv_b.weight
    yield f"{prefix}o_proj.weight", attention.o.home


def dense_slots(dense: FeedForward, prefix: str) -> Slots:
    """The three tensors of one dense network."""
    gate, up = dense.gate_up.home.chunk(2)
    yield f"{prefix}gate_proj.weight", gate
    yield f"{prefix}up_proj.weight", up
    yield f"{prefix}down_proj.weight", dense.down.home


class LongcatFlash(nn.Module):
    """The whole model. `ngram` is None in its config for the plain backbone."""

    def __init__(self, config: ModelConfig, *, activation_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.embedding: NgramEmbedding | None = None
        self.word_embedding: nn.Parameter | None = None
        if config.ngram is not None:
            self.embedding = NgramEmbedding(config.ngram, config.vocab_size, hidden, dtype=activation_dtype)
        else:
            self.word_embedding = nn.Parameter(torch.empty(config.vocab_size, hidden), requires_grad=False)
        self.dual_layers = tuple(DualLayer(config, index, activation_dtype) for index in range(config.num_layers))
        self.layers = nn.ModuleList(self.dual_layers)
        self.norm = RMSNorm(hidden, config.rms_norm_eps, dtype=activation_dtype)
        self.lm_head = None if config.tie_word_embeddings else Linear(hidden, config.vocab_size)
        self.mapped_files: MappedFiles | None = None
        """Where weights or tables are pages of files: these."""
        self._rotary: Rotary | None = None
        self._gpu_step: GpuStep | None = None

    def rope_table(self, positions: Tensor) -> Tensor:
        """int64 [tokens] -> complex64 [tokens, rope / 2]."""
        if self._rotary is None:
            self._rotary = Rotary(self.config.rope, positions.device)
        return self._rotary.table(positions)

    def embed(self, batch: StepBatch) -> Tensor:
        """[tokens] -> [tokens, hidden]."""
        if self.embedding is None:
            return F.embedding(batch.token_ids, self.words).to(self.norm.weight.dtype)
        assert batch.windows is not None
        out: Tensor = self.embedding(batch.token_ids, batch.windows)
        return out

    def forward(self, batch: StepBatch, cache: KvCache) -> Tensor:
        """Run one step: writes KV, returns hidden states before the final norm, [tokens, hidden].

        The batch may lie on the host, wherever the model is.

        Raises:
            CheckpointCorrupt: a file that weights are mapped from was written to.
        """
        self._require_unchanged()
        fused = self._fused_for(batch, cache)
        if fused is not None:
            return fused(batch).clone()
        batch = batch.to(self.norm.weight.device)
        x = self.embed(batch)
        table = self.rope_table(batch.positions)
        step = step_arrays(x, self.dual_layers[0].first, batch, table)
        for layer in self.dual_layers:
            x = layer(x, batch, table, cache) if step is None else layer.in_kernel(x, step, cache)
        return x

    def choose(
        self, batch: StepBatch, cache: KvCache, draws: Draws | None = None, num_steps: int = 1, more: int = 0
    ) -> Tensor | None:
        """As `forward`, on to the ids that follow: int64 [num_steps, tokens], see `GpuStep.choose`.

        None, and nothing done, where the fused step does not take the batch.
        """
        self._require_unchanged()
        fused = self._fused_for(batch, cache)
        return fused.choose(batch, draws, num_steps, more) if fused and fused.admits(batch, num_steps) else None

    def go_on(self, cache: KvCache, num_steps: int) -> Tensor | None:
        """As `choose`, right after it, where each sequence goes on with what was chosen; see `GpuStep.go_on`."""
        self._require_unchanged()
        fused = self._gpu_step
        return fused.go_on(num_steps) if fused is not None and fused.cache is cache else None

    def _require_unchanged(self) -> None:
        if self.mapped_files is not None:
            self.mapped_files.require_unchanged()

    def _fused_for(self, batch: StepBatch, cache: KvCache) -> GpuStep | None:
        if self.norm.weight.device.type != "cuda" or torch.is_grad_enabled():
            return None
        fused = self._fused_step(cache)
        return fused if fused is not None and fused.admits(batch) else None

    def _fused_step(self, cache: KvCache) -> GpuStep | None:
        """The step of fused kernels for this cache; None where triton is not installed."""
        if self._gpu_step is None or self._gpu_step.cache is not cache:
            if find_spec("triton") is None:
                return None
            from kodkod_engine.models.gpu_step import GpuStep

            self._gpu_step = GpuStep(self, cache)
        return self._gpu_step

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] before the final norm -> fp32 [rows, vocab]."""
        return self.head(self.norm(hidden))

    def head(self, normed: Tensor) -> Tensor:
        """[rows, hidden] already normalised -> fp32 [rows, vocab]."""
        return linear(normed, self.head_weight).float()

    @property
    def head_weight(self) -> Slot:
        """[vocab, hidden]."""
        return self.words if self.lm_head is None else self.lm_head.home

    @property
    def words(self) -> Tensor:
        """The word embedding, [vocab, hidden]."""
        weight = self.word_embedding if self.embedding is None else self.embedding.word
        assert weight is not None
        return weight

    def checkpoint_slots(self) -> Slots:
        """Every tensor of the main model's checkpoint, by its published name."""
        yield "model.embed_tokens.weight", self.words
        if self.embedding is not None:
            yield from self.table_slots()
            yield from self._projection_slots(self.embedding)
        for index, layer in enumerate(self.dual_layers):
            yield from layer.checkpoint_slots(f"model.layers.{index}.")
        yield "model.norm.weight", self.norm.weight
        if self.lm_head is not None:
            yield "lm_head.weight", self.lm_head.home

    def table_slots(self) -> Slots:
        """The N-gram tables that are in memory."""
        if self.embedding is not None and self.embedding.resident is not None:
            for index in range(self.embedding.spec.num_tables):
                yield f"model.ngram_embeddings.embedders.{index}.weight", self.embedding.resident.table(index)

    @staticmethod
    def _projection_slots(embedding: NgramEmbedding) -> Slots:
        width = embedding.spec.table_width
        for index in range(embedding.spec.num_tables):
            columns = slice(index * width, (index + 1) * width)
            yield f"model.ngram_embeddings.post_projs.{index}.weight", embedding.projection.weight[:, columns]
