"""Compiles every kernel of a CUDA device; run by `test_compiling.py` in a process where Triton's interpreter is off.

    python compile_kernels.py CAPABILITY narrow|published once|always|able PRECISION...

A step of one layer is taken in each precision with some numbers of tokens, every way of every choice in it, always or
once for each way, or only the first that the device has room for, and then what long steps launch; all of it is
rehearsed before. Prints the modules of the kernels, how many the rehearsals left to compile, and what spilled out of
the registers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.kernels.first_use import listen_to_triton, telling
from kodkod_engine.kernels.gpu import prefill_attention
from kodkod_engine.kernels.gpu.absent_device import Program, acting, compiling
from kodkod_engine.kernels.gpu.around import Around
from kodkod_engine.kernels.gpu.draw_ids import draw_ids
from kodkod_engine.kernels.gpu.expert_sum import expert_sum
from kodkod_engine.kernels.gpu.few_digits import few_digits
from kodkod_engine.kernels.gpu.grouped_packed import MOST_ROWS_OF_ONE, grouped_packed, packed_rows
from kodkod_engine.kernels.gpu.grouped_rows import grouped_rows
from kodkod_engine.kernels.gpu.overlap import beginning_early, early
from kodkod_engine.kernels.gpu.packed_tiles import packed_tiles
from kodkod_engine.kernels.gpu.rehearsal import is_rehearsal, rehearse
from kodkod_engine.kernels.gpu.residual_norm import residual_norm
from kodkod_engine.kernels.gpu.swiglu_rows import swiglu_rows
from kodkod_engine.kernels.gpu.table_rows import table_rows
from kodkod_engine.kernels.gpu.tuning import Tuner, able_ways, each_taken, name_of, tuner_of
from kodkod_engine.kernels.gpu.unpack_rows import unpack_rows
from kodkod_engine.layers.draws import Draws
from kodkod_engine.layers.packed import PackedMatrix, Precisions
from kodkod_engine.models.config import ModelConfig, load_config
from kodkod_engine.models.gpu_step import MAX_TOKENS, GpuStep
from kodkod_engine.models.loading import LoadedModel, build_model
from kodkod_engine.models.packing import pack_model
from kodkod_engine.models.random_checkpoint import TINY

NARROW: dict[str, Any] = {
    **TINY,
    "hidden_size": 768,
    "num_layers": 1,
    "q_lora_rank": 256,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "ffn_hidden_size": 256,
    "expert_ffn_hidden_size": 256,
}
PUBLISHED: dict[str, Any] = {
    **TINY,
    "vocab_size": 131_072,
    "hidden_size": 3072,
    "num_layers": 1,
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
    "ngram_vocab_size_ratio": 1.25,
}
SIZES = {"narrow": NARROW, "published": PUBLISHED}
BLOCKS, BLOCK_SIZE = 128, 16
HOPPER = 90


def config_of(values: dict[str, Any]) -> ModelConfig:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        return load_config(Path(folder))


def model_of(config: ModelConfig, precision: str) -> LoadedModel:
    """With weights that are nowhere: nobody reads them."""
    dtype, precisions = torch.bfloat16, Precisions.of(precision)
    model, _ = build_model(config, with_mtp=False, dtype=dtype, activation_dtype=dtype, device="meta")
    pack_model(model, None, precisions)
    return LoadedModel(config, model.to_empty(device="cpu"), None, dtype, dtype, torch.device("cpu"), precisions)


def every_way(_tuner: Tuner, _key: object, ways: Sequence[Any], run: Callable[[Any], Tensor]) -> Any:
    """All that a device would time."""
    return each_taken(ways, run)


def first_able(_tuner: Tuner, _key: object, ways: Sequence[Any], run: Callable[[Any], Tensor]) -> Any:
    """What a device has to have room for."""
    return able_ways(ways, run)[0][0]


class EachWayOnce:
    """At the first choice that has it, and at the first while kernels begin early."""

    def __init__(self) -> None:
        self._taken: set[tuple[object, ...]] = set()

    def __call__(self, _key: object, ways: Sequence[Any], run: Callable[[Any], Tensor]) -> Any:
        """In the place of `Tuner.quickest`."""
        for way in ways:
            what = name_of(way), is_rehearsal(), early()["EARLY"]
            if what not in self._taken:
                self._taken.add(what)
                run(way)
        return ways[0]


WAYS = {"once": EachWayOnce, "always": lambda: every_way, "able": lambda: first_able}


def take_steps(loaded: LoadedModel, *, can_begin_early: bool) -> None:
    """Decoding, and verifying side by side; as a device that begins kernels early; drawn ids."""
    runner = ModelRunner(loaded, BLOCKS, BLOCK_SIZE)
    for sequences, new in ((1, 1), (2, 5), (1, MAX_TOKENS)):
        batch = runner.batch([run_of(index, new) for index in range(sequences)])
        GpuStep(loaded.model, runner.cache).choose(batch)
    batch = runner.batch([run_of(0, 1)])
    with beginning_early(can_begin_early):
        GpuStep(loaded.model, runner.cache).choose(batch)
    numbers = torch.zeros(1, dtype=torch.float64)
    draws = Draws(numbers, torch.zeros(1, dtype=torch.int64), numbers, numbers, numbers[None])
    GpuStep(loaded.model, runner.cache).choose(batch, draws)
    draw_ids(torch.zeros(1, loaded.config.vocab_size), draws, draws.top_k)  # as a model in fp32 does


def run_of(index: int, new: int) -> TokenRun:
    first = index * BLOCKS // 8
    return TokenRun(str(index), (5,) * new, (5, 6, 7), 40, tuple(range(first, first + 8)), None)


def take_long_steps(loaded: LoadedModel, *, has_descriptors: bool) -> None:
    """What the modules launch on a device."""
    config, tokens = loaded.config, 64
    x = torch.empty(tokens, config.hidden_size, dtype=torch.bfloat16)
    nope, rope = config.qk_nope_head_dim, config.qk_rope_head_dim
    query = x.new_empty(tokens, config.num_heads, nope + rope)
    per_head = x.new_empty(2 * tokens, config.num_heads, nope + config.v_head_dim)
    tilings = [one for one in prefill_attention.TILINGS if has_descriptors or not one.by_descriptor]
    attend = partial(prefill_attention.prefill_attention, query, per_head, x.new_empty(2 * tokens, rope), 0.1)
    tuner_of(x.device).quickest("prefill", tilings, attend)
    ids = torch.zeros(tokens, config.experts_per_token, dtype=torch.int64)
    grouped_rows(x, x.new_empty(16, 2 * x.shape[1], x.shape[1]), ids.new_empty(16, dtype=torch.int32))
    expert_sum(x, x, ids, ids, ids.float(), config.num_experts)
    swiglu_rows(x)
    residual_norm(x, x, x[0], 1e-5)
    table_rows(x, ids)
    for home in (*loaded.model.dual_layers[0].experts.homes, loaded.model.dual_layers[0].first.dense.down.home):
        if isinstance(home, PackedMatrix):
            unpack_rows(home, 0, 8)
            if len(home.shape) == 3:
                grouped_packed(x.new_empty(32, home.shape[-1]), home, ids.new_empty(home.shape[0], dtype=torch.int32))
            else:
                packed_rows(x.new_empty(MOST_ROWS_OF_ONE, home.shape[-1]), home)
            packed_tiles(x.new_empty(4, home.shape[-1]), home, Around())  # as a model in fp32 does
            if not home.is_fp8:
                few_digits(x.new_empty(3, home.shape[-1]), home, Around())  # as a step of three tokens does


def take_all(loaded: LoadedModel, *, is_hopper: bool) -> None:
    take_steps(loaded, can_begin_early=is_hopper)
    take_long_steps(loaded, has_descriptors=is_hopper)


def compile_all(loaded: LoadedModel, capability: int) -> tuple[list[Program], int]:
    """What is launched, and how many kernels the rehearsal left to compile."""
    left: list[int] = []
    take = partial(take_all, loaded, is_hopper=capability >= HOPPER)
    with acting(capability):
        rehearse(take)
    with compiling(capability) as programs, telling(lambda: None, lambda: left.append(1)):
        take()
    return programs, len(left)


@torch.inference_mode()
def main(capability: str, sizes: str, ways: str, *precisions: str) -> None:
    launched, left = [], 0
    listen_to_triton()
    for precision in precisions:
        with mock.patch.object(Tuner, "quickest", WAYS[ways]()):
            programs, more = compile_all(model_of(config_of(SIZES[sizes]), precision), int(capability))
        launched, left = launched + programs, left + more
    kernels = {program.binary: program for program in launched}.values()
    print(len(kernels), "kernels of", *sorted({program.module for program in kernels}))
    print("left to compile:", left)
    if sizes == "published":
        print("spilled:", *(f"{one.module}.{one.name}:{one.spilled_bytes}" for one in kernels if one.spilled_bytes))


if __name__ == "__main__":
    main(*sys.argv[1:])
