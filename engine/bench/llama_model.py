"""A GGUF of random weights in the published model's proportions, for llama.cpp; run by `llama_peer.py`, needs `gguf`.

    PEER/bin/python engine/bench/llama_model.py OUT '{"layers": 4, "experts": 256, "packing": "q4_0", "config": {}}'

llama.cpp does not know LongCat-Flash. Its architecture `deepseek2` has the same latent attention, and a dual layer is
two of its layers: one with a dense network, and one with experts and shared experts that together are as wide as the
other dense network. So a token passes as many matrices of the same shapes as in ours. What differs: 8 experts for
every token, ours being 8 on average of 12 places that also hold identities; all dense layers come first; no N-gram
tables. Weights are random blocks of trained scale; the head is in 8 bits and what rebuilds keys and values in 16, as
ours are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS: dict[str, tuple[int, int]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q4_0": (32, 18),
    "q4_k": (256, 144),
}
"""By format: values per block, bytes per block."""
UNIFORM_SPREAD = {"q8_0": 73.3, "q4_0": 4.18, "q4_k": 4.61}
"""Root mean square of the codes written."""
Q4_K_SCALE = 32
CHUNK_BLOCKS = 1 << 21
NOT_LAYERS = (26, 27, 47, 48)
"""Numbers of layers by which llama.cpp takes a model of this architecture for a certain published one."""


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: its shape as numpy has it, and how much of it one token reads."""

    name: str
    shape: tuple[int, ...]
    format: str
    part: str
    share: float = 1.0

    @property
    def num_bytes(self) -> int:
        """Of the whole tensor."""
        values, size = BLOCKS[self.format]
        return prod(self.shape) // values * size


