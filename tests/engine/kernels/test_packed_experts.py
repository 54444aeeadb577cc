"""The packed experts against their reference: shared experts, identity experts, tokens with no real expert."""

from __future__ import annotations

import pytest
import torch

from kodkod_engine.kernels.packed_experts import packed_experts, reference
from kodkod_engine.kernels.packing import group_size_for, pack

NUM_EXPERTS, NUM_IDENTITY = 6, 3


def _packed(values: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    return pack(values, bits, group_size_for(values.shape[-1]))


@pytest.mark.parametrize(("bits", "hidden", "width"), [(4, 256, 128), (8, 96, 40)])
def test_equals_the_reference(bits: int, hidden: int, width: int) -> None:
    generator = torch.Generator().manual_seed(hidden)
    gate_up = _packed(torch.randn(NUM_EXPERTS, 2 * width, hidden, generator=generator) / hidden**0.5, bits)
    down = _packed(torch.randn(NUM_EXPERTS, hidden, width, generator=generator) / width**0.5, bits)
    for tokens in (1, 2, 5, 33):
        x = torch.randn(tokens, hidden, generator=generator)
        order = [torch.randperm(NUM_EXPERTS + NUM_IDENTITY, generator=generator) for _ in range(tokens)]
        chosen, weights = torch.stack(order)[:, :4], torch.rand(tokens, 4, generator=generator)
        case = (x, gate_up, down, bits, chosen, weights)
        torch.testing.assert_close(packed_experts(*case), reference(*case), rtol=1e-3, atol=1e-3)


def test_identity_experts_alone_return_the_weighted_input() -> None:
    gate_up, down = _packed(torch.randn(NUM_EXPERTS, 80, 96), 8), _packed(torch.randn(NUM_EXPERTS, 96, 40), 8)
    x = torch.randn(3, 96)
    out = packed_experts(x, gate_up, down, 8, torch.full((3, 2), NUM_EXPERTS), torch.full((3, 2), 3.0))
    torch.testing.assert_close(out, x * 6)
