"""transformers' model on the very tensors of a loaded one, to be measured beside it.

transformers has the backbone and no N-gram branch: the peer computes the same model without it, which is a little less
work. Its experts are copied, so memory holds them twice.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kodkod_engine.errors import EngineError
from kodkod_engine.models.config import ModelConfig
from kodkod_engine.models.loading import LoadedModel
from kodkod_engine.models.longcat_flash import unpacked_slots

NOT_FOR_PEER = ("architectures", "auto_map", "rope_scaling", "rope_parameters", "rope_theta", "torch_dtype", "dtype")


class TransformersPeer:
    """Decode steps and prefill by transformers."""

    def __init__(self, loaded: LoadedModel, checkpoint: Path) -> None:
        """Build it around the loaded model's tensors.

        Raises:
            EngineError: transformers is not installed, or the weights are packed.
        """
        if loaded.precisions.is_packed:
            raise EngineError(
                "the peer transformers cannot take packed weights; ask for --precision bf16 of a published checkpoint"
            )
        try:
            from transformers import LongcatFlashConfig, LongcatFlashForCausalLM
        except ImportError as fault:
            raise EngineError("the peer transformers is not installed; pip install transformers") from fault
        self._config, self._dtype = loaded.config, loaded.dtype
        config = LongcatFlashConfig(**_peer_values(loaded.config, checkpoint))
        before = torch.get_default_dtype()
        torch.set_default_dtype(loaded.dtype)
        try:
            with torch.device("meta"):
                self.model: Any = LongcatFlashForCausalLM(config)
        finally:
            torch.set_default_dtype(before)
        self._share(unpacked_slots(loaded.model.checkpoint_slots()))
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(config)
        self.model.eval()  # type: ignore[no-untyped-call]  # the library does not annotate it

    def _share(self, slots: dict[str, Tensor]) -> None:
        for name, parameter in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if "rotary" in name:
                continue
            owner, leaf = self.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            value = slots[name].detach() if name in slots else self._fused(name, parameter, slots)
            value = value if "router" in name else value.to(self._dtype)
            if leaf in owner._parameters:
                owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
            else:
                owner._buffers[leaf] = value
        self.model.tie_weights()

    def _fused(self, name: str, like: Tensor, slots: dict[str, Tensor]) -> Tensor:
        prefix, leaf = name.rsplit(".", 1)
        parts = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else ("down_proj",)
        fused = torch.zeros(like.shape, dtype=self._dtype)
        for expert in range(self._config.num_experts):
            fused[expert] = torch.cat([slots[f"{prefix}.{expert}.{part}.weight"] for part in parts])
        return fused

    @torch.inference_mode()
    def decode(self, batch: int, context_tokens: int, steps: int) -> float:
        """Seconds per step, mean; its cache is filled with random latents, whose values do not change the time."""
        from transformers import DynamicCache

        config, cache = self._config, DynamicCache()
        for layer in range(config.num_attention_blocks):
            latents = torch.randn(batch, 1, context_tokens, config.kv_lora_rank).to(self._dtype)
            rope_keys = torch.randn(batch, 1, context_tokens, config.qk_rope_head_dim).to(self._dtype)
            cache.update(latents, rope_keys, layer)
        ids = torch.randint(3, config.vocab_size, (batch, 1))
        started = time.perf_counter()
        for _ in range(steps):
            ids = self.model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
        return (time.perf_counter() - started) / steps

    def close(self) -> None:
        """Nothing is held but memory."""

    @torch.inference_mode()
    def prefill(self, prompt: tuple[int, ...]) -> float:
        """Seconds to the first token."""
        started = time.perf_counter()
        self.model(torch.tensor([prompt]), logits_to_keep=1).logits.argmax(-1).item()
        return time.perf_counter() - started


def _peer_values(config: ModelConfig, checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's config.json in transformers' words."""
    raw = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    values = {key: value for key, value in raw.items() if key not in NOT_FOR_PEER and not key.startswith("ngram")}
    rope, theta = config.rope, {"rope_theta": config.rope.theta, "rope_type": "default"}
    if rope.factor > 1:
        theta |= {
            "rope_type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_max_position,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "mscale": rope.mscale,
            "mscale_all_dim": rope.mscale_all_dim,
        }
    values = {key: value for key, value in values.items() if not key.startswith("emb_") and key != "zero_expert_type"}
    return values | {"rope_parameters": theta, "head_dim": config.qk_rope_head_dim}
