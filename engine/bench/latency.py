"""Decode and prefill against transformers' `longcat_flash` on the same weights, and against the read limit.

    python engine/bench/latency.py [--quick]

Both hold the same random backbone of 1.25 billion parameters in bf16 (n-grams off, for transformers has none). Points
alternate between the two in one run; the ratio of medians is what counts. Ours is measured through the whole engine
(queue, scheduler, sampling, streaming), theirs as bare forward passes with its own cache and an argmax. The limit
of decoding is the bytes a step must read (weights of the experts it really hit included) at the read bandwidth of the
same run; that of a prompt is its products at the matrix rate of the same run.

Everything measured runs on the engine's thread (`kodkod_engine.benchmark.completions.on_engine_thread` says why).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import keep, matmul_rate, read_bandwidth, seconds, summary
from routing import experts_of_steps
from torch import Tensor

from kodkod_engine import load_engine
from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, collect
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.benchmark.completions import on_engine_thread
from kodkod_engine.models.config import BACKBONE_ARCHITECTURE
from kodkod_engine.models.random_checkpoint import TINY, YARN, write_random_checkpoint
from kodkod_engine.passing import in_passing

CONFIG: dict[str, Any] = {
    **TINY,
    "architectures": [BACKBONE_ARCHITECTURE],
    "vocab_size": 32_768,
    "hidden_size": 1536,
    "num_layers": 6,
    "num_attention_heads": 12,
    "q_lora_rank": 768,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "ffn_hidden_size": 3072,
    "expert_ffn_hidden_size": 512,
    "n_routed_experts": 64,
    "zero_expert_num": 32,
    "moe_topk": 12,
    "torch_dtype": "bfloat16",
}
CONTEXT_TOKENS = 256
DECODE_TOKENS = 6
DECODE_REPEATS = {1: 5, 4: 3, 16: 2}
PREFILL_REPEATS = {512: 5, 4096: 1}
"""By batch, by prompt length; transformers takes minutes for the last ones on a processor without bf16 arithmetic: it
rebuilds keys and values of the whole context in every step."""
WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Point:
    """One figure to measure: decode steps at a batch, or one prompt."""

    kind: str
    size: int
    repeats: int

    @property
    def name(self) -> str:
        return f"decode, batch {self.size}" if self.kind == "decode" else f"prefill, {self.size} tokens"


class Peer:
    """transformers' model on the tensors of our checkpoint."""

    def __init__(self, engine: NativeEngine) -> None:
        from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

        keys = ("architectures", "rope_scaling", "rope_theta", "zero_expert_type", "torch_dtype")
        values = {
            key: value for key, value in CONFIG.items() if key not in keys and not key.startswith(("ngram", "emb_"))
        }
        rope = {**YARN, "rope_type": "yarn", "rope_theta": CONFIG["rope_theta"]}
        config = LongcatFlashConfig(**values, rope_parameters=rope, head_dim=CONFIG["qk_rope_head_dim"])
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            self.model = LongcatFlashForCausalLM(config)
        torch.set_default_dtype(torch.float32)
        self._share(dict(engine.runner.loaded.model.checkpoint_slots()))
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(config)
        self.model.eval()

    def _share(self, slots: dict[str, Tensor]) -> None:
        """The very tensors where layouts agree, so that memory holds the weights once; the experts are copied."""
        for name, parameter in list(self.model.named_parameters()) + list(self.model.named_buffers()):
            if "rotary" in name:
                continue
            owner, leaf = self.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            value = slots[name].detach() if name in slots else self._fused(name, parameter, slots)
            value = value if "router" in name else value.to(torch.bfloat16)
            if leaf in owner._parameters:
                owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
            else:
                owner._buffers[leaf] = value

    @staticmethod
    def _fused(name: str, like: Tensor, slots: dict[str, Tensor]) -> Tensor:
        prefix, leaf = name.rsplit(".", 1)
        fused = torch.zeros(like.shape, dtype=torch.bfloat16)
        for expert in range(CONFIG["n_routed_experts"]):
            parts = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else ("down_proj",)
            fused[expert] = torch.cat([slots[f"{prefix}.{expert}.{part}.weight"] for part in parts])
        return fused

    @torch.inference_mode()
    def decode(self, batch: int) -> float:
        """Seconds per step, mean over the steps.

        Its cache is filled with random latents: computing a context takes it minutes, and values do not change the
        time.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(2 * CONFIG["num_layers"]):
            latents = torch.randn(batch, 1, CONTEXT_TOKENS, CONFIG["kv_lora_rank"]).bfloat16()
            rope_keys = torch.randn(batch, 1, CONTEXT_TOKENS, CONFIG["qk_rope_head_dim"]).bfloat16()
            cache.update(latents, rope_keys, layer)
        ids = torch.randint(3, CONFIG["vocab_size"], (batch, 1))

        def steps() -> None:
            step_ids = ids
            for _ in range(DECODE_TOKENS - 1):
                step_ids = self.model(step_ids, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)

        return seconds(steps) / (DECODE_TOKENS - 1)

    @torch.inference_mode()
    def prefill(self, prompt: tuple[int, ...]) -> float:
        """Seconds to the first token."""
        return seconds(lambda: self.model(torch.tensor([prompt]), logits_to_keep=1).logits.argmax(-1))


def complete(engine: NativeEngine, prompts: list[tuple[int, ...]], max_tokens: int) -> list[Completion]:
    """Run prompts side by side to their end."""
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)

    async def together() -> list[Completion]:
        streams = [engine.generate(GenerationRequest(prompt, sampling)) for prompt in prompts]
        return list(await asyncio.gather(*map(collect, streams)))

    return asyncio.run(together())


def decode(engine: NativeEngine, prompts: list[tuple[int, ...]]) -> float:
    """Seconds per step of all prompts decoding together.

    The prompts are computed first and found in the cache, so that all sequences start to decode in one step.
    """
    complete(engine, prompts, 1)
    done = complete(engine, prompts, DECODE_TOKENS)
    return max(completion.usage.decode_s for completion in done) / (DECODE_TOKENS - 1)


def prefill(engine: NativeEngine, prompt: tuple[int, ...]) -> float:
    """Seconds to the first token."""
    return complete(engine, [prompt], 1)[0].usage.prefill_s


class Prompts:
    """Random prompts, never the same twice, so that no prefix is found in the cache."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(7)

    def take(self, count: int, length: int) -> list[tuple[int, ...]]:
        ids = torch.randint(3, CONFIG["vocab_size"], (count, length), generator=self._generator)
        return [tuple(row) for row in ids.tolist()]


