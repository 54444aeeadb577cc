"""Random checkpoints in exactly the published file layout, at any size: for tests, benchmarks and first runs.

Weights have the scale of trained ones: a matrix keeps the variance of its input, norms are near one, the router
prefers some experts. So every part of the model matters to its output, and a fault in any part shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kodkod_engine.models.checkpoint import INDEX_NAME, Progress
from kodkod_engine.models.config import NGRAM_ARCHITECTURE, load_config
from kodkod_engine.models.loading import build_model
from kodkod_engine.models.longcat_flash import unpacked_slots

DEFAULT_SHARD_BYTES = 512 * 1024**2

YARN: Mapping[str, Any] = {
    "type": "yarn",
    "factor": 10,
    "original_max_position_embeddings": 32768,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1,
    "mscale_all_dim": 1,
}

TINY: Mapping[str, Any] = {
    "architectures": [NGRAM_ARCHITECTURE],
    "vocab_size": 320,
    "hidden_size": 96,
    "num_layers": 2,
    "num_attention_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "ffn_hidden_size": 128,
    "expert_ffn_hidden_size": 32,
    "n_routed_experts": 8,
    "zero_expert_num": 4,
    "zero_expert_type": "identity",
    "moe_topk": 3,
    "routed_scaling_factor": 6.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5_000_000.0,
    "rope_scaling": YARN,
    "max_position_embeddings": 327_680,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "ngram_vocab_size_ratio": 7.3,
    "emb_neighbor_num": 4,
    "emb_split_num": 4,
    "torch_dtype": "float32",
}
"""Everything LongCat-Flash-Lite has, at half a million parameters; as the `config.json` it becomes."""


def write_random_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    with_mtp: bool = True,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Write config.json, shards and their index; the same seed gives the same bytes.

    Args:
        folder: made when it is not there.
        config: the keys of config.json.
        shard_bytes: a shard is closed when the next tensor would pass this size.
        progress: called with (bytes written, bytes in all).

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    model, mtp = build_model(load_config(folder), with_mtp=with_mtp, dtype=dtype, activation_dtype=dtype, device="meta")
    slots = unpacked_slots(model.checkpoint_slots(), *([mtp.checkpoint_slots()] if mtp else []))
    shards = list(_cut_into_shards(slots, shard_bytes))
    generator = torch.Generator().manual_seed(seed)
    total, done = sum(slot.nbytes for slot in slots.values()), 0
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: random_tensor(name, slots[name], generator) for name in names}
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file_name)
        done += sum(tensor.nbytes for tensor in tensors.values())
        if progress is not None:
            progress(done, total)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return folder


def random_tensor(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Values for a tensor of this name, in `like`'s shape and dtype."""
    values = torch.randn(like.shape, generator=generator)
    if name.endswith("e_score_correction_bias"):
        values *= 0.01
    elif like.dim() == 1:
        values = 1 + 0.1 * values
    elif not ("embedders" in name or "embed_tokens" in name):
        values /= math.sqrt(like.shape[-1])
    return values.to(like.dtype)


def _cut_into_shards(slots: Mapping[str, Tensor], shard_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, slot in slots.items():
        if names and size + slot.nbytes > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += slot.nbytes
    yield names
