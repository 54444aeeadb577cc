"""Telling a fault that ends a device from one that ends a step."""

from __future__ import annotations

import torch

MARKS = ("CUDA error", "Triton Error [CUDA]", "CUBLAS_STATUS", "CUDNN_STATUS")


def is_lost(fault: RuntimeError) -> bool:
    """Whether a device gives such faults for good: everything but want of memory, after which it goes on."""
    text = str(fault)
    if isinstance(fault, torch.OutOfMemoryError) or "out of memory" in text:
        return False
    return isinstance(fault, torch.AcceleratorError) or any(mark in text for mark in MARKS)


def cause_of(fault: RuntimeError) -> str:
    """One line for a person: what the device said first, and the way out."""
    said = str(fault).strip().splitlines()
    return f"the GPU is lost ({said[0] if said else type(fault).__name__}); start again and resume the session"
