"""Attention of long steps by itself: our kernel with several tilings, and what the library has for the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from gpu_model import Device, Scale
from gpu_record import Rows
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from kodkod_engine.kernels.gpu.prefill_attention import TILINGS, Tiling, prefill_attention
from kodkod_engine.models.config import ModelConfig


class Case:
    """New tokens at the end of a context: random queries, keys and values of one block."""

    def __init__(self, config: ModelConfig, device: Device, new: int, context: int) -> None:
        dtype = torch.bfloat16 if device.is_cuda else torch.float32
        self.config, self.new, self.context = config, new, context
        heads, head = config.num_heads, config.qk_nope_head_dim + config.qk_rope_head_dim
        self.query = torch.randn(new, heads, head, dtype=dtype, device=device.torch)
        width = config.qk_nope_head_dim + config.v_head_dim
        self.per_head = torch.randn(context, heads, width, dtype=dtype, device=device.torch)
        self.rope_keys = torch.randn(context, config.latent_dim, dtype=dtype, device=device.torch)[
            :, config.kv_lora_rank :
        ]

    @property
    def flop(self) -> float:
        """Of the scores that the mask leaves and the values they weigh."""
        per_pair = 2 * (self.query.shape[2] + self.config.v_head_dim) * self.config.num_heads
        return per_pair * self.new * (self.context - self.new / 2)

    def ours(self, tiling: Tiling) -> Tensor:
        """[new, heads, value]."""
        return prefill_attention(self.query, self.per_head, self.rope_keys, self.config.score_scale, tiling)

    def library(self, backend: SDPBackend | None) -> Tensor:
        """The same by the library, the joining of keys counted; flash wants values as wide as keys."""
        nope, value = self.config.qk_nope_head_dim, self.config.v_head_dim
        keys, values = self.per_head.split([nope, value], dim=-1)
        keys = torch.cat([keys, self.rope_keys[:, None].expand(-1, self.config.num_heads, -1)], dim=-1)
        if backend is SDPBackend.FLASH_ATTENTION:
            values = F.pad(values, (0, keys.shape[-1] - value))
        heads_first = [part.transpose(0, 1)[None] for part in (self.query, keys, values)]
        scale = self.config.score_scale
        if backend is None or self.new != self.context:
            mask = causal_lower_right(self.new, self.context)
            out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=scale)
        else:
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(*heads_first, is_causal=True, scale=scale)
        return out[0].transpose(0, 1)[..., :value]


def forms(case: Case, device: Device) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """A name and the attention of each way."""
    for tiling in TILINGS if device.is_cuda else TILINGS[:1]:
        yield f"ours, {tiling}", lambda tiling=tiling: case.ours(tiling)
    if not device.is_cuda:
        yield "library", lambda: case.library(None)
        return
    yield "flash", lambda: case.library(SDPBackend.FLASH_ATTENTION)
    if case.new == case.context:
        yield "cudnn", lambda: case.library(SDPBackend.CUDNN_ATTENTION)


@torch.inference_mode()
def attention_rows(config: ModelConfig, device: Device, scale: Scale) -> Rows:
    """For a cold prompt and for a cached turn."""
    for new, context in ((scale.prompts[0], scale.prompts[0]), (scale.new[0], scale.cached + scale.new[0])):
        case, first = Case(config, device, new, context), None
        for name, attend in forms(case, device):
            row = {"form": name, "new": new, "context": context}
            try:
                out = attend().float()
                first = out if first is None else first
                spent = device.seconds(attend, repeats=3 if device.is_cuda else 1)
                error = float((out - first).norm() / first.norm())
                yield row | {"us": spent * 1e6, "flop_per_s": case.flop / spent, "relative_to_first": error}
            except RuntimeError as fault:
                yield row | {"fault": " ".join(str(fault).split())[:300]}
