"""From one decode step to the next on the device: the chosen ids become the tokens of the step that follows.

Row by row the id is noted, the window of the N-gram hash moves on by it, and so do the position and the slot its KV
will be written to. In the last step of a visit nothing moves, so a step that is repeated stays the same step. An id
whose logit is no number is noted as `NO_NUMBER`: only the host can end anything, and it sees nothing else of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_NUMBER = -1
"""Noted where NaN or infinity was the best there was."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where each row of a step stands: what the next one changes. All contiguous and on one device."""

    step: Tensor
    """int64 [rows]: which step of the visit it is, from 0."""
    last: Tensor
    """int64 [rows]: the visit's last one. Where it is more than 0, a row is a sequence."""
    positions: Tensor
    """int64 [rows]."""
    slots: Tensor
    """int64 [rows]."""
    windows: Tensor
    """int64 [rows, window]: each token with its predecessors."""
    blocks: Tensor
    """int64 [sequences, blocks], which hold the places of the whole visit."""


def reference(ids: Tensor, logits: Tensor, at: Places, chosen: Tensor, block_size: int) -> None:
    """int64 [rows], of logits [rows, vocab], into `chosen` [steps, rows], and on to the next step, in place."""
    rows = torch.arange(len(ids), device=ids.device)
    chosen[at.step, rows] = torch.where(logits[rows, ids].isfinite(), ids, NO_NUMBER)
    goes_on = at.step < at.last
    moved = torch.cat([ids[:, None], at.windows[:, :-1]], dim=1)
    at.windows.copy_(torch.where(goes_on[:, None], moved, at.windows))
    at.positions.add_(goes_on)
    block = at.blocks[rows * goes_on, at.positions // block_size * goes_on]
    at.slots.copy_(torch.where(goes_on, block * block_size + at.positions % block_size, at.slots))
    at.step.add_(goes_on)


@triton.jit
def _kernel(
    ids,
    logits,
    vocab,
    steps,
    lasts,
    positions,
    slots,
    windows,
    blocks,
    chosen,
    num_blocks,
    NO_NUMBER: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    own = tl.load(ids + row)
    step = tl.load(steps + row)
    # By its bits: a comparison of numbers may be compiled as if there were no others.
    bits = tl.load(logits + row * vocab + own).to(tl.float32).to(tl.int32, bitcast=True)
    noted = tl.where((bits & 0x7FFFFFFF) < 0x7F800000, own, NO_NUMBER)
    tl.store(chosen + step * tl.num_programs(0) + row, noted)
    if step < tl.load(lasts + row):
        columns = tl.arange(0, WIDTH)
        is_earlier = (columns > 0) & (columns < WINDOW)
        window = tl.load(windows + row * WINDOW + columns - 1, mask=is_earlier, other=0)
        position = tl.load(positions + row) + 1
        block = tl.load(blocks + row * num_blocks + position // BLOCK_SIZE)
        tl.debug_barrier()  # all of it is read before any of it is written
        tl.store(windows + row * WINDOW + columns, tl.where(columns == 0, own, window), mask=columns < WINDOW)
        tl.store(positions + row, position)
        tl.store(slots + row, block * BLOCK_SIZE + position % BLOCK_SIZE)
        tl.store(steps + row, step + 1)


def next_step(ids: Tensor, logits: Tensor, at: Places, chosen: Tensor, block_size: int) -> None:
    """See `reference`."""
    window = at.windows.shape[1]
    grid: Any = (len(ids),)
    _kernel[grid](
        ids,
        logits,
        logits.shape[1],
        at.step,
        at.last,
        at.positions,
        at.slots,
        at.windows,
        at.blocks,
        chosen,
        at.blocks.shape[1],
        NO_NUMBER=NO_NUMBER,
        BLOCK_SIZE=block_size,
        WINDOW=window,
        WIDTH=triton.next_power_of_2(window),
        num_warps=1,
    )
