"""What a model is, read from its checkpoint's own `config.json`.

Three kinds of file are read: the one Meituan published (which has no `model_type`, so `architectures` decides),
the same re-saved by transformers, and small variants with other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing, UnknownArchitecture
from kodkod_engine.models.ngram_spec import NgramSpec, polynomial_spec

NGRAM_ARCHITECTURE = "LongcatFlashNgramForCausalLM"
BACKBONE_ARCHITECTURE = "LongcatFlashForCausalLM"
ARCHITECTURES = (NGRAM_ARCHITECTURE, BACKBONE_ARCHITECTURE)

LATENT_NORM_EPS = 1e-6
"""The published model class builds its two latent norms with this default, not with `rms_norm_eps`."""


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding, with YaRN (arXiv 2309.00071) when `factor` > 1."""

    dim: int
    theta: float
    factor: float = 1.0
    original_max_position: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0

    def _mscale(self, weight: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0

    @property
    def score_scale(self) -> float:
        """Factor on the attention score beside 1/sqrt(head dim): mscale squared."""
        return self._mscale(self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    @property
    def table_scale(self) -> float:
        """Factor on the cosine and sine tables."""
        if self.mscale and self.mscale_all_dim:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1.0)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model of the LongCat-Flash family. Sizes are counts of values; `num_layers` counts dual layers."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    mla_scale_q_lora: bool
    mla_scale_kv_lora: bool
    ffn_hidden_size: int
    expert_ffn_hidden_size: int
    num_experts: int
    """Experts that have weights."""
    num_identity_experts: int
    """Experts that return their input; they follow the real ones in the router's numbering."""
    experts_per_token: int
    routed_scaling_factor: float
    rms_norm_eps: float
    rope: RopeSpec
    max_context_tokens: int
    bos_id: int
    eos_id: int
    tie_word_embeddings: bool
    ngram: NgramSpec | None
    """None for the plain backbone."""
    is_fp8: bool = False
    """Whether it is published in FP8 blocks."""

    @property
    def stored_precision(self) -> str:
        """Of the published checkpoint's large matrices, fp16 and fp32 counted as bf16."""
        return "fp8" if self.is_fp8 else "bf16"

    @property
    def num_attention_blocks(self) -> int:
        """Each dual layer holds two; block b of layer l keeps its KV in cache layer 2l + b."""
        return 2 * self.num_layers

    @property
    def latent_dim(self) -> int:
        """Values cached per token and attention block: the latent and the shared rope key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def q_scale(self) -> float:
        """Factor on the query, sqrt(hidden / rank)."""
        return math.sqrt(self.hidden_size / self.q_lora_rank) if self.mla_scale_q_lora else 1.0

    @property
    def kv_scale(self) -> float:
        """Factor on the normalised latent, sqrt(hidden / rank); the rope key does not get it."""
        return math.sqrt(self.hidden_size / self.kv_lora_rank) if self.mla_scale_kv_lora else 1.0

    @property
    def score_scale(self) -> float:
        """Factor on query-key products, YaRN's included."""
        return self.rope.score_scale / math.sqrt(self.qk_nope_head_dim + self.qk_rope_head_dim)


Width = Annotated[int, Field(gt=0, le=1 << 20)]
"""A dimension of a matrix. The limits keep what a wrong file says from being computed with, or built: no product of
these numbers leaves 63 bits."""
Count = Annotated[int, Field(gt=0, le=1 << 16)]
"""Of heads, layers, experts."""
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Positions = Annotated[int, Field(gt=0, lt=1 << 31)]


class _RawConfig(BaseModel):
    """The keys of `config.json` that matter; names differ between writers. What a file leaves out is what the published
    class takes for it."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    architectures: list[str] = Field(min_length=1)
    vocab_size: int = Field(gt=0, le=1 << 24)
    hidden_size: Width
    num_layers: Count
    num_attention_heads: Count
    q_lora_rank: Width
    kv_lora_rank: Width
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count = Field(multiple_of=2)
    v_head_dim: Count
    mla_scale_q_lora: bool = True
    mla_scale_kv_lora: bool = True
    ffn_hidden_size: Width = Field(validation_alias=AliasChoices("ffn_hidden_size", "intermediate_size"))
    expert_ffn_hidden_size: Width = Field(
        validation_alias=AliasChoices("expert_ffn_hidden_size", "moe_intermediate_size")
    )
    n_routed_experts: Count = Field(validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    zero_expert_num: int = Field(default=0, ge=0, le=1 << 16)
    zero_expert_type: str = "identity"
    moe_topk: Count = Field(validation_alias=AliasChoices("moe_topk", "num_experts_per_tok"))
    routed_scaling_factor: FiniteFloat = Field(default=6.0, gt=0)
    norm_topk_prob: bool = False
    router_bias: bool = False
    attention_bias: bool = False
    attention_method: str = "MLA"
    hidden_act: str = "silu"
    nextn_use_scmoe: bool = False
    rms_norm_eps: FiniteFloat = Field(default=1e-5, ge=0)
    rope_theta: FiniteFloat = 10_000_000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    max_position_embeddings: Positions
    bos_token_id: TokenId = 1
    eos_token_id: TokenId = 2
    tie_word_embeddings: bool = False
    ngram_vocab_size_ratio: Annotated[FiniteFloat, Field(gt=0, le=1 << 16)] | None = None
    emb_neighbor_num: Count | None = None
    emb_split_num: Count | None = None
    quantization_config: dict[str, Any] | None = None


class _RawRope(BaseModel):
    """The keys that say how positions are encoded, wherever they stood."""

    rope_type: str = Field(default="default", validation_alias=AliasChoices("rope_type", "type"))
    rope_theta: FiniteFloat = Field(gt=1)
    factor: FiniteFloat | None = Field(default=None, gt=0)
    original_max_position_embeddings: Positions
    beta_fast: FiniteFloat = Field(default=32.0, gt=0)
    beta_slow: FiniteFloat = Field(default=1.0, gt=0)
    mscale: FiniteFloat = Field(default=0.0, ge=0)
    mscale_all_dim: FiniteFloat = Field(default=0.0, ge=0)


def load_config(checkpoint_dir: str | Path) -> ModelConfig:
    """Read `config.json` of a checkpoint folder.

    Raises:
        CheckpointMissing: no such folder, or no config.json in it.
        CheckpointCorrupt: not JSON, or a value is missing or out of range.
        UnknownArchitecture: a family or an option this engine does not have.
    """
    path = Path(checkpoint_dir) / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        reason = fault.strerror or "cannot be read"
        raise CheckpointMissing(f"{path}: {reason}; give the folder that holds config.json") from fault
    except UnicodeDecodeError as fault:
        raise CheckpointCorrupt(f"{path}: not UTF-8 text; fetch the file again") from fault
    try:
        raw = _RawConfig.model_validate_json(text)
    except ValidationError as fault:
        _refuse_unknown_architecture(path, text)
        raise _corrupt(path, fault) from fault
    _refuse_unknown_options(path, raw)
    return _build(path, raw)


def _corrupt(path: Path, fault: ValidationError) -> CheckpointCorrupt:
    first = fault.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return CheckpointCorrupt(f"{path}: {where}: {first['msg']}; fetch the file again")


def _refuse_unknown_architecture(path: Path, text: str) -> None:
    """A config of another family lacks our keys; say that it is another family rather than which key is missing."""
    marker = '"architectures"'
    if marker in text and not any(name in text for name in ARCHITECTURES):
        raise UnknownArchitecture(f"{path}: not a LongCat-Flash model; this engine runs {' and '.join(ARCHITECTURES)}")


def _refuse_unknown_options(path: Path, raw: _RawConfig) -> None:
    facts: Mapping[str, bool] = {
        f"architecture {raw.architectures[0]}": raw.architectures[0] in ARCHITECTURES,
        f"attention_method {raw.attention_method}": raw.attention_method == "MLA",
        f"zero_expert_type {raw.zero_expert_type}": raw.zero_expert_type == "identity",
        f"hidden_act {raw.hidden_act}": raw.hidden_act == "silu",
        "norm_topk_prob": not raw.norm_topk_prob,
        "router_bias": not raw.router_bias,
        "attention_bias": not raw.attention_bias,
        "nextn_use_scmoe": not raw.nextn_use_scmoe,
        "this quantization_config (it has FP8 in blocks of 128 x 128, and its own conversions)": _is_read(raw),
    }
    unknown = [name for name, known in facts.items() if not known]
    if unknown:
        raise UnknownArchitecture(f"{path}: this engine does not have {', '.join(unknown)}")


def _is_read(raw: _RawConfig) -> bool:
    """Plain weights, or e4m3 with a scale per block of 128 x 128, as Meituan publishes."""
    given = raw.quantization_config
    return given is None or (given.get("quant_method") == "fp8" and given.get("weight_block_size") == [128, 128])


def _rope_spec(path: Path, raw: _RawConfig) -> RopeSpec:
    """Plain or YaRN, from the old pair of keys or from the one key transformers writes since version 5."""
    defaults = {"rope_theta": raw.rope_theta, "original_max_position_embeddings": raw.max_position_embeddings}
    given = {**(raw.rope_scaling or {}), **(raw.rope_parameters or {})}
    try:
        rope = _RawRope.model_validate(defaults | {key: value for key, value in given.items() if value is not None})
    except ValidationError as fault:
        raise _corrupt(path, fault) from fault
    if rope.rope_type == "default":
        return RopeSpec(dim=raw.qk_rope_head_dim, theta=rope.rope_theta)
    if rope.rope_type != "yarn":
        raise UnknownArchitecture(f"{path}: this engine does not have rope type {rope.rope_type}")
    if rope.factor is None:
        raise CheckpointCorrupt(f"{path}: rope type yarn needs a factor; fetch the file again")
    return RopeSpec(
        dim=raw.qk_rope_head_dim,
        theta=rope.rope_theta,
        factor=rope.factor,
        original_max_position=rope.original_max_position_embeddings,
        beta_fast=rope.beta_fast,
        beta_slow=rope.beta_slow,
        mscale=rope.mscale,
        mscale_all_dim=rope.mscale_all_dim,
    )


def _ngram_spec(path: Path, raw: _RawConfig) -> NgramSpec | None:
    if raw.architectures[0] == BACKBONE_ARCHITECTURE:
        return None
    ratio, order_limit, splits = raw.ngram_vocab_size_ratio, raw.emb_neighbor_num, raw.emb_split_num
    if ratio is None or order_limit is None or splits is None or order_limit < 2 or splits < 1 or ratio <= 0:
        names = "ngram_vocab_size_ratio, emb_neighbor_num, emb_split_num"
        raise CheckpointCorrupt(f"{path}: an n-gram model needs {names}; fetch the file again")
    num_tables = (order_limit - 1) * splits
    if raw.hidden_size % num_tables:
        raise CheckpointCorrupt(
            f"{path}: hidden_size {raw.hidden_size} is not a multiple of {num_tables} n-gram tables"
        )
    return polynomial_spec(
        vocab_size=raw.vocab_size,
        ratio=ratio,
        order_limit=order_limit,
        splits=splits,
        table_width=raw.hidden_size // num_tables,
        border_ids=frozenset({raw.eos_token_id}),
    )


def _build(path: Path, raw: _RawConfig) -> ModelConfig:
    if raw.moe_topk > raw.n_routed_experts + raw.zero_expert_num:
        raise CheckpointCorrupt(f"{path}: moe_topk {raw.moe_topk} exceeds the number of experts")
    return ModelConfig(
        architecture=raw.architectures[0],
        vocab_size=raw.vocab_size,
        hidden_size=raw.hidden_size,
        num_layers=raw.num_layers,
        num_heads=raw.num_attention_heads,
        q_lora_rank=raw.q_lora_rank,
        kv_lora_rank=raw.kv_lora_rank,
        qk_nope_head_dim=raw.qk_nope_head_dim,
        qk_rope_head_dim=raw.qk_rope_head_dim,
        v_head_dim=raw.v_head_dim,
        mla_scale_q_lora=raw.mla_scale_q_lora,
        mla_scale_kv_lora=raw.mla_scale_kv_lora,
        ffn_hidden_size=raw.ffn_hidden_size,
        expert_ffn_hidden_size=raw.expert_ffn_hidden_size,
        num_experts=raw.n_routed_experts,
        num_identity_experts=raw.zero_expert_num,
        experts_per_token=raw.moe_topk,
        routed_scaling_factor=raw.routed_scaling_factor,
        rms_norm_eps=raw.rms_norm_eps,
        rope=_rope_spec(path, raw),
        max_context_tokens=raw.max_position_embeddings,
        bos_id=raw.bos_token_id,
        eos_id=raw.eos_token_id,
        tie_word_embeddings=raw.tie_word_embeddings,
        ngram=_ngram_spec(path, raw),
        is_fp8=raw.quantization_config is not None,
    )
