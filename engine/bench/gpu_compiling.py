"""What compiling a decode step's kernels takes, one after another and side by side: for a device, on a machine without.

    python engine/bench/gpu_compiling.py [--turns N] [PRECISION]...

One layer of the published sizes, every way of every choice, for compute capability 9.0; each time in a process of its
own with an empty cache. Seconds are those of the compilation alone, processor seconds with ptxas'; `reading_s` are
those of bringing sources into Triton's first form, which needs Python's lock and is done one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from full_size import CONFIG
from gpu_model import SMOKE, config_of
from measure import keep
from triton.compiler import ASTSource

from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.kernels.gpu import tuning
from kodkod_engine.kernels.gpu.absent_device import acting, compiling
from kodkod_engine.kernels.gpu.rehearsal import rehearse
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.gpu_step import GpuStep
from kodkod_engine.models.loading import LoadedModel, build_model
from kodkod_engine.models.packing import pack_model

HOW = ("one after another", "side by side")
RUN = TokenRun("a", (5,), (5, 6, 7), 40, tuple(range(8)), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precisions", nargs="*", default=["bf16", "int4"], metavar="PRECISION")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", choices=HOW, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compile_step(options.precisions[0], options.one)))
        return
    turns: dict[str, list[Any]] = defaultdict(list)
    for _ in range(options.turns):
        for precision in options.precisions:
            for how in HOW:
                turns[f"{precision}, {how}"].append(in_a_process(precision, how))
                print(precision, how, turns[f"{precision}, {how}"][-1], flush=True)
    print(keep("gpu-compiling", {"triton": triton.__version__, "processors": os.cpu_count(), "turns": turns}))


def in_a_process(precision: str, how: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, precision, "--one", how]
        own = os.environ | {"TRITON_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join(sys.path)}
        said = subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(said)
    return result


@torch.inference_mode()
def compile_step(precision: str, how: str) -> dict[str, Any]:
    loaded = model_of(precision)
    runner = ModelRunner(loaded, 64, 16)
    step, batch = GpuStep(loaded.model, runner.cache), runner.batch([RUN])
    compiled: list[object] = []
    triton.knobs.compilation.listener = lambda **said: compiled.append(said["src"])
    reading_s: list[float] = []
    before, started = processor_s(), time.perf_counter()
    with (
        mock.patch.object(tuning.Tuner, "quickest", lambda _tuner, _key, ways, run: tuning.each_taken(ways, run)),
        mock.patch.object(ASTSource, "make_ir", timed(ASTSource.make_ir, reading_s)),
    ):
        if how == HOW[0]:
            with compiling():
                step.choose(batch)
        else:
            with acting():
                rehearse(lambda: step.choose(batch))
    times = {
        "seconds": time.perf_counter() - started,
        "processor_s": processor_s() - before,
        "reading_s": sum(reading_s),
    }
    rounded = {name: round(value, 2) for name, value in times.items()}
    return {"kernels": len(compiled), "load_average": os.getloadavg()[0]} | rounded


def timed(work: Callable[..., Any], taken_s: list[float]) -> Callable[..., Any]:
    def measured(*args: Any, **options: Any) -> Any:
        started = time.thread_time()
        try:
            return work(*args, **options)
        finally:
            taken_s.append(time.thread_time() - started)

    return measured


def model_of(precision: str) -> LoadedModel:
    """With weights that are nowhere: nobody reads them."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(Path(folder), CONFIG | SMOKE | {"num_layers": 1})
    dtype, precisions = torch.bfloat16, Precisions.of(precision)
    model, _ = build_model(config, with_mtp=False, dtype=dtype, activation_dtype=dtype, device="meta")
    pack_model(model, None, precisions)
    return LoadedModel(config, model.to_empty(device="cpu"), None, dtype, dtype, torch.device("cpu"), precisions)


def processor_s() -> float:
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