def counted_experts(engine: NativeEngine) -> AbstractContextManager[list[int]]:
    """Distinct real experts hit per layer and step, while inside."""
    return experts_of_steps(engine, lambda owner, chosen: int(chosen[chosen < owner.num_experts].unique().numel()))


def step_bytes(engine: NativeEngine, batch: int, distinct_experts: float) -> float:
    """Bytes one decode step has to read: dense weights once, each expert that is hit once, the KV of the context."""
    model = engine.runner.loaded.model
    experts = [layer.experts for layer in model.dual_layers]
    expert_bytes = sum(module.gate_up.nbytes + module.down.nbytes for module in experts)
    per_expert = expert_bytes / (len(experts) * CONFIG["n_routed_experts"])
    words = model.word_embedding
    assert words is not None
    dense = sum(parameter.nbytes for parameter in model.parameters()) - expert_bytes - words.nbytes
    context = batch * (CONTEXT_TOKENS + DECODE_TOKENS / 2) * engine.runner.layout.bytes_per_token
    return dense + len(experts) * distinct_experts * per_expert + context


def measure_point(engine: NativeEngine, peer: Peer, point: Point, prompts: Prompts) -> dict[str, Any]:
    """A-B-A-B, and the read rate right before each of ours: a shared machine's changes from minute to minute."""
    ours: list[float] = []
    theirs: list[float] = []
    rates: list[float] = []
    for _ in range(point.repeats):
        rates.append(on_engine_thread(engine, partial(read_bandwidth, repeats=3)))
        if point.kind == "decode":
            ours.append(decode(engine, prompts.take(point.size, CONTEXT_TOKENS)))
            theirs.append(on_engine_thread(engine, partial(peer.decode, point.size)))
        else:
            ours.append(prefill(engine, prompts.take(1, point.size)[0]))
            theirs.append(on_engine_thread(engine, partial(peer.prefill, prompts.take(1, point.size)[0])))
    mine, other = summary(ours), summary(theirs)
    return {
        "point": point.name,
        "repeats": point.repeats,
        "kodkod_s": mine,
        "transformers_s": other,
        "ratio": other["median"] / mine["median"],
        "tokens_per_s": point.size / mine["median"],
        "read_bytes_per_s": summary(rates),
    }


