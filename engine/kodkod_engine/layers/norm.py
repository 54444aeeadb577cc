"""Root-mean-square normalisation (arXiv 1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kodkod_engine.kernels.rms_norm import rms_norm
from kodkod_engine.layers.linear import max_thin_rows
from kodkod_engine.layers.on_device import takes_kernels


class RMSNorm(nn.Module):
    """Statistics in fp32, the result cast back before it meets the weight, as the published model does."""

    def __init__(self, size: int, eps: float, *, dtype: torch.dtype | None = None) -> None:
        """`dtype`: of the weight and of what comes out; None takes the default."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        if self._fits_kernel(x):
            return rms_norm(x, self.weight, self.eps)
        if takes_kernels(x) and x.dim() == 2:
            from kodkod_engine.kernels.gpu.residual_norm import normed

            return normed(x, self.weight, self.eps)
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight

    def _fits_kernel(self, x: Tensor) -> bool:
        is_plain = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        return is_plain and x.dim() == 2 and x.shape[0] <= max_thin_rows() and not torch.is_grad_enabled()
