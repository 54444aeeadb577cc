"""Everything the model's speed on one CUDA device is judged by, in a few runs of one script.

    python engine/bench/gpu.py [--precision bf16] [--tables resident|mapped] [--layers 14]   on the device
    TRITON_INTERPRET=1 python engine/bench/gpu.py --dry-run      anywhere: every line of it, tiny

The model has the published shape and random weights made on the device; nothing is read from disk, and mapped tables
are a sparse file. Ceilings are measured first, then each kernel against the bytes it reads, then decoding at batch 1,
4, 16 and 32 and contexts of 1k to 128k, prefill, a cached turn, and what tables off the device cost. Each figure comes
with the limit that follows from the rates of the same run. The record is written after every part, so a run that is
cut off leaves what it had.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from full_size import CONFIG, write_holes
from measure import keep
from torch import Tensor, nn

from kodkod_engine.benchmark.ceilings import Ceilings, measure_ceilings
from kodkod_engine.benchmark.gpu_kernels import graphed, kernel_cases
from kodkod_engine.core.runner import ModelRunner, build_batch
from kodkod_engine.core.step import TokenRun
from kodkod_engine.layers.mapped_rows import MappedRows
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.checkpoint import Checkpoint
from kodkod_engine.models.config import ModelConfig, load_config
from kodkod_engine.models.gpu_step import GpuStep
from kodkod_engine.models.loading import LoadedModel, build_model
from kodkod_engine.models.packing import pack_model
from kodkod_engine.models.safetensors_writer import PlannedTensor
from kodkod_engine.placement.sizes import BYTES_PER_WEIGHT, part_sizes

BATCHES, CONTEXTS, PROMPTS = (1, 4, 16, 32), (1024, 8192, 32_768, 131_072), (8192, 32_768)
CACHED, NEW = 60_000, 500
STEPS, WARM_STEPS = 48, 16
CHUNK_TOKENS = 4096
BLOCK_SIZE = 16

DRY = {
    "vocab_size": 128,
    "hidden_size": 48,
    "num_layers": 1,
    "num_attention_heads": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "ffn_hidden_size": 32,
    "expert_ffn_hidden_size": 16,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "moe_topk": 3,
    "ngram_vocab_size_ratio": 3,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    batches: tuple[int, ...] = BATCHES
    contexts: tuple[int, ...] = CONTEXTS
    prompts: tuple[int, ...] = PROMPTS
    cached: int = CACHED
    new: int = NEW
    steps: int = STEPS
    warm_steps: int = WARM_STEPS
    chunk_tokens: int = CHUNK_TOKENS


DRY_SCALE = Scale((1, 2), (32,), (40,), 48, 8, 3, 1, 16)


class Device:
    """The device under test: time on it, and its name."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)

    def seconds(self, work: Callable[[], object], repeats: int = 1) -> float:
        """Wall-clock seconds of one of several runs, the device's queue empty before and after."""
        self.wait()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        self.wait()
        return (time.perf_counter() - started) / repeats

    def wait(self) -> None:
        if self.torch.type == "cuda":
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        if self.torch.type != "cuda":
            return {"name": "Triton's interpreter: times mean nothing"}
        facts = torch.cuda.get_device_properties(0)
        return {"name": facts.name, "memory_bytes": facts.total_memory, "cuda": torch.version.cuda}


def build(folder: Path, values: dict[str, Any], options: argparse.Namespace, device: Device) -> LoadedModel:
    """The model on the device, its weights made there; tables there too, or in a sparse file."""
    config = _config(folder, values)
    dtype = torch.float32 if options.dry_run else torch.bfloat16
    precisions = Precisions.of(options.precision)
    model, _ = build_model(config, with_mtp=False, dtype=dtype, activation_dtype=dtype, device="meta")
    pack_model(model, None, precisions)
    if options.tables == "mapped":
        assert model.embedding is not None
        model.embedding.move_tables(MappedRows(model.embedding.spec, _holes(folder, config)))
    model.to_empty(device=device.torch)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            _fill(module, name, parameter)
    return LoadedModel(config, model, None, dtype, dtype, device.torch, precisions)


def _config(folder: Path, values: dict[str, Any]) -> ModelConfig:
    import json

    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return load_config(folder)


