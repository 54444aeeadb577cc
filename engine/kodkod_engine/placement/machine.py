"""What a machine has, as numbers a plan is made of; and the machine this runs on."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kodkod_engine.passing import in_passing

logger = logging.getLogger(__name__)

GIB = 1024**3
PROBE_BYTES = 1 << 28
PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"

KNOWN_READ_RATES = {"H200": 4.3e12, "H100": 3.0e12, "A100": 1.8e12, "RTX 4090": 0.93e12, "RTX 5090": 1.65e12}
"""Bytes per second that reading kernels reach, by a part of the device's name."""
READ_FRACTION = 0.85
"""Of what a card's memory promises that reading kernels reach."""
CAUTIOUS_READ_RATE = 0.4e12
CAUTIOUS_LINK_RATE = 10e9
"""Of a card in half a slot of PCIe 4, or a whole one of PCIe 3."""
LINK_FRACTION = 0.8
"""Of what lanes carry that is left for what is read."""
MIN_COMPUTE_CAPABILITY = (8, 0)
"""bf16 arithmetic, which the GPU step needs, begins here."""
MIN_COMPUTE_CAPABILITY_FOR_FP8 = (8, 9)
"""Of what reads e4m3 numbers; Triton compiles no kernel that takes them for less."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device."""

    name: str
    free_bytes: float
    read_bytes_per_s: float
    compute_capability: tuple[int, int]
    link_bytes_per_s: float = CAUTIOUS_LINK_RATE
    """At which it reads pinned host memory."""
    index: int = 0
    """Of several."""

    @property
    def is_supported(self) -> bool:
        """Whether the engine can compute on it."""
        return self.compute_capability >= MIN_COMPUTE_CAPABILITY

    def reads(self, precision: str) -> bool:
        """Whether its kernels take weights in this precision."""
        return self.is_supported and (precision != "fp8" or self.compute_capability >= MIN_COMPUTE_CAPABILITY_FOR_FP8)


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory and rates."""

    host_bytes: float
    """Memory that can be had now, without what other programs use."""
    host_read_bytes_per_s: float
    disk_free_bytes: float
    gpu: Gpu | None = None


def this_machine(folder: Path, device: str = "auto") -> Machine:
    """Look at the machine; reads a quarter of a GiB of memory to learn its rate.

    Args:
        folder: on the disk that counts.
        device: see `find_gpu`; no GPU counts beside a processor that is named.
    """
    return Machine(
        available_bytes(),
        in_passing(_read_rate),
        float(shutil.disk_usage(folder).free),
        find_gpu(device) if device != "cpu" else None,
    )


def available_bytes(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Host memory a program could take now: what the kernel says, and no more than its group has left."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return _total_bytes()
    facts = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return min(int(facts["MemAvailable"].split()[0]) * 1024.0, _left_to(group))


def _left_to(group: Path) -> float:
    """Of what a control group may have; pages of files make room."""
    try:
        limit = float((group / "memory.max").read_text(encoding="ascii"))
        used = float((group / "memory.current").read_text(encoding="ascii"))
        parts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0.0, limit - used + float(parts["active_file"]) + float(parts["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no such group, or no limit: it says "max"
        return float("inf")


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


def find_gpu(device: str = "auto") -> Gpu | None:
    """A CUDA device; None where there is none, or it cannot be used.

    Args:
        device: as torch names it; auto and cuda take the one with the most free memory, and the first.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    indices = range(count) if device == "auto" else (int(device.partition(":")[2] or 0),)
    found = [gpu for gpu in (_gpu(index) for index in indices if index < count) if gpu is not None]
    return max(found, key=lambda gpu: (gpu.is_supported, gpu.free_bytes), default=None)


def _gpu(index: int) -> Gpu | None:
    import torch

    try:
        facts = torch.cuda.get_device_properties(index)
        free, _ = torch.cuda.mem_get_info(index)
    except RuntimeError as fault:  # it is another process's alone, or has no memory left for a context
        logger.warning("CUDA device %d cannot be used: %s", index, str(fault).splitlines()[0])
        return None
    rate = next((rate for part, rate in KNOWN_READ_RATES.items() if part in facts.name), _read_rate_of(facts))
    return Gpu(facts.name, float(free), rate, (facts.major, facts.minor), link_rate(PCI_DEVICES), index)


def _read_rate_of(facts: Any) -> float:
    """What clock and width of its memory make; cautious where the driver does not tell them."""
    per_s = getattr(facts, "memory_clock_rate", 0) * 1e3 * 2 * getattr(facts, "memory_bus_width", 0) / 8
    return per_s * READ_FRACTION or CAUTIOUS_READ_RATE


def link_rate(devices: Path) -> float:
    """Bytes per second from host memory to the NVIDIA card with the slowest lanes, at the best these are capable of.

    Args:
        devices: of PCI, in sysfs; where that does not tell, the rate is a cautious one.
    """
    rates = [_lanes_rate(device) for device in devices.glob("*") if _is_card(device)]
    return min(rates, default=CAUTIOUS_LINK_RATE)


def _is_card(device: Path) -> bool:
    return _said(device / "vendor") == NVIDIA and _said(device / "class").startswith(DISPLAY)


def _lanes_rate(device: Path) -> float:
    """A transfer is a bit; what idle lanes are slowed down to does not count."""
    try:
        lanes, transfers_per_s = int(_said(device / "max_link_width")), float(_said(device / "max_link_speed")) * 1e9
    except ValueError:
        return CAUTIOUS_LINK_RATE
    return lanes * transfers_per_s / 8 * LINK_FRACTION or CAUTIOUS_LINK_RATE


def _said(path: Path) -> str:
    """The first word of a file; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="ascii").split(maxsplit=1)[0]
    except (OSError, ValueError, IndexError):
        return ""
