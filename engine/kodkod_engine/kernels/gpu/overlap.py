"""Kernels that begin while the one before them on their stream ends: programmatic dependent launch (Hopper and later).

A kernel that may begin early loads its weights, which nobody writes, and then waits for its inputs. Every kernel that
is started so must wait, or what it started would run before its inputs are there; the first after a fork or a join of
streams is started as usual.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

CAPABILITY = (9, 0)

OVERLAPS = False
"""Whether kernels begin early. Read when a kernel is launched, so a graph keeps what held when it was captured."""


@triton.jit
def inputs_are_there(EARLY: tl.constexpr):
    """Wait for the kernel before, then let the next one begin."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()


def early(follows: bool = True) -> dict[str, Any]:
    """Options of a launch.

    Args:
        follows: whether the inputs come from the kernel right before it on its stream.
    """
    if not (OVERLAPS and follows) or triton.knobs.runtime.interpret:
        return {"EARLY": False}
    is_able = not torch.cuda.is_available() or torch.cuda.get_device_capability() >= CAPABILITY
    return {"EARLY": True, "launch_pdl": True} if is_able else {"EARLY": False}
