"""The published shape with random weights made on the device, and sequences played on it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from full_size import CONFIG
from torch import Tensor, nn

from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.kernels.gpu.interpreter import mend
from kodkod_engine.layers.ngram_embedding import NgramEmbedding, ResidentRows
from kodkod_engine.layers.packed import PackedParameter, Precisions
from kodkod_engine.layers.step_batch import StepBatch
from kodkod_engine.models import longcat_flash
from kodkod_engine.models.config import ModelConfig, load_config
from kodkod_engine.models.gpu_step import GpuStep
from kodkod_engine.models.loading import LoadedModel, build_model
from kodkod_engine.models.longcat_flash import LongcatFlash
from kodkod_engine.models.packing import pack_model
from kodkod_engine.models.step_buffers import Ending, ShapeKey, StepBuffers, bucket_of

BLOCK_SIZE = 16
WHOLE_BYTES = 142e9
"""Of a device that holds the published shape with all its tables, and works with it."""
SMALLER_TABLES = {"ngram_vocab_size_ratio": 5.25}
"""4 GB of them in place of 63; how many rows there are makes no difference to a step."""
SMOKE = {"num_layers": 2, "ngram_vocab_size_ratio": 1.25}
"""Full width, 1 GB of tables."""
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
    "ngram_vocab_size_ratio": 3.5,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    batches: tuple[int, ...] = (1, 4, 16, 32)
    drafts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    short_context: int = 1024
    context: int = 8192
    long_contexts: tuple[int, ...] = (32_768, 131_072)
    cache_tokens: int = 270_000
    """All sequences of a decode step lie in one cache of so many tokens."""
    prompts: tuple[int, ...] = (8192, 32_768)
    cached: int = 60_000
    new: tuple[int, ...] = (500, 2000)
    chunk_tokens: int = 8192
    steps: int = 24
    warm_steps: int = 8
    pinned_ratio: float = 5.25
    """The pinned tables' rows over the vocabulary: 4 GB of them."""
    turns: tuple[int, ...] = (64, 250, 1000)
    """New tokens of short turns, with packed weights."""


SMOKE_SCALE = Scale(
    batches=(1, 4, 32), drafts=(1, 8), long_contexts=(16_384,), cache_tokens=40_000, prompts=(4096,), cached=8000,
    new=(500,), steps=8, warm_steps=4, pinned_ratio=1.25, context=1100,
)  # fmt: skip
DRY_SCALE = Scale((1, 2), (2,), 32, 40, (50,), 256, (40,), 48, (8, 100), 128, 1, 1, 2.25, (33,))


class Device:
    """The device under test: time on it, and its name."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        if name == "cpu":
            mend()

    @property
    def is_cuda(self) -> bool:
        return self.torch.type == "cuda"

    @property
    def memory_bytes(self) -> float:
        """All of it; of a processor more than is asked for."""
        return torch.cuda.get_device_properties(0).total_memory if self.is_cuda else float("inf")

    def seconds(self, work: Callable[[], object], repeats: int = 1) -> float:
        """Of one of several runs, the device's queue empty before and after."""
        self.wait()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        self.wait()
        return (time.perf_counter() - started) / repeats

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        if not self.is_cuda:
            return {"name": "Triton's interpreter: times mean nothing"}
        facts = torch.cuda.get_device_properties(0)
        return {
            "name": facts.name,
            "memory_bytes": facts.total_memory,
            "processors": facts.multi_processor_count,
            "cuda": torch.version.cuda,
        }


def values_for(layers: int | None, *, is_smoke: bool, is_dry: bool) -> dict[str, Any]:
    """The keys of config.json."""
    values = {**CONFIG, **(SMOKE if is_smoke else {}), **(DRY if is_dry else {})}
    return values | ({"num_layers": layers} if layers else {})


