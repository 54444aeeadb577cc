"""What torch can compute on here, and which of it a thread computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def describe_devices() -> str:
    """torch's version, the processor's vector capability, and each accelerator with its memory."""
    import torch

    from kodkod_engine.layers.linear import has_native_bf16

    native = "native bf16" if has_native_bf16(torch.device("cpu")) else "no native bf16"
    parts = [f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {native}"]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        parts.append(f"{device.name} with {device.total_memory / 1024**3:.0f} GiB")
    return "; ".join(parts if len(parts) > 1 else [*parts, "no GPU"])


def compute_on(device: torch.device) -> None:
    """Make one of several CUDA devices this thread's own: Triton starts kernels there, wherever their tensors are."""
    import torch

    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
