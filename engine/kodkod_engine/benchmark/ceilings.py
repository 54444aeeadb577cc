"""What the machine allows, measured in the same run as what is reached."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

MEMORY_BYTES = 1 << 29
"""Read and copied: more than any cache holds."""
DISK_BYTES = 1 << 27
SQUARE = 2048


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Rates; None where there is nothing to measure."""

    read_bytes_per_s: float
    copy_bytes_per_s: float
    """Bytes read and written, both counted."""
    fp32_flop_per_s: float
    bf16_flop_per_s: float
    disk_bytes_per_s: float | None
    """Of a file of the checkpoint that was put out of the page cache first."""
    graph_gap_s: float | None
    """Between two empty kernels of one CUDA graph."""
    to_device_bytes_per_s: float | None
    """From pinned host memory to the CUDA device."""


def measure_ceilings(device: torch.device, file: Path | None = None, *, num_bytes: int = MEMORY_BYTES) -> Ceilings:
    """A few seconds of work.

    Args:
        device: whose memory and arithmetic count.
        file: a large file on the disk that counts.
    """
    values = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(values)
    is_cuda = device.type == "cuda"
    return Ceilings(
        read_bytes_per_s=num_bytes / best_seconds(values.sum, device),
        copy_bytes_per_s=2 * num_bytes / best_seconds(lambda: target.copy_(values), device),
        fp32_flop_per_s=matmul_rate(torch.float32, device),
        bf16_flop_per_s=matmul_rate(torch.bfloat16, device),
        disk_bytes_per_s=disk_rate(file) if file else None,
        graph_gap_s=graph_gap(device) if is_cuda else None,
        to_device_bytes_per_s=_upload_rate(device) if is_cuda else None,
    )


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 4) -> float:
    """The shortest of some runs after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = SQUARE) -> float:
    """Floating-point operations per second of a square product."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: left @ right, device, repeats=2)


def disk_rate(file: Path, num_bytes: int = DISK_BYTES) -> float:
    """Bytes per second of reading a file's beginning, its pages put out of the cache first."""
    handle = os.open(file, os.O_RDONLY)
    try:
        num_bytes = min(num_bytes, os.fstat(handle).st_size)
        os.posix_fadvise(handle, 0, num_bytes, os.POSIX_FADV_DONTNEED)
        started, left = time.perf_counter(), num_bytes
        while left > 0 and (chunk := os.read(handle, min(left, 1 << 22))):
            left -= len(chunk)
        return num_bytes / (time.perf_counter() - started)
    finally:
        os.close(handle)


def graph_gap(device: torch.device, kernels: int = 1000) -> float:
    """Seconds a kernel that does nothing takes inside a CUDA graph."""
    value = torch.zeros(1, device=device)
    value.add_(1)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(kernels):
            value.add_(1)
    return best_seconds(graph.replay, device) / kernels


def _upload_rate(device: torch.device, num_bytes: int = 1 << 28) -> float:
    host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    return num_bytes / best_seconds(lambda: target.copy_(host, non_blocking=True), device)