def _holes(folder: Path, config: ModelConfig) -> Checkpoint:
    spec = config.ngram
    assert spec is not None
    names = []
    for index, rows in enumerate(spec.moduli):
        names.append(f"table-{index:02d}.safetensors")
        name = f"model.ngram_embeddings.embedders.{index}.weight"
        write_holes(folder / names[-1], [PlannedTensor(name, torch.bfloat16, (rows, spec.table_width))])
    return Checkpoint(folder, names)


def _fill(module: nn.Module, name: str, parameter: Tensor) -> None:
    """Trained scale: a matrix keeps the variance of its input; codes are any, norms one."""
    if parameter.dtype in (torch.uint8, torch.int8):
        parameter.view(torch.uint8).random_(0, 256)
    elif name == "scales":
        bits = 4 if isinstance(getattr(module, "bits", 8), int) and module.bits == 4 else 8
        parameter.fill_(1 / ((4.61 if bits == 4 else 73.9) * (parameter.shape[-1] * 128) ** 0.5))
    elif parameter.dim() == 1:
        parameter.fill_(0.0 if name == "selection_bias" else 1.0)
    else:
        is_rows = name == "word" or parameter.shape[-1] == 256
        parameter.normal_(std=1.0 if is_rows else parameter.shape[-1] ** -0.5)


