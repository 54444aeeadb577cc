"""What a CUDA device has to issue for each value it reads, by kernel: compiled for one, on a machine that has none.

    python engine/bench/gpu_instructions.py

Kernels that read weights for a few tokens are compiled by Triton for compute capability 9.0 at the published sizes, and
their machine code is counted: all instructions of all threads, over the values of the matrix. Beside it registers,
bytes spilled and shared memory. Kernels with loops, and the library's, are left out. What follows from the figures:
`engine/adr/0009-packed-weights-on-tensor-cores.md`.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton.backends.nvidia
from measure import keep
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kodkod_engine.kernels.gpu.around import Around
from kodkod_engine.kernels.gpu.expert_decode import FINISHING, STARTING, scratch, ways_of
from kodkod_engine.kernels.gpu.packed_tiles import packed_tiles
from kodkod_engine.kernels.gpu.thin_linear import by_library
from kodkod_engine.kernels.gpu.thin_linear import ways_of as ways_of_linear
from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision, Slot

CAPABILITY = 90
LIMITS = {"max_shared_mem": 232_448, "multiprocessor_count": 132, "max_num_regs": 65_536, "warpSize": 32}
TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
HIDDEN, DENSE, EXPERT, CHOSEN = 3072, 6144, 1024, 12
MATRICES = {"gate and up": (2 * DENSE, HIDDEN), "output": (HIDDEN, 4096), "down": (HIDDEN, DENSE)}
PRECISIONS = (None, Precision.FP8, Precision.INT8, Precision.INT4)
TOKENS = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Program:
    """One compiled kernel."""

    issued: int
    """Instructions of all threads of all programs."""
    registers: int
    spilled_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel, and what it issues for a value."""

    precision: str
    tokens: int
    matrix: str
    way: str
    per_value: float
    registers: int
    spilled_bytes: int
    shared_bytes: int


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    with compiling() as programs:
        for precision, tokens in product(PRECISIONS, TOKENS):
            for row in counted(precision, tokens, programs):
                print(" ".join(f"{name} {value}" for name, value in asdict(row).items()), flush=True)
                rows.append(asdict(row))
    print(keep("gpu-instructions", {"capability": CAPABILITY, "triton": triton.__version__, "rows": rows}))


@contextmanager
def compiling() -> Iterator[list[Program]]:
    """Inside, launches compile their kernels for the device that is not there, and run nothing."""
    programs: list[Program] = []
    compiled = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, **options: Any) -> Any:
        done = compiled(kernel, *args, grid=grid, **options | {"warmup": True})
        programs.append(_program(done, math.prod(grid)))
        return done

    before = driver._active
    driver.set_active(_Absent())
    try:
        with mock.patch.object(JITFunction, "run", compile_only):
            yield programs
    finally:
        driver._active = before


class _Absent:
    """As much of a driver as compiling asks for."""

    utils = SimpleNamespace(
        get_device_properties=lambda _device: LIMITS, load_binary=lambda *_args: (1, 2, 0, 0, LIMITS["warpSize"])
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", CAPABILITY, LIMITS["warpSize"])

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _program(compiled: Any, count: int) -> Program:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = _tool("cuobjdump", "-res-usage", file.name), _tool("nvdisasm", "-c", file.name)
    registers, spilled = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[-1]
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/\s+\S", code)
    metadata = compiled.metadata
    issued = len(instructions) * metadata.num_warps * LIMITS["warpSize"] * count
    return Program(issued, int(registers), int(spilled), metadata.shared)


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def counted(precision: Precision | None, tokens: int, programs: list[Program]) -> Iterator[Row]:
    """Each matrix of a step in each way there is for it."""
    name = "bf16" if precision is None else str(precision)
    for matrix, shape in MATRICES.items():
        weight, x = _matrix(precision, *shape), torch.empty(tokens, shape[1], dtype=torch.bfloat16)
        is_pair = matrix == "gate and up"
        around = Around(norm=x[0]) if is_pair else Around(residual=x.new_empty(tokens, shape[0]))
        around = replace(around, is_pair=is_pair)
        for way in ways_of_linear(x, weight):
            if way not in (by_library, packed_tiles):
                way(x, weight, around)
                yield _row(name, tokens, matrix, way, programs[-1], math.prod(shape))
    if tokens == 1:  # of more, each has its own programs
        yield from _experts(precision, name, programs)


def _row(name: str, tokens: int, matrix: str, way: Callable[..., object], program: Program, values: int) -> Row:
    per_value = round(program.issued / values, 2)
    rest = program.registers, program.spilled_bytes, program.shared_bytes
    return Row(name, tokens, matrix, way.__name__, per_value, *rest)


def _experts(precision: Precision | None, name: str, programs: list[Program]) -> Iterator[Row]:
    """Of one token, whose experts are all real."""
    x, chosen = torch.empty(1, HIDDEN, dtype=torch.bfloat16), torch.zeros(1, CHOSEN, dtype=torch.int32)
    weights, inner = torch.empty(1, CHOSEN), scratch(1, CHOSEN, EXPERT, x.device)
    up, down = _matrix(precision, CHOSEN, 2 * EXPERT, HIDDEN), _matrix(precision, CHOSEN, HIDDEN, EXPERT)
    for start in ways_of(x, up, STARTING):
        start(x, up, chosen, weights, inner)
        yield _row(name, 1, "experts, gate and up", start, programs[-1], math.prod(up.shape))
    for finish in ways_of(x, down, FINISHING):
        finish(x, x, down, chosen, weights[:, 0], inner, torch.empty_like(x))
        yield _row(name, 1, "experts, down", finish, programs[-1], math.prod(down.shape))


def _matrix(precision: Precision | None, *shape: int) -> Slot:
    if precision is None:
        return torch.empty(*shape, dtype=torch.bfloat16)
    matrix: PackedMatrix = PackedParameter(shape, precision).matrix
    return matrix


if __name__ == "__main__":
    main()
