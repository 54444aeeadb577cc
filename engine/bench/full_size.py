"""The published model's whole shape on this machine: 68.5 billion parameters, 4-bit weights, tables on the disk.

    python engine/bench/full_size.py [--layers 14] [--folder DIR] [--precision int4] [--weights mapped]

Weights are random and written directly in converted form (20 GB for all 14 layers), the twelve tables are sparse files
of their full size (63 GB that take no room), mapped and read row by row. What counts is that it loads, what it needs,
and how near decoding comes to the read rate of the same run: by the clock, and by processor time with --threads 1,
which counts when other programs run. The folder is deleted afterwards unless --keep is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import keep, read_bandwidth, seconds
from routing import experts_of_steps
from scratch import scratch

from kodkod_engine import load_engine
from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, collect
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.benchmark.completions import on_engine_thread
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.config import load_config
from kodkod_engine.models.convert import WeightFile, plan_weight_files
from kodkod_engine.models.converted import ConvertedFile, Manifest
from kodkod_engine.models.loading import build_model
from kodkod_engine.models.packing import pack_model
from kodkod_engine.models.random_checkpoint import TINY
from kodkod_engine.models.safetensors_writer import PlannedTensor, SafetensorsWriter, file_bytes, header_bytes
from kodkod_engine.passing import in_passing

CONFIG: dict[str, Any] = {
    **TINY,
    "vocab_size": 131_072,
    "hidden_size": 3072,
    "num_layers": 14,
    "num_attention_heads": 32,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "ffn_hidden_size": 6144,
    "expert_ffn_hidden_size": 1024,
    "n_routed_experts": 256,
    "zero_expert_num": 128,
    "moe_topk": 12,
    "ngram_vocab_size_ratio": 78,
    "torch_dtype": "bfloat16",
}
FP8_SPREAD = 100.1
"""Root mean square of all e4m3 numbers."""
BIAS_SPREAD = 1e-4
"""Of what steers the choice of experts: far less than a probability, as where training has spread the load."""
NIBBLE_SPREAD = 4.18
"""Root mean square of the nibbles written."""
PROMPT_TOKENS = 32
LONG_PROMPT_TOKENS = 512
DECODE_TOKENS = 24
REPEATS = 5
MAX_CACHED_TOKENS = 4096


def write_model(folder: Path, layers: int, precision: str, **changes: Any) -> None:
    """A converted checkpoint with random weights of trained scale and tables of holes; changes are to the config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes, "num_layers": layers}), encoding="utf-8")
    precisions = Precisions.of(precision)
    model, _ = build_model(
        load_config(folder), with_mtp=False, dtype=torch.bfloat16, activation_dtype=torch.float32, device="meta"
    )
    pack_model(model, None, precisions)
    spec = load_config(folder).ngram
    assert spec is not None
    generator = torch.Generator().manual_seed(0)
    files: dict[str, ConvertedFile] = {}
    for file in plan_weight_files(model, None):
        print(f"writing {file.name}", flush=True)
        files[file.name] = write_random(folder / file.name, file, generator)
    for index, rows in enumerate(spec.moduli):
        name = f"model.ngram_embeddings.embedders.{index}.weight"
        table = [PlannedTensor(name, torch.bfloat16, (rows, spec.table_width))]
        files[f"table-{index:02d}.safetensors"] = write_holes(folder / f"table-{index:02d}.safetensors", table)
    parts = {part: getattr(precisions, part) for part in ("experts", "attention", "dense", "head")}
    Manifest(source="random", has_mtp=False, is_complete=True, files=files, **parts).save(folder)


def write_random(path: Path, file: WeightFile, generator: torch.Generator) -> ConvertedFile:
    """Values of trained scale: a matrix keeps the variance of its input."""
    tensors = file.tensors()
    inputs = {tensor.name: tensor.shape[-1] for tensor in tensors}
    with SafetensorsWriter(path, tensors) as writer:
        for tensor in tensors:
            # By the leading dimension, so that 256 experts need not be in memory at once.
            rows = tensor.shape[0] if len(tensor.shape) < 3 else 32
            for first in range(0, tensor.shape[0], rows):
                shape = (min(rows, tensor.shape[0] - first), *tensor.shape[1:])
                writer.write_tensor(random_values(tensor, shape, inputs, generator))
    return ConvertedFile(num_bytes=file_bytes(tensors), sha256=writer.sha256)


