"""What a machine has, as numbers a plan is made of; and the machine this runs on."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3
PROBE_BYTES = 1 << 28

KNOWN_READ_RATES = {"H200": 4.3e12, "H100": 3.0e12, "A100": 1.8e12, "RTX 4090": 0.93e12, "RTX 5090": 1.65e12}
"""Bytes per second that reading kernels reach, by a part of the device's name."""
CAUTIOUS_READ_RATE = 0.4e12
MIN_COMPUTE_CAPABILITY = (8, 0)
"""bf16 arithmetic, which the GPU step needs, begins here."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device."""

    name: str
    free_bytes: float
    read_bytes_per_s: float
    compute_capability: tuple[int, int]

    @property
    def is_supported(self) -> bool:
        """Whether the engine can compute on it."""
        return self.compute_capability >= MIN_COMPUTE_CAPABILITY


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory and rates."""

    host_bytes: float
    """Memory that can be had now, without what other programs use."""
    host_read_bytes_per_s: float
    disk_free_bytes: float
    gpu: Gpu | None = None


def this_machine(folder: Path) -> Machine:
    """Look at the machine; reads a quarter of a GiB of memory to learn its rate.

    Args:
        folder: on the disk that counts.
    """
    return Machine(available_bytes(), _read_rate(), float(shutil.disk_usage(folder).free), find_gpu())


def available_bytes() -> float:
    """Host memory a program could take now: what the kernel says, and no more than its group may have."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return _total_bytes()
    facts = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    available = int(facts["MemAvailable"].split()[0]) * 1024.0
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
    return available if text == "max" else min(available, float(text))


def _total_bytes() -> float:
    import os

    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _read_rate() -> float:
    import torch

    values = torch.ones(PROBE_BYTES // 4)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - started)
    return PROBE_BYTES / best


def find_gpu() -> Gpu | None:
    """The first CUDA device; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    free, _ = torch.cuda.mem_get_info(0)
    rate = next((rate for part, rate in KNOWN_READ_RATES.items() if part in facts.name), CAUTIOUS_READ_RATE)
    return Gpu(facts.name, float(free), rate, (facts.major, facts.minor))
