"""Host memory that a CUDA device reads in place, without a copy and without asking the host."""

from __future__ import annotations

import mmap
import weakref
from typing import Any

import torch
from torch import Tensor


class PinningFailed(Exception):
    """The system or the driver refused; the message says why."""


def pinned_empty(shape: tuple[int, ...], dtype: torch.dtype, owner: object) -> Tensor:
    """Unset host memory, registered with the driver while `owner` lives.

    Registered and not taken from torch's own pool of pinned memory, which rounds sizes up to a power of two.

    Args:
        shape: of the tensor.
        dtype: of its values.
        owner: whoever holds the tensor; when it goes, so does the registration.

    Raises:
        PinningFailed: there is no CUDA device, not enough memory, or a limit on locked memory.
    """
    try:
        runtime = _runtime()
        memory = touched(torch.empty(shape, dtype=dtype))
        _check(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    except (RuntimeError, AssertionError, MemoryError) as fault:
        raise PinningFailed(" ".join(f"{type(fault).__name__}: {fault}".split())) from fault
    weakref.finalize(owner, _release, memory.data_ptr())
    return memory


def touched(memory: Tensor) -> Tensor:
    """The same contiguous memory, all of it there: the driver would have its pages made one after another, and all
    threads do it side by side."""
    memory.view(-1).view(torch.uint8)[:: mmap.PAGESIZE].zero_()
    return memory


def _runtime() -> Any:
    return torch.cuda.cudart()


def _check(result: Any) -> None:
    torch.cuda.check_error(int(result))


def _release(address: int) -> None:
    _runtime().cudaHostUnregister(address)
