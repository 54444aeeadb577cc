"""What a CUDA device has to issue for each value it reads, by kernel: compiled for one, on a machine that has none.

    python engine/bench/gpu_instructions.py

Kernels that read weights for a few tokens are compiled by Triton for compute capability 9.0 at the published sizes, and
their machine code is counted: all instructions of all threads, over the values of the matrix. Beside it registers,
bytes spilled and shared memory, and what programs read of tokens over what they read of the matrix. What prepares or
norms tokens in a kernel of its own, and the library's, is left out. What follows from the figures:
`engine/adr/0009-packed-weights-on-tensor-cores.md`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product

import torch
import triton
from measure import keep

from kodkod_engine.kernels.gpu.absent_device import Program, compiling
from kodkod_engine.kernels.gpu.around import Around
from kodkod_engine.kernels.gpu.expert_decode import scratch, ways_to_finish, ways_to_start
from kodkod_engine.kernels.gpu.few_walks import Walk
from kodkod_engine.kernels.gpu.packed_tiles import packed_tiles
from kodkod_engine.kernels.gpu.thin_linear import by_library
from kodkod_engine.kernels.gpu.thin_linear import ways_of as ways_of_linear
from kodkod_engine.kernels.gpu.tuning import name_of
from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision, Slot

CAPABILITY = 90
HIDDEN, DENSE, EXPERT, CHOSEN = 3072, 6144, 1024, 12
MATRICES = {"gate and up": (2 * DENSE, HIDDEN), "output": (HIDDEN, 4096), "down": (HIDDEN, DENSE)}
PRECISIONS = (None, Precision.FP8, Precision.INT8, Precision.INT4)
TOKENS = (1, 2, 4, 16, 32)


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel, and what it issues for a value."""

    precision: str
    tokens: int
    matrix: str
    way: str
    per_value: float
    tokens_over_codes: float
    """Bytes that programs read of tokens, over those of codes and scales."""
    registers: int
    spilled_bytes: int
    shared_bytes: int


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    with compiling(CAPABILITY) as programs:
        for precision, tokens in product(PRECISIONS, TOKENS):
            for row in counted(precision, tokens, programs):
                print(" ".join(f"{name} {value}" for name, value in asdict(row).items()), flush=True)
                rows.append(asdict(row))
    print(keep("gpu-instructions", {"capability": CAPABILITY, "triton": triton.__version__, "rows": rows}))


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
                # As bf16, as halves and as two digits a value of a token has two bytes.
                yield _row(name, tokens, matrix, way, programs[-1], weight, x.nbytes)
    if tokens == 1:  # of more, each has its own programs
        yield from _experts(precision, name, programs)


def _row(
    name: str, tokens: int, matrix: str, way: Callable[..., object], program: Program, weight: Slot, token_bytes: int
) -> Row:
    """`token_bytes`: of the input, that a program reads."""
    per_value = round(program.issued(_turns(way, weight)) / math.prod(weight.shape), 2)
    over_codes = round(token_bytes * program.count / weight.nbytes, 2)
    rest = program.registers, program.spilled_bytes, program.shared_bytes
    return Row(name, tokens, matrix, name_of(way), per_value, over_codes, *rest)


def _turns(way: Callable[..., object], weight: Slot) -> int:
    """Of the kernel's loop, where it has one."""
    if not isinstance(way, Walk) or not isinstance(weight, PackedMatrix):
        return 1
    groups = weight.scales.shape[-1]
    return groups // way.at_once(groups)


def _experts(precision: Precision | None, name: str, programs: list[Program]) -> Iterator[Row]:
    """Of one token, whose experts are all real."""
    x, chosen = torch.empty(1, HIDDEN, dtype=torch.bfloat16), torch.zeros(1, CHOSEN, dtype=torch.int32)
    weights, inner = torch.empty(1, CHOSEN), scratch(1, CHOSEN, EXPERT, x.device)
    up, down = _matrix(precision, CHOSEN, 2 * EXPERT, HIDDEN), _matrix(precision, CHOSEN, HIDDEN, EXPERT)
    for start in ways_to_start(x, up):
        start(x, up, chosen, weights, inner)
        yield _row(name, 1, "experts, gate and up", start, programs[-1], up, x.nbytes)
    for finish in ways_to_finish(x, down):
        finish(x, x, down, chosen, weights[:, 0], inner, torch.empty_like(x))
        yield _row(name, 1, "experts, down", finish, programs[-1], down, 2 * inner.numel())


def _matrix(precision: Precision | None, *shape: int) -> Slot:
    if precision is None:
        return torch.empty(*shape, dtype=torch.bfloat16)
    matrix: PackedMatrix = PackedParameter(shape, precision).matrix
    return matrix


if __name__ == "__main__":
    main()
