"""The dense feed-forward network: SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kodkod_engine.layers.linear import Linear, narrowed
from kodkod_engine.layers.on_device import takes_kernels


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(first half) * second half: [..., 2 * width] -> [..., width]."""
    if takes_kernels(gate_and_up) and gate_and_up.dim() == 2:
        from kodkod_engine.kernels.gpu.swiglu_rows import swiglu_rows

        return swiglu_rows(gate_and_up)
    gate, up = gate_and_up.chunk(2, dim=-1)
    activated = F.silu(gate)
    return activated * up if activated.requires_grad else activated.mul_(up)


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix so that the input is read once."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * width)
        self.down = Linear(width, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        out: Tensor = self.down(swiglu(self.gate_up(narrowed(x, self.gate_up.home, len(x)))))
        return out.to(x.dtype)
