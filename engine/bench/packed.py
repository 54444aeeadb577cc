"""Packed linear maps for few rows: our kernels against torch's own, weights rotating through memory.

    python engine/bench/packed.py

Each figure is bytes of weights read per second, beside the read rate of the same run.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from measure import keep, read_bandwidth, seconds
from torch import Tensor

from kodkod_engine.kernels.packed_linear import packed_linear
from kodkod_engine.kernels.packing import pack, pack_fp8
from kodkod_engine.kernels.thin_linear import thin_linear

OUT, IN, COPIES = 1024, 3072, 96
ROWS = (1, 4, 16)
REPEATS = 5


def rate(work: Any, weights: list[Any], num_bytes: int) -> float:
    def once() -> None:
        for weight in weights:
            work(weight)

    once()
    return len(weights) * num_bytes / statistics.median(seconds(once) for _ in range(REPEATS))


def ours(rows: int, bits: int, dense: list[Tensor]) -> float:
    x = torch.randn(rows, IN)
    packed = [tuple(part.clone() for part in pack(dense[i % len(dense)], bits, 128)) for i in range(COPIES)]
    return rate(lambda w: packed_linear(x, *w, bits), packed, sum(part.nbytes for part in packed[0]))


def ours_fp8(rows: int, dense: list[Tensor]) -> float:
    x = torch.randn(rows, IN)
    packed = [tuple(part.clone() for part in pack_fp8(dense[i % len(dense)], 128, 128)) for i in range(COPIES)]
    return rate(lambda w: packed_linear(x, *w, 8, 128), packed, sum(part.nbytes for part in packed[0]))


def ours_bf16(rows: int, dense: list[Tensor]) -> float:
    x = torch.randn(rows, IN).bfloat16()
    wide = [weight.bfloat16() for weight in dense for _ in range(COPIES // 8)]
    return rate(lambda w: thin_linear(x, w), wide, wide[0].nbytes)


def torchs_int8(rows: int) -> float:
    x, scales = torch.randn(rows, IN).bfloat16(), torch.rand(OUT).bfloat16()
    weights = [torch.randint(-128, 127, (OUT, IN), dtype=torch.int8) for _ in range(COPIES)]
    return rate(lambda w: torch._weight_int8pack_mm(x, w, scales), weights, weights[0].nbytes)


def torchs_int4(rows: int) -> float:
    x, scales = torch.randn(rows, IN).bfloat16(), torch.rand(IN // 128, OUT, 2).bfloat16()
    codes = [torch.randint(0, 16, (OUT, IN), dtype=torch.int32) for _ in range(4)]
    weights = [torch._convert_weight_to_int4pack_for_cpu(codes[i % 4], 1) for i in range(COPIES)]
    num_bytes = OUT * IN // 2 + scales.nbytes
    return rate(lambda w: torch._weight_int4pack_mm_for_cpu(x, w, 128, scales), weights, num_bytes)


@torch.inference_mode()
def measure() -> dict[str, Any]:
    dense = [torch.randn(OUT, IN) for _ in range(4)]
    figures: dict[str, Any] = {"read_bytes_per_s": read_bandwidth(1 << 29)}
    threads = torch.get_num_threads()
    for rows in ROWS:
        figures[f"torch, int4, {rows} rows"] = torchs_int4(rows)
        figures[f"torch, int8, {rows} rows"] = torchs_int8(rows)
        torch.set_num_threads(1)  # two pools of threads would fight
        figures[f"ours, int4, {rows} rows"] = ours(rows, 4, dense)
        figures[f"ours, int8, {rows} rows"] = ours(rows, 8, dense)
        figures[f"ours, fp8, {rows} rows"] = ours_fp8(rows, dense)
        figures[f"ours, bf16, {rows} rows"] = ours_bf16(rows, dense)
        torch.set_num_threads(threads)
    return figures


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    figures = measure()
    for name, value in figures.items():
        print(f"{name:30} {value / 1e9:6.1f} GB/s  {value / figures['read_bytes_per_s']:.0%}")
    record = {"what": f"{COPIES} matrices of {OUT} x {IN} in turn", "bytes_per_s": figures}
    print(f"kept in {keep('packed', record).name}")


if __name__ == "__main__":
    main()