@dataclass(frozen=True)
class Shape:
    """What is asked for: `config` is the published model's, `layers` counts dual layers."""

    layers: int
    experts: int
    packing: str
    config: dict[str, Any]

    @property
    def experts_used(self) -> int:
        """Real experts of a token: its places, less those that fall on identities."""
        config = self.config
        choices = config["n_routed_experts"] + config["zero_expert_num"]
        return int(config["moe_topk"] * config["n_routed_experts"] // choices)

    @property
    def shared_experts(self) -> int:
        """As wide together as a dense network."""
        return int(self.config["ffn_hidden_size"] // self.config["expert_ffn_hidden_size"])

    def tensors(self) -> Iterator[Planned]:
        """All of the file, in its order."""
        hidden, words = self.config["hidden_size"], self.config["vocab_size"]
        yield Planned("token_embd.weight", (words, hidden), "q4_0", "word", 1 / words)
        yield Planned("output_norm.weight", (hidden,), "f32", "norm")
        yield Planned("output.weight", (words, hidden), "q8_0", "head")
        for layer in range(2 * self.layers):
            for planned in (*self._attention(), *(self._dense() if layer < self.layers else self._experts())):
                yield Planned(
                    f"blk.{layer}.{planned.name}.weight", planned.shape, planned.format, planned.part, planned.share
                )

    def _attention(self) -> Iterator[Planned]:
        config = self.config
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        query, latent = config["q_lora_rank"], config["kv_lora_rank"]
        nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        for name, width in (("attn_norm", hidden), ("attn_q_a_norm", query), ("attn_kv_a_norm", latent)):
            yield Planned(name, (width,), "f32", "norm")
        yield Planned("attn_q_a", (query, hidden), self.packing, "attention")
        yield Planned("attn_q_b", (heads * (nope + rope), query), self.packing, "attention")
        yield Planned("attn_kv_a_mqa", (latent + rope, hidden), self.packing, "attention")
        yield Planned("attn_k_b", (heads, latent, nope), "bf16", "attention")
        yield Planned("attn_v_b", (heads, value, latent), "bf16", "attention")
        yield Planned("attn_output", (hidden, heads * value), self.packing, "attention")
        yield Planned("ffn_norm", (hidden,), "f32", "norm")

    def _dense(self, suffix: str = "") -> Iterator[Planned]:
        hidden, width = self.config["hidden_size"], self.config["ffn_hidden_size"]
        yield Planned("ffn_gate" + suffix, (width, hidden), self.packing, "dense")
        yield Planned("ffn_up" + suffix, (width, hidden), self.packing, "dense")
        yield Planned("ffn_down" + suffix, (hidden, width), self.packing, "dense")

    def _experts(self) -> Iterator[Planned]:
        hidden, width = self.config["hidden_size"], self.config["expert_ffn_hidden_size"]
        share = self.experts_used / self.experts
        yield Planned("ffn_gate_inp", (self.experts, hidden), "f32", "router")
        yield Planned("ffn_gate_exps", (self.experts, width, hidden), self.packing, "experts", share)
        yield Planned("ffn_up_exps", (self.experts, width, hidden), self.packing, "experts", share)
        yield Planned("ffn_down_exps", (self.experts, hidden, width), self.packing, "experts", share)
        yield from self._dense("_shexp")

    def step_bytes(self, context_tokens: float) -> dict[str, float]:
        """Bytes that one token has to read, by part."""
        parts: dict[str, float] = {}
        for tensor in self.tensors():
            parts[tensor.part] = parts.get(tensor.part, 0.0) + tensor.num_bytes * tensor.share
        row = 2 * (self.config["kv_lora_rank"] + self.config["qk_rope_head_dim"])
        return parts | {"kv": 2 * self.layers * context_tokens * row}


def random_blocks(tensor: Planned, count: int, generator: np.random.Generator) -> np.ndarray:
    """Bytes [count, bytes per block] of random values with mean zero that keep the variance of their input."""
    size = BLOCKS[tensor.format][1]
    codes: np.ndarray = np.frombuffer(generator.bytes(count * size), np.uint8).reshape(count, size).copy()
    inputs = 1 if tensor.part == "word" else tensor.shape[-1]
    scale = 1 / (UNIFORM_SPREAD[tensor.format] * inputs**0.5)
    if tensor.format == "q8_0":
        codes[codes == 0x80] = 0  # -128 has no counterpart
    if tensor.format == "q4_0":
        high, low = codes & 0xF0, codes & 0x0F
        high[high == 0], low[low == 0] = 0x80, 0x08  # nor has -8, whose code is 0
        codes = high | low
    if tensor.format == "q4_k":
        least = np.array([scale / Q4_K_SCALE, 7.5 * scale / Q4_K_SCALE], np.float16)
        codes[:, :4] = least.view(np.uint8)
        # Eight scales and eight offsets of 6 bits, all of them 32: the high bits of the last four lie over the first.
        codes[:, 4:16] = [0xA0] * 8 + [0] * 4
    else:
        codes[:, :2] = np.array([scale], np.float16).view(np.uint8)
    return codes


def random_values(tensor: Planned, generator: np.random.Generator) -> np.ndarray:
    """All of a tensor as bytes: norms near one, plain matrices by their input's size, packed ones in blocks."""
    values, size = BLOCKS[tensor.format]
    if values == 1:
        plain = generator.standard_normal(tensor.shape, np.float32)
        plain = 1 + 0.1 * plain if len(tensor.shape) == 1 else plain / tensor.shape[-1] ** 0.5
        if tensor.format == "bf16":
            return (plain.view(np.uint32) >> 16).astype(np.uint16)
        return plain.astype(np.float16 if tensor.format == "f16" else np.float32)
    out = np.empty((prod(tensor.shape) // values, size), np.uint8)
    for first in range(0, len(out), CHUNK_BLOCKS):
        out[first : first + CHUNK_BLOCKS] = random_blocks(tensor, len(out[first : first + CHUNK_BLOCKS]), generator)
    return out


def describe(writer: Any, shape: Shape) -> None:
    """What llama.cpp wants to be told."""
    config = shape.config
    latent, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_context_length(8192)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(2 * shape.layers)
    writer.add_leading_dense_block_count(shape.layers)
    writer.add_feed_forward_length(config["ffn_hidden_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(rope)
    writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + rope)
    writer.add_value_length(latent)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.experts_used)
    writer.add_expert_shared_count(shape.shared_experts)
    writer.add_expert_feed_forward_length(config["expert_ffn_hidden_size"])
    writer.add_expert_weights_scale(float(config["routed_scaling_factor"]))


def write(path: Path, shape: Shape) -> None:
    """One tensor in memory at a time."""
    import gguf  # type: ignore[import-not-found, unused-ignore]  # in the peer's environment alone

    assert 2 * shape.layers not in NOT_LAYERS, "llama.cpp knows a published model by that number of layers"
    tensors = list(shape.tensors())
    writer = gguf.GGUFWriter(path, "deepseek2")
    describe(writer, shape)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.format.upper()]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.default_rng(0)
    for tensor in tensors:
        writer.write_tensor_data(random_values(tensor, generator))
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Shape(**json.loads(sys.argv[2])))
