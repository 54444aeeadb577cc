"""Host memory that a CUDA device reads in place, without a copy and without asking the host."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import Any

import torch
from torch import Tensor

HUGE_PAGES = 14
"""Linux: advise that memory be in large pages."""


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
        memory = touched(torch.empty(shape, dtype=dtype))
        _check(_runtime().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    except (RuntimeError, AssertionError, MemoryError) as fault:
        raise PinningFailed(" ".join(f"{type(fault).__name__}: {fault}".split())) from fault
    weakref.finalize(owner, _release, memory.data_ptr())
    return memory


def touched(memory: Tensor) -> Tensor:
    """The same contiguous memory, all of it there, in large pages where the system has them.

    The driver would have the pages made one after another, small ones; here all threads have them made, and a device
    looks up fewer.
    """
    flat = memory.view(-1).view(torch.uint8)
    start = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (memory.data_ptr() + memory.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is not None and length > 0:  # a wish: what the system makes of it is its own affair
        advise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(HUGE_PAGES))
    flat[:: mmap.PAGESIZE].zero_()
    return memory


def _runtime() -> Any:
    return torch.cuda.cudart()


def _check(result: Any) -> None:
    torch.cuda.check_error(int(result))


def _release(address: int) -> None:
    _runtime().cudaHostUnregister(address)