def random_values(
    tensor: PlannedTensor, shape: tuple[int, ...], inputs: dict[str, int], generator: torch.Generator
) -> torch.Tensor:
    """Codes with mean zero; scales to go with them; norms near one; matrices by their input's size."""
    if tensor.dtype in (torch.uint8, torch.int8):
        codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return (without_lowest_nibbles(codes) if tensor.dtype == torch.uint8 else codes).view(tensor.dtype)
    if tensor.dtype == torch.float8_e4m3fn:
        bits = torch.randint(0, 254, shape, generator=generator, dtype=torch.uint8)
        return (bits + (bits >= 127)).view(tensor.dtype)  # all but the two codes for NaN
    if tensor.name.endswith(".scales"):
        codes = tensor.name.removesuffix("scales") + "codes"
        groups, code_bytes = tensor.shape[-1], inputs[codes]
        is_nibbles = code_bytes * 2 == groups * 128
        spread, width = (NIBBLE_SPREAD, groups * 128) if is_nibbles else (73.9, code_bytes)
        if tensor.dtype == torch.float32:
            spread = FP8_SPREAD
        return torch.full(shape, 1 / (spread * width**0.5), dtype=tensor.dtype)
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        is_bias = tensor.name.endswith("selection_bias")
        return (values * BIAS_SPREAD if is_bias else 1 + 0.1 * values).to(tensor.dtype)
    return (values if "word" in tensor.name else values / shape[-1] ** 0.5).to(tensor.dtype)


def without_lowest_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """-8 as 0 in both halves of each byte, in place.

    A mean that is not zero grows from matrix to matrix until all tokens look alike and crowd on the same few experts,
    which makes prompts cheap: of 256 they hit 49 in the fourth layer.
    """
    codes -= ((codes & 0x0F) == 0x08) * torch.tensor(0x08, dtype=torch.uint8)
    codes -= ((codes & 0xF0) == 0x80) * torch.tensor(0x80, dtype=torch.uint8)
    return codes


def write_holes(path: Path, tensors: list[PlannedTensor]) -> ConvertedFile:
    """A file of its full size that takes no room: its rows read as zeros."""
    with path.open("wb") as handle:
        handle.write(header_bytes(tensors))
        handle.truncate(file_bytes(tensors))
    return ConvertedFile(num_bytes=file_bytes(tensors), sha256="")


def complete(engine: NativeEngine, prompt: tuple[int, ...], max_tokens: int) -> Completion:
    request = GenerationRequest(prompt, SamplingParams(max_tokens=max_tokens, ignore_eos=True))
    return asyncio.run(collect(engine.generate(request)))


def counted_experts(engine: NativeEngine) -> AbstractContextManager[list[int]]:
    """Real experts chosen per layer and token, while inside."""
    return experts_of_steps(engine, lambda owner, chosen: int((chosen < owner.num_experts).sum()))


def step_bytes(engine: NativeEngine, experts_per_token: float, context_tokens: float) -> dict[str, float]:
    """Bytes one token has to read, by part; word rows and table rows are nothing beside them."""
    model = engine.runner.loaded.model
    parts = {"experts": 0.0, "attention": 0.0, "dense": 0.0, "router": 0.0}
    for layer in model.dual_layers:
        each = sum(home.nbytes for home in layer.experts.homes) / layer.experts.num_experts
        parts["experts"] += each * experts_per_token
        parts["router"] += layer.experts.router.weight.nbytes
        for half in (layer.first, layer.second):
            parts["attention"] += sum(parameter.nbytes for parameter in half.attention.parameters())
            parts["dense"] += sum(parameter.nbytes for parameter in half.dense.parameters())
    assert model.lm_head is not None
    parts["head"] = model.lm_head.home.nbytes
    assert model.embedding is not None
    parts["projection"] = model.embedding.projection.weight.nbytes
    parts["kv"] = context_tokens * engine.runner.layout.bytes_per_token
    return parts