class Player:
    """Sequences on a runner, their contexts taken as given: the cache is filled with noise, which costs the same."""

    def __init__(self, loaded: LoadedModel, num_tokens: int, device: Device) -> None:
        self.runner = ModelRunner(loaded, -(-num_tokens // BLOCK_SIZE) + 64, BLOCK_SIZE)
        self.runner.cache._latents.normal_()
        self.vocab_size, self.device = loaded.config.vocab_size, device
        self.fused = GpuStep(loaded.model, self.runner.cache)

    def runs(self, batch: int, start: int, new: int) -> list[TokenRun]:
        each = -(-(start + new) // BLOCK_SIZE)
        ids = torch.randint(3, self.vocab_size, (batch, new)).tolist()
        blocks = [tuple(range(index * each, (index + 1) * each)) for index in range(batch)]
        return [
            TokenRun(str(index), tuple(ids[index]), (5, 6, 7), start, blocks[index], None) for index in range(batch)
        ]

    @torch.inference_mode()
    def decode(self, batch: int, context: int, scale: Scale) -> float:
        """Median seconds of a step, forward, head and argmax; the first ones are not counted."""
        times = []
        for step in range(scale.steps):
            runs = self.runs(batch, context + step, 1)
            times.append(self.device.seconds(lambda runs=runs: self.step(runs)))
        return statistics.median(times[scale.warm_steps :])

    def step(self, runs: list[TokenRun]) -> list[int]:
        batch = build_batch(runs, self.runner)
        model = self.runner.loaded.model
        hidden = self.fused(batch) if self.fused.admits(batch) else model(batch, self.runner.cache)
        ids: list[int] = model.logits(hidden).argmax(dim=-1).tolist()
        return ids

    @torch.inference_mode()
    def prefill(self, start: int, new: int, chunk: int) -> float:
        """Seconds for new tokens behind a context, in chunks."""

        def work() -> None:
            for first in range(0, new, chunk):
                hidden = self.runner.forward(self.runs(1, start + first, min(chunk, new - first))).hidden[0]
            self.runner.loaded.model.logits(hidden[-1:]).argmax().item()

        work()
        return self.device.seconds(work)


def kernel_table(loaded: LoadedModel, device: Device, scale: Scale, rate: float) -> Iterator[dict[str, Any]]:
    """Each kernel at the model's shapes: bytes it must read, seconds of a call, fraction of the read rate."""
    if loaded.precisions.is_packed:
        return
    for tokens in (batch for batch in scale.batches if batch <= 4):
        for context in scale.contexts:
            player = Player(loaded, context + tokens, device)
            for case in kernel_cases(player.fused, tokens, context):
                if context != scale.contexts[0] and "latent attention" not in case.name:
                    continue
                work = graphed(case.work)
                work()
                spent = device.seconds(work, repeats=5)
                fraction = case.num_bytes / spent / rate
                seconds = spent / case.calls
                yield {"kernel": case.name, "tokens": tokens, "bytes": case.num_bytes, "seconds": seconds} | {
                    "fraction": fraction
                }


def limit_s(loaded: LoadedModel, ceilings: Ceilings, batch: int, context: int) -> float:
    """The bytes of a step over the read rate; experts hit evenly, each once."""
    sizes, precision = part_sizes(loaded.config), str(loaded.precisions.experts)
    num_experts = loaded.config.num_experts
    distinct = num_experts * (1 - (1 - sizes.active_experts / num_experts) ** batch)
    more = (distinct - sizes.active_experts) * sizes.num_layers * sizes.expert * BYTES_PER_WEIGHT[precision]
    cache = batch * context * sizes.latent_values * loaded.activation_dtype.itemsize
    return (sizes.read_bytes(precision, 0, 0) + more + cache) / ceilings.read_bytes_per_s


def decode_table(loaded: LoadedModel, ceilings: Ceilings, device: Device, scale: Scale) -> Iterator[dict[str, Any]]:
    for context in scale.contexts:
        for batch in scale.batches:
            try:
                player = Player(loaded, batch * (context + scale.steps), device)
                spent = player.decode(batch, context, scale)
            except torch.cuda.OutOfMemoryError:
                yield {"batch": batch, "context": context, "fault": "the cache does not fit"}
                continue
            limit = limit_s(loaded, ceilings, batch, context)
            yield {
                "batch": batch,
                "context": context,
                "tokens_per_s": batch / spent,
                "limit_tokens_per_s": batch / limit,
                "fraction": limit / spent,
                "fused_step": bool(player.fused._shapes),
            }


def prefill_table(loaded: LoadedModel, device: Device, scale: Scale) -> Iterator[dict[str, Any]]:
    for length in scale.prompts:
        player = Player(loaded, length, device)
        yield {"prefill": length, "seconds": player.prefill(0, length, scale.chunk_tokens)}
    player = Player(loaded, scale.cached + scale.new, device)
    yield {
        "cached": scale.cached,
        "new": scale.new,
        "seconds": player.prefill(scale.cached, scale.new, scale.chunk_tokens),
    }


def check_step(loaded: LoadedModel, device: Device) -> dict[str, float]:
    """The fused step against the modules on this very device: the largest difference of hidden states and its scale."""
    player = Player(loaded, 256, device)
    batch = build_batch(player.runs(2, 64, 3), player.runner)
    with torch.inference_mode():
        fused = GpuStep(loaded.model, player.runner.cache)(batch).clone()
        hook, type(loaded.model)._fused_step = type(loaded.model)._fused_step, lambda *_args: None  # type: ignore[method-assign]
        try:
            plain = loaded.model(batch, player.runner.cache)
        finally:
            type(loaded.model)._fused_step = hook  # type: ignore[method-assign]
    return {"largest_difference": float((fused - plain).abs().max()), "spread": float(plain.std())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "int8", "int4"])
    parser.add_argument("--tables", default="mapped", choices=["resident", "mapped"])
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--dry-run", action="store_true", help="tiny, in Triton's interpreter; nothing is kept")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --dry-run goes through the script without one")
    device = Device("cpu" if options.dry_run else "cuda")
    scale = DRY_SCALE if options.dry_run else Scale()
    values = {**CONFIG, "num_layers": options.layers} | (DRY if options.dry_run else {})
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        loaded = build(Path(folder), values, options, device)
        for record in measure(loaded, device, scale, options):
            if not options.dry_run:
                keep(f"gpu-{options.precision}-{options.tables}", record)


def measure(loaded: LoadedModel, device: Device, scale: Scale, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The record after each part."""
    size = 1 << 20 if options.dry_run else 1 << 32
    ceilings = measure_ceilings(device.torch, num_bytes=size)
    record: dict[str, Any] = {
        "what": f"published shape, {options.layers} layers, {options.precision}, {options.tables} tables, random",
        "device": device.facts(),
        "ceilings": asdict(ceilings),
    }
    if not loaded.precisions.is_packed:
        record["fused_against_plain"] = check_step(loaded, device)
        print(record["fused_against_plain"], flush=True)
    yield record
    parts = {
        "kernels": kernel_table(loaded, device, scale, ceilings.read_bytes_per_s),
        "decode": decode_table(loaded, ceilings, device, scale),
        "prefill": prefill_table(loaded, device, scale),
    }
    for name, rows in parts.items():
        record[name] = []
        for row in rows:
            record[name].append(row)
            print(name, row, flush=True)
            yield record


if __name__ == "__main__":
    main()
