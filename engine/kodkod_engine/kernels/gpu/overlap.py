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
from enum import IntEnum
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

CAPABILITY = (9, 0)


class Lead(IntEnum):
    """When a kernel may begin."""

    NONE = 0
    """Once the one before it has ended."""
    ONE = 1
    """Once the one before it has its inputs."""
    MANY = 2
    """Once the one before it has begun, which may be waiting itself: as many as there is room for."""


_lead: ContextVar[Lead] = ContextVar("lead", default=Lead.NONE)


@contextmanager
def beginning(lead: Lead) -> Iterator[None]:
    """When kernels launched inside begin; a graph keeps what held when it was captured."""
    token = _lead.set(lead)
    try:
        yield
    finally:
        _lead.reset(token)


def can_begin_early(device: torch.device) -> bool:
    """Whether the device knows of it."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


@triton.jit
def inputs_are_there(EARLY: tl.constexpr):
    """Wait for the kernel before, and let the next one begin: `EARLY` is a `Lead`."""
    if EARLY == 2:
        gdc_launch_dependents()
    if EARLY:
        gdc_wait()
    if EARLY == 1:
        gdc_launch_dependents()


def early(follows: bool = True) -> dict[str, Any]:
    """Options of a launch.

    Args:
        follows: whether the inputs come from the kernel right before it on its stream.
    """
    lead = int(_lead.get()) if follows else 0
    return {"EARLY": lead, "launch_pdl": True} if lead else {"EARLY": 0}
