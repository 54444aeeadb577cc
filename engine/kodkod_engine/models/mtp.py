"""The multi-token prediction block: drafts the token after next from the target's hidden state.

One dense layer with its own word embedding and cache layer, the target's head, and no N-gram part. Source: arXiv
2601.21204, section 4.2, and the tensors of the published checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kodkod_engine.kv.cache import KvCache
from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.feed_forward import FeedForward
from kodkod_engine.layers.linear import Linear
from kodkod_engine.layers.lookup import rows_of
from kodkod_engine.layers.norm import RMSNorm
from kodkod_engine.layers.step_batch import StepBatch
from kodkod_engine.models.config import ModelConfig
from kodkod_engine.models.longcat_flash import Slots, attention_slots, dense_slots


class MtpBlock(nn.Module):
    """Keeps its KV in the cache layer after the main model's."""

    def __init__(self, config: ModelConfig, *, activation_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.word = nn.Parameter(torch.empty(config.vocab_size, hidden), requires_grad=False)
        self.embedding_norm = RMSNorm(hidden, eps, dtype=activation_dtype)
        self.hidden_norm = RMSNorm(hidden, eps, dtype=activation_dtype)
        self.join = Linear(2 * hidden, hidden)
        self.input_norm = RMSNorm(hidden, eps, dtype=activation_dtype)
        self.attention = LatentAttention(config, config.num_attention_blocks, activation_dtype=activation_dtype)
        self.post_norm = RMSNorm(hidden, eps, dtype=activation_dtype)
        self.dense = FeedForward(hidden, config.ffn_hidden_size)
        self.norm = RMSNorm(hidden, eps, dtype=activation_dtype)

    def forward(self, hidden: Tensor, batch: StepBatch, rope_table: Tensor, cache: KvCache) -> Tensor:
        """One draft step.

        Args:
            hidden: [tokens, hidden] of the target (or of this block, for a further step) at each position.
            batch: `token_ids` holds the token that *follows* each position; positions and slots are the position's.
            rope_table: complex64 [tokens, rope / 2].

        Returns:
            [tokens, hidden], normalised: the target's head turns it into logits of the token after next.
        """
        words = rows_of(self.word, batch.token_ids[:, None]).to(hidden.dtype)
        x = self.join(torch.cat([self.embedding_norm(words), self.hidden_norm(hidden)], dim=-1))
        x = x + self.attention(self.input_norm(x), batch, rope_table, cache)
        x = x + self.dense(self.post_norm(x))
        out: Tensor = self.norm(x)
        return out

    def checkpoint_slots(self) -> Slots:
        """The 17 tensors under `model.mtp.`."""
        prefix = "model.mtp."
        layer = f"{prefix}layers.0."
        yield f"{prefix}embed_tokens.weight", self.word
        yield f"{prefix}norm.weight", self.norm.weight
        yield f"{layer}enorm.m.weight", self.embedding_norm.weight
        yield f"{layer}hnorm.m.weight", self.hidden_norm.weight
        yield f"{layer}eh_proj.weight", self.join.home
        yield f"{layer}input_layernorm.weight", self.input_norm.weight
        yield f"{layer}post_attention_layernorm.weight", self.post_norm.weight
        yield from attention_slots(self.attention, f"{layer}self_attn.")
        yield from dense_slots(self.dense, f"{layer}transformer_layer.mlp.")
