"""What every benchmark here needs: ceilings of this machine in this run, medians, and dated records."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def read_bandwidth(num_bytes: int = 1 << 30, repeats: int = 5) -> float:
    """Bytes per second at which this machine reads memory and does nothing else; the best of some runs."""
    values = torch.ones(num_bytes // 4)
    values.sum()
    return num_bytes / min(seconds(values.sum) for _ in range(repeats))


def matmul_rate(dtype: torch.dtype, size: int = 2048, repeats: int = 12) -> float:
    """Floating-point operations per second of a square product; the best of some runs."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    left @ right
    return 2 * size**3 / min(seconds(lambda: left @ right) for _ in range(repeats))


def summary(samples: list[float]) -> dict[str, float]:
    """Median and spread."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "processor": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that is checked out, with a plus when there are changes."""
    here = Path(__file__).parent
    name = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=False)
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")


_kept: dict[str, Path] = {}
"""By this run, by name."""


def keep(name: str, record: dict[str, Any]) -> Path:
    """Write a dated record and return its path.

    Kept again it is the same that has grown; one that another run kept on the same day stays, and this one has the
    time in its name.
    """
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = _kept.get(name, RESULTS / f"{now:%Y-%m-%d}-{name}.json")
    if name not in _kept and path.exists():
        path = RESULTS / f"{now:%Y-%m-%d-%H%M%S}-{name}.json"
    _kept[name] = path
    whole = {"date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "commit": commit(), "machine": machine(), **record}
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return path
