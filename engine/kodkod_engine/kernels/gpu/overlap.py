"""Kernels that begin while the one before them on their stream ends: programmatic dependent launch (Hopper and later).

A kernel that may begin early loads its weights, which nobody writes, and then waits for its inputs. Every kernel that
is started so must wait, or what it started would run before its inputs are there; the first after a fork or a join of
streams is started as usual. As each waits for the one before it to end, nothing is written that an earlier one reads,
however many have begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

CAPABILITY = (9, 0)

_overlaps: ContextVar[bool] = ContextVar("overlaps", default=False)


@contextmanager
def beginning_early(is_wanted: bool) -> Iterator[None]:
    """Kernels launched inside begin early, or do not; a graph keeps what held when it was captured."""
    token = _overlaps.set(is_wanted)
    try:
        yield
    finally:
        _overlaps.reset(token)


def can_begin_early(device: torch.device) -> bool:
    """Whether the device knows of it."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


@triton.jit
def inputs_are_there(EARLY: tl.constexpr):
    """Let the next kernel begin, then wait for the one before."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


def early(follows: bool = True) -> dict[str, Any]:
    """Options of a launch.

    Args:
        follows: whether the inputs come from the kernel right before it on its stream.
    """
    return {"EARLY": True, "launch_pdl": True} if follows and _overlaps.get() else {"EARLY": False}