def with_tables_that_fit(values: dict[str, Any], memory_bytes: float) -> tuple[dict[str, Any], str]:
    """The same with fewer rows where a device has no room for all, and what to say of it."""
    if memory_bytes >= WHOLE_BYTES or values["ngram_vocab_size_ratio"] <= SMALLER_TABLES["ngram_vocab_size_ratio"]:
        return values, ""
    return values | SMALLER_TABLES, f"; tables of 4 GB instead of 63, for the device has {memory_bytes / 1e9:.0f}"


def config_of(folder: Path, values: dict[str, Any]) -> ModelConfig:
    """Read as the engine reads it."""
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return load_config(folder)


def build(config: ModelConfig, precision: str, device: Device, tables: Tensor | None = None) -> LoadedModel:
    """A model on the device, its weights made there, without a second copy of any.

    Args:
        tables: of an earlier model of the same shape; None makes new ones.
    """
    dtype = torch.bfloat16 if device.is_cuda else torch.float32
    precisions = Precisions.of(precision)
    model, _ = build_model(config, with_mtp=False, dtype=dtype, activation_dtype=dtype, device="meta")
    pack_model(model, None, precisions)
    assert model.embedding is not None
    resident, model.embedding.resident = model.embedding.resident, None
    assert resident is not None
    _allocate(model, device)
    if tables is None:
        _allocate(resident, device)
    else:
        resident.weight = nn.Parameter(tables, requires_grad=False)
    model.embedding.resident = resident
    return LoadedModel(config, model, None, dtype, dtype, device.torch, precisions)


def _allocate(part: nn.Module, device: Device) -> None:
    part.to_empty(device=device.torch)
    for module in part.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fill(module, name, parameter)


def fill(module: nn.Module, name: str, parameter: Tensor) -> None:
    """Trained scale: a matrix keeps the variance of its input; codes are any, norms one."""
    if name == "codes":
        codes = parameter.view(torch.uint8).random_(0, 256)
        if parameter.dtype.is_floating_point:
            codes.bitwise_and_(0xBF)  # numbers below 2, so none is not a number
    elif name == "scales":
        assert isinstance(module, PackedParameter)
        spread = {4: 4.61, 8: 73.9}[module.bits] if not module.codes.dtype.is_floating_point else 0.65
        parameter.fill_(1 / (spread * module.matrix.shape[-1] ** 0.5))
    elif parameter.dim() == 1:
        parameter.fill_(0.0 if name == "selection_bias" else 1.0)
    else:
        is_rows = name == "word" or isinstance(module, ResidentRows)
        parameter.normal_(std=1.0 if is_rows else parameter.shape[-1] ** -0.5)