def measure(checkpoint: Path, points: list[Point]) -> Iterator[dict[str, Any]]:
    """The record after each point, warm, with the limits of this run."""
    engine = load_engine(checkpoint, device="cpu", max_cached_tokens=65_536)
    try:
        peer, prompts = on_engine_thread(engine, partial(Peer, engine)), Prompts()
        for _ in range(WARM_UPS):
            decode(engine, prompts.take(1, CONTEXT_TOKENS))
            on_engine_thread(engine, partial(peer.decode, 1))
            prefill(engine, prompts.take(1, CONTEXT_TOKENS)[0])
            on_engine_thread(engine, partial(peer.prefill, prompts.take(1, CONTEXT_TOKENS)[0]))
        rows: list[dict[str, Any]] = []
        record = {
            "what": f"decode at {CONTEXT_TOKENS} tokens of context, prefill cold; random backbone, bf16, n-grams off",
            "parameters": sum(parameter.numel() for parameter in engine.runner.loaded.model.parameters()),
            "fp32_matmul_flop_per_s": on_engine_thread(engine, partial(matmul_rate, torch.float32)),
            "bf16_matmul_flop_per_s": on_engine_thread(engine, partial(matmul_rate, torch.bfloat16)),
            "points": rows,
        }
        for point in points:
            row = measure_point(engine, peer, point, prompts)
            is_decode = point.kind == "decode"
            row |= _read_limit(engine, point, prompts, row) if is_decode else _product_limit(engine, point, record, row)
            rows.append(row)
            print(_line(row), flush=True)
            yield record
    finally:
        engine.close()


def _product_limit(engine: NativeEngine, point: Point, record: dict[str, Any], row: dict[str, Any]) -> dict[str, float]:
    """A prompt's products at the better of this run's rates; a real expert is hit as often as chance has it."""
    model = engine.runner.loaded.model
    experts = [layer.experts for layer in model.dual_layers]
    stacked = sum(module.gate_up.numel() + module.down.numel() for module in experts)
    words = 2 * CONFIG["vocab_size"] * CONFIG["hidden_size"]
    per_token = sum(parameter.numel() for parameter in model.parameters()) - stacked - words
    choices = CONFIG["n_routed_experts"] + CONFIG["zero_expert_num"]
    per_token += stacked * CONFIG["moe_topk"] / choices
    head_dims = CONFIG["qk_nope_head_dim"] + CONFIG["qk_rope_head_dim"] + CONFIG["v_head_dim"]
    attention = 2 * CONFIG["num_layers"] * CONFIG["num_attention_heads"] * head_dims * point.size
    rate = max(record["fp32_matmul_flop_per_s"], record["bf16_matmul_flop_per_s"])
    limit_s = point.size * (2 * per_token + attention) / rate
    return {"limit_s": limit_s, "fraction_of_limit": limit_s / row["kodkod_s"]["median"]}


def _read_limit(engine: NativeEngine, point: Point, prompts: Prompts, row: dict[str, Any]) -> dict[str, float]:
    with counted_experts(engine) as counts:
        complete(engine, prompts.take(point.size, 1), 4)
        per_step = counts[-len(engine.runner.loaded.model.dual_layers) :]
    distinct = sum(per_step) / len(per_step)
    limit_s = step_bytes(engine, point.size, distinct) / row["read_bytes_per_s"]["median"]
    return {"distinct_experts": distinct, "limit_s": limit_s, "fraction_of_limit": limit_s / row["kodkod_s"]["median"]}


def _line(row: dict[str, Any]) -> str:
    limit = f"  {row['fraction_of_limit']:.0%} of the limit"
    ours_ms, theirs_ms = row["kodkod_s"]["median"] * 1e3, row["transformers_s"]["median"] * 1e3
    times = f"kodkod {ours_ms:9.1f} ms  transformers {theirs_ms:9.1f} ms"
    return f"{row['point']:22} {times}  ratio {row['ratio']:5.2f}{limit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two repeats, short prompts; nothing is kept")
    quick = parser.parse_args().quick
    points = [Point("decode", batch, 2 if quick else repeats) for batch, repeats in DECODE_REPEATS.items()]
    points += [Point("prefill", length, repeats) for length, repeats in PREFILL_REPEATS.items()][: 1 if quick else None]
    with tempfile.TemporaryDirectory() as folder:
        print("writing a random checkpoint of 1.25 billion parameters", flush=True)
        write = partial(write_random_checkpoint, folder, CONFIG, dtype=torch.bfloat16, with_mtp=False)
        checkpoint = in_passing(write)
        for record in measure(checkpoint, points):
            if not quick:
                print(f"kept in {keep('latency', record).name}")


if __name__ == "__main__":
    main()
