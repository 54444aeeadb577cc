"""How many weights each part of a model has, and how many of them one token reads. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from kodkod_engine.models.config import ModelConfig

GROUP_SIZE = 128
SCALE_BYTES = 2
FP8_SCALE_BYTES = 4
BYTES_PER_WEIGHT = {
    "fp8": 1 + FP8_SCALE_BYTES / GROUP_SIZE**2,
    "int8": 1 + SCALE_BYTES / GROUP_SIZE,
    "int4": 0.5 + SCALE_BYTES / GROUP_SIZE,
}


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Numbers of weights."""

    attention: int
    """The packable matrices of all blocks."""
    latent_maps: int
    """Key and value maps of all blocks: never packed."""
    dense: int
    experts: int
    expert: int
    """One of them."""
    router: int
    """Kept in fp32."""
    head: int
    words: int
    projection: int
    tables: int
    latent_values: int
    """Cached per token, over all blocks."""
    active_experts: float
    """Real experts that a token takes per layer when all choices are equally likely."""
    num_layers: int
    value_bytes: float = 2.0
    """Of a weight that is not packed: 4 where the checkpoint is in fp32."""
    rebuilt_values: int = 0
    """Keys and values of a token that a long prompt rebuilds in one block."""
    draft: int = 0
    """The packable matrices of the draft block; decoding without drafts reads none of it."""
    draft_words: int = 0
    draft_latent_map: int = 0

    @property
    def table_bytes(self) -> float:
        """Memory of the tables."""
        return self.tables * self.value_bytes

    def weight_bytes(self, precision: str) -> float:
        """Of one packable weight."""
        return self.value_bytes if precision == "bf16" else BYTES_PER_WEIGHT[precision]

    def kept_bytes(self, precision: str) -> float:
        """Memory of everything but the tables."""
        plain = self.words + self.latent_maps + self.projection + self.draft_words + self.draft_latent_map
        whole = plain * self.value_bytes + self.router * 4.0
        packable = self.attention + self.dense + self.experts + self.draft
        head = self.head * self.weight_bytes(head_precision(precision))
        return whole + packable * self.weight_bytes(precision) + head

    def layer_expert_bytes(self, precision: str) -> float:
        """Memory of the experts of one layer."""
        return self.experts / self.num_layers * self.weight_bytes(precision)

    def taken_expert_bytes(self, precision: str) -> float:
        """What one token reads of the experts of one layer."""
        return self.active_experts * self.expert * self.weight_bytes(precision)

    def read_bytes(self, precision: str, context_tokens: int, latent_bytes: int) -> float:
        """What decoding one token reads: the experts it takes, all else once, the cache of its context."""
        whole = (self.latent_maps + self.projection) * self.value_bytes + self.router * 4.0
        packable = (self.attention + self.dense) * self.weight_bytes(precision)
        head = self.head * self.weight_bytes(head_precision(precision))
        cache = context_tokens * self.latent_values * latent_bytes
        return whole + packable + self.num_layers * self.taken_expert_bytes(precision) + head + cache


def head_precision(precision: str) -> str:
    """4 bits leave the head, which chooses the token, at 8; FP8 leaves it at 16."""
    return {"int4": "int8", "fp8": "bf16"}.get(precision, precision)


def part_sizes(config: ModelConfig, value_bytes: float = 2.0, *, with_draft: bool = False) -> PartSizes:
    """Of a model whose unpacked weights take so many bytes each, with its draft block or without."""
    hidden, heads, blocks = config.hidden_size, config.num_heads, config.num_attention_blocks
    q_head, value = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
    attention = hidden * (config.q_lora_rank + config.latent_dim) + config.q_lora_rank * heads * q_head
    attention += heads * value * hidden
    latent_map = config.kv_lora_rank * heads * (config.qk_nope_head_dim + value)
    dense, expert = 3 * hidden * config.ffn_hidden_size, 3 * hidden * config.expert_ffn_hidden_size
    words = config.vocab_size * hidden
    choices = config.num_experts + config.num_identity_experts
    spec = config.ngram
    return PartSizes(
        attention=blocks * attention,
        latent_maps=blocks * latent_map,
        dense=blocks * dense,
        experts=config.num_layers * config.num_experts * expert,
        expert=expert,
        router=config.num_layers * choices * (hidden + 1),
        head=0 if config.tie_word_embeddings else words,
        words=words,
        projection=0 if spec is None else spec.num_tables * spec.table_width * hidden,
        tables=0 if spec is None else spec.row_offsets[-1] * spec.table_width,
        latent_values=(blocks + with_draft) * config.latent_dim,
        active_experts=config.experts_per_token * config.num_experts / choices,
        num_layers=config.num_layers,
        value_bytes=value_bytes,
        rebuilt_values=heads * (config.qk_nope_head_dim + value),
        draft=with_draft * (2 * hidden * hidden + attention + dense),
        draft_words=with_draft * words,
        draft_latent_map=with_draft * latent_map,
    )