def memory() -> dict[str, float]:
    """Of this process in GB: now by kind, and the most it had."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    kinds = {"anonymous": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
    return {f"{name}_gb": int(lines[key].split()[0]) * 1024 / 1e9 for name, key in kinds.items()}


def processor_seconds(work: Callable[[], object]) -> float:
    """Of all threads of this process: what others do beside it counts for less than in wall-clock time."""
    started = time.process_time()
    work()
    return time.process_time() - started


def faults() -> tuple[int, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_majflt, usage.ru_minflt


def measure(engine: NativeEngine) -> dict[str, Any]:
    prompts = random_prompts()
    first_s = seconds(lambda: complete(engine, prompts(PROMPT_TOKENS), 2))
    experts = experts_per_token(engine, prompts(PROMPT_TOKENS))
    parts = step_bytes(engine, experts, PROMPT_TOKENS + DECODE_TOKENS / 2)
    values = on_engine_thread(engine, partial(torch.ones, 1 << 27))
    runs = [decode(engine, prompts(PROMPT_TOKENS), values, sum(parts.values())) for _ in range(REPEATS)]
    # The same sum over another piece of memory takes up to 1.6 times as long at times: the best rate is the ceiling.
    best_rate = max(run["read_bytes_per_s"] for run in runs)
    for run in runs:
        run["fraction_of_limit"] = sum(parts.values()) * run["tokens_per_s"] / best_rate
    long_s = [complete(engine, prompts(LONG_PROMPT_TOKENS), 1).usage.prefill_s for _ in range(3)]
    print(f"{LONG_PROMPT_TOKENS} tokens of prompt: {', '.join(f'{one:.2f}' for one in long_s)} s", flush=True)
    return {
        "first_two_tokens_s": first_s,
        "prompt_tokens_per_s": LONG_PROMPT_TOKENS / statistics.median(long_s),
        "real_experts_per_token": experts,
        "bytes_per_token": parts,
        "runs": runs,
        "median": {key: statistics.median(run[key] for run in runs) for key in runs[0]},
        "memory": memory(),
    }


def random_prompts() -> Callable[[int], tuple[int, ...]]:
    """Makes one of so many tokens, each time another."""
    generator = torch.Generator().manual_seed(7)
    return lambda length: tuple(torch.randint(3, CONFIG["vocab_size"], (length,), generator=generator).tolist())


def experts_per_token(engine: NativeEngine, prompt: tuple[int, ...]) -> float:
    """Real ones that a layer chooses for the last of three tokens."""
    with counted_experts(engine) as counts:
        complete(engine, prompt, 3)
    return statistics.mean(counts[-len(engine.runner.loaded.model.dual_layers) :])


def decode(engine: NativeEngine, prompt: tuple[int, ...], values: torch.Tensor, token_bytes: float) -> dict[str, float]:
    """One run of decoding, and how fast memory was read right before it.

    Args:
        engine: with the model.
        prompt: new to it.
        values: that are summed to see what a second of a processor reads.
        token_bytes: that a token has to read.
    """
    rate = on_engine_thread(engine, partial(read_bandwidth, num_bytes=1 << 29, repeats=3))
    cpu_rate = values.nbytes / on_engine_thread(engine, partial(processor_seconds, values.sum))
    complete(engine, prompt, 1)  # found in the cache afterwards: what follows is decoding
    before, started = faults(), time.process_time()
    usage = complete(engine, prompt, DECODE_TOKENS).usage
    after, step_cpu_s = faults(), (time.process_time() - started) / DECODE_TOKENS
    run = {
        "tokens_per_s": (DECODE_TOKENS - 1) / usage.decode_s,
        "read_bytes_per_s": rate,
        "processor_s_per_token": step_cpu_s,
        "read_bytes_per_processor_s": cpu_rate,
        "fraction_by_processor_time": token_bytes / cpu_rate / step_cpu_s,
        "major_faults_per_token": (after[0] - before[0]) / DECODE_TOKENS,
        "minor_faults_per_token": (after[1] - before[1]) / DECODE_TOKENS,
    }
    print(json.dumps(run), flush=True)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--weights", default="mapped", choices=["mapped", "resident"])
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/kodkod-full-size"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--keep", action="store_true", help="leave the folder for another run")
    options = parser.parse_args()
    what = f"the full size, {options.layers} layers, {options.precision}"
    with scratch(options.folder, what, keep=options.keep):
        if not (options.folder / "converted.json").exists():
            in_passing(partial(write_model, options.folder, options.layers, options.precision))
            os.sync()  # what is still on its way to the disk takes memory's time from what is measured
        record = recorded(options)
        print(json.dumps(record["median"], indent=1))
        precision = "" if options.precision == "int4" else f"-{options.precision}"
        print(f"kept in {keep(f'full-size-{options.weights}-{options.layers}{precision}', record).name}")


def recorded(options: argparse.Namespace) -> dict[str, Any]:
    """Load the model that is in the folder, and measure it."""
    started = time.perf_counter()
    engine = load_engine(
        options.folder,
        device="cpu",
        weights=options.weights,
        ngram_tables="mapped",
        max_cached_tokens=MAX_CACHED_TOKENS,
        threads=options.threads,
    )
    load_s = time.perf_counter() - started
    print(f"loaded in {load_s:.1f} s", flush=True)
    told = {
        "what": f"published shape, {options.layers} of 14 layers, {options.precision}, {options.weights} weights, "
        "mapped tables, batch 1, random weights",
        "machine_memory_gb": _memory_gb(),
        "threads": options.threads or torch.get_num_threads(),
        "load_s": load_s,
        **measure(engine),
    }
    engine.close()
    return told


def _memory_gb() -> float:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return int(lines[0].split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