class Player:
    """Sequences on a runner, their contexts taken as given: the cache is filled with noise, which costs the same."""

    def __init__(self, loaded: LoadedModel, num_tokens: int, device: Device) -> None:
        self.runner = ModelRunner(loaded, -(-num_tokens // BLOCK_SIZE) + 4, BLOCK_SIZE)
        for layer in range(self.runner.layout.num_cache_layers):
            self.runner.cache.layer(layer).normal_()
        self.loaded, self.num_tokens, self.device = loaded, num_tokens, device
        self.asked = num_tokens
        """Perhaps more than there was room for."""
        self.fused = GpuStep(loaded.model, self.runner.cache)

    def runs(self, batch: int, start: int, new: int) -> list[TokenRun]:
        """One run of `new` random tokens behind `start` others, for each of `batch` sequences."""
        each = -(-(start + new) // BLOCK_SIZE)
        ids = torch.randint(3, self.loaded.config.vocab_size, (batch, new)).tolist()
        blocks = [tuple(range(index * each, (index + 1) * each)) for index in range(batch)]
        return [
            TokenRun(str(index), tuple(ids[index]), (5, 6, 7), start, blocks[index], None) for index in range(batch)
        ]

    def batch(self, runs: list[TokenRun]) -> StepBatch:
        return self.runner.batch(runs)

    def step(self, runs: list[TokenRun]) -> list[int]:
        """Token runs in, chosen ids on the host: what the engine does for a greedy step."""
        batch = self.batch(runs)
        if self.fused.admits(batch):
            ids: list[int] = self.fused.choose(batch)[0].tolist()
        else:
            ids = self.loaded.model.logits(self.plain(batch)).argmax(dim=-1).tolist()
        return ids

    def plain(self, batch: StepBatch) -> Tensor:
        """The modules, whatever the step."""
        with without_fused_step():
            hidden: Tensor = self.loaded.model(batch, self.runner.cache)
        return hidden

    @torch.inference_mode()
    def decode_s(self, batch: int, context: int, new: int, scale: Scale) -> tuple[float, float | None]:
        """Median seconds of a whole step, and of its graph alone, replayed."""
        steps = [self.runs(batch, context + step, new) for step in range(scale.steps + scale.warm_steps)]
        times = [self.device.seconds(lambda runs=runs: self.step(runs)) for runs in steps]
        last = self.batch(steps[-1])
        replay = self.shape_of(last).replay if self.fused.admits(last) else None
        replay_s = None if replay is None else self.device.seconds(replay, scale.steps)
        return statistics.median(times[scale.warm_steps :]), replay_s

    def shape_of(self, batch: StepBatch) -> StepBuffers:
        """What greedy steps like this one, taken before, have their graph in."""
        group = batch.groups[0]
        key = ShapeKey(group.num_sequences, group.query_len, bucket_of(group.context_len), Ending.GREEDY)
        return self.fused._shapes[key]

    @torch.inference_mode()
    def prefill_s(self, start: int, new: int, chunk: int) -> float:
        """Seconds for new tokens behind a context, in chunks, to the first token."""

        def work() -> None:
            for first in range(0, new, chunk):
                (run,) = self.runs(1, start + first, min(chunk, new - first))
                run = replace(run, sequence_ids=range(run.start))
                hidden = self.plain(self.runner.followed(self.batch([run]), run))
            self.loaded.model.logits(hidden[-1:]).argmax().item()

        return self.device.seconds(work)

    @torch.inference_mode()
    def distinct_experts(self, batch: StepBatch) -> float:
        """Real experts that a step reads, each once: the mean over the layers."""
        chosen: list[Tensor] = []
        layers = [layer.experts for layer in self.loaded.model.dual_layers]
        hooks = [one.router.register_forward_hook(lambda _m, _i, out: chosen.append(out[0])) for one in layers]
        try:
            self.plain(batch)
        finally:
            for hook in hooks:
                hook.remove()
        real = [ids.unique() for ids in chosen]
        return statistics.mean(int((ids < self.loaded.config.num_experts).sum()) for ids in real)


@contextmanager
def without_fused_step() -> Iterator[None]:
    """Steps go through the modules inside."""
    no_step = mock.patch.object(LongcatFlash, "_fused_step", return_value=None)
    no_layers = mock.patch.object(longcat_flash, "step_arrays", return_value=None)
    with no_step, no_layers:
        yield


@contextmanager
def other_embedding(loaded: LoadedModel, embedding: NgramEmbedding | None) -> Iterator[None]:
    """The model with another N-gram embedding, or with its words alone."""
    model = loaded.model
    own = model.embedding
    assert own is not None
    model.embedding, model.word_embedding = embedding, own.word if embedding is None else None
    try:
        yield
    finally:
        model.embedding, model.word_embedding = own, None


def step_bytes(player: Player, distinct: float, batch: int, context: int) -> float:
    """What a decode step has to read: the experts it hits once each, all else once, the caches of its contexts."""
    model, config = player.loaded.model, player.loaded.config
    total = 0.0
    for layer in model.dual_layers:
        total += sum(home.nbytes for home in layer.experts.homes) / config.num_experts * distinct
        total += layer.experts.router.weight.nbytes
        for half in (layer.first, layer.second):
            total += sum(parameter.nbytes for parameter in (*half.attention.parameters(), *half.dense.parameters()))
    total += model.head_weight.nbytes
    total += model.embedding.projection.weight.nbytes if model.embedding is not None else 0
    return total + batch * context * player.runner.layout.bytes_per_token
