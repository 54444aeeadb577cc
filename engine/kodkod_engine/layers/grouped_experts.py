"""The experts of a long step as two grouped products, with no host in between.

Rows are sorted by expert on the device; the grouped product takes how many there are of each from there too, so
nothing waits for the host and 256 experts cost two launches. Choices of identity experts sort behind all real ones and
belong to no group: their rows are never computed. Where torch has no such product for a device, it is ours, and so is
that of a turn with packed experts, which reads their codes as they lie.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kodkod_engine.layers.on_device import by_pieces
from kodkod_engine.layers.packed import PackedMatrix, Slot

MAJORS_WITH_GROUPED_PRODUCTS = (9, 10)
"""Of compute capability: Hopper, and Blackwell of data centres."""


def grouped_experts(x: Tensor, gate_up: Slot, down: Slot, chosen: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each token's experts, identity experts among them.

    Args:
        x: bf16 [tokens, hidden].
        gate_up: bf16, or packed and perhaps in pinned memory; [experts, 2 * width, hidden].
        down: the same, [experts, hidden, width].
        chosen: int64 [tokens, k]; ids from `experts` on are identity experts.
        weights: fp32 [tokens, k].

    Returns:
        [tokens, hidden]; summed in fp32.
    """
    from kodkod_engine.kernels.gpu.expert_sum import expert_sum
    from kodkod_engine.kernels.gpu.swiglu_rows import swiglu_rows

    num_experts = down.shape[0]
    by_expert, order = chosen.flatten().sort(stable=True)
    ends = torch.searchsorted(by_expert, torch.arange(num_experts, device=x.device), right=True).to(torch.int32)
    # Nothing here is named that is not needed to the end: a row of each choice is twelve times the step.
    inner = swiglu_rows(_products(x.index_select(0, order // chosen.shape[1]), gate_up, ends), ends[-1:])
    rows = _products(inner, down, ends)
    places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    return expert_sum(x, rows, places.view_as(chosen), chosen, weights, num_experts)


def _products(x: Tensor, home: Slot, ends: Tensor) -> Tensor:
    """Each row through its expert: [rows, in] -> [rows, out]."""
    from kodkod_engine.kernels.gpu.grouped_packed import grouped_packed, takes_grouped_packed

    if not isinstance(home, PackedMatrix):
        return _product(x, home, ends)
    if takes_grouped_packed(x, home):
        return grouped_packed(x, home, ends)
    return by_pieces(x, home, lambda piece: _product(x, piece, ends))


def _product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    if _multiplies_groups(x.device):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=ends)
    from kodkod_engine.kernels.gpu.grouped_rows import grouped_rows

    return grouped_rows(x, weight, ends)


@cache
def _multiplies_groups(device: torch.device) -> bool:
    """Whether torch has a grouped product of its own there; elsewhere it waits for the host and goes group by group."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in MAJORS_WITH_GROUPED_PRODUCTS
