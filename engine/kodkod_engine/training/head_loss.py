"""The language model head and its loss at chosen positions.

A small model's step is dominated by tensors as wide as the vocabulary. On a processor they live a few hundred rows at a
time: loss and gradient of such a piece are computed together while its logits are in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_ONCE = 512
SMALLEST_PROBABILITY = 1e-30


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of cross entropies.

    Args:
        hidden: [rows, hidden], normalised.
        head: [vocab, hidden].
        targets: int64 [rows].
        weights: fp32 [rows].

    Returns:
        A scalar in nats.
    """
    if hidden.device.type == "cpu" and hidden.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
        out: Tensor = _PieceWise.apply(hidden, head, targets, weights)  # type: ignore[no-untyped-call]  # torch left it without
        return out
    losses = F.cross_entropy(F.linear(hidden, head).float(), targets, reduction="none")
    return (losses * weights).sum()


class _PieceWise(torch.autograd.Function):
    """Computes the gradients on the way forward; the way back scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """See `head_loss`."""
        wants_gradient = any(ctx.needs_input_grad)
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            probabilities = F.linear(hidden[rows], head).softmax(dim=-1)
            target, weight = targets[rows, None], weights[rows, None]
            of_target = probabilities.gather(1, target)
            total -= (of_target.clamp(min=SMALLEST_PROBABILITY).log() * weight).sum()
            if wants_gradient:
                probabilities.scatter_(1, target, of_target - 1).mul_(weight)
                torch.mm(probabilities, head, out=grad_hidden[rows])
                grad_head.addmm_(probabilities.t(), hidden[rows])
        ctx.save_for_backward(grad_hidden, grad_head)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of hidden and head."""
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grads[0], grad_head * grads[0], None, None
