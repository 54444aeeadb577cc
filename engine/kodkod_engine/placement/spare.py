"""Memory that nothing needs: what may be taken to save work, and is not missed where it is not there."""

from __future__ import annotations

import torch

from kodkod_engine.placement.machine import GIB, available_bytes
from kodkod_engine.placement.plan import GPU_WORK_BYTES

HOST_WORK_BYTES = 2.0 * GIB
"""Of a long prompt's activations, and of the tests and tools that run beside the engine."""
HOST_SHARE = 0.5
"""Of the rest; a person has other programs."""
DEVICE_SHARE = 0.75
"""Of a GPU's rest, which few other programs want."""


def spare_bytes(device: torch.device, mapped_bytes: float = 0.0) -> float:
    """Memory that may be taken now on the device that computes.

    Args:
        mapped_bytes: of weights that are pages of files: their memory counts as available, but every step reads them.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(0.0, free - GPU_WORK_BYTES) * DEVICE_SHARE
    return max(0.0, available_bytes() - mapped_bytes - HOST_WORK_BYTES) * HOST_SHARE
