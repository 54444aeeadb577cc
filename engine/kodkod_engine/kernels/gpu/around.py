"""What is fused with a linear map of few tokens: a norm before it; SwiGLU, or residuals, behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.residual_norm import normed


@dataclass(frozen=True, slots=True)
class Around:
    """What one map has around it."""

    norm: Tensor | None = None
    """[in]: the input is normalised with these factors first."""
    eps: float = 0.0
    """Of the norm."""
    residual: Tensor | None = None
    """[tokens, out], added."""
    also: Tensor | None = None
    """The same, beside a residual only."""
    is_pair: bool = False
    """Whether rows of the weight are gates and then as many ups: silu(gate) * up comes out."""
    follows: bool = True
    """As `overlap.early` has it."""

    @property
    def kind(self) -> tuple[bool, ...]:
        """What a kernel's speed may depend on."""
        return self.norm is None, self.residual is None, self.also is None, self.is_pair

    def outputs(self, rows: int) -> int:
        """Columns that come out of a weight of so many rows."""
        return rows // (1 + self.is_pair)

    def before(self, x: Tensor) -> Tensor:
        """The input as the map takes it, by a kernel for the norm."""
        return x if self.norm is None else normed(x, self.norm, self.eps, follows=self.follows)

    def behind(self, out: Tensor) -> dict[str, Any]:
        """Arguments of a kernel that ends with `leave`."""
        return {
            "residual": out if self.residual is None else self.residual,
            "also": out if self.also is None else self.also,
            "out": out,
            "HAS_RESIDUAL": self.residual is not None,
            "HAS_MORE": self.also is not None,
            "IS_PAIR": self.is_pair,
        }


@triton.jit
def leave(
    result,
    above,
    residual,
    also,
    out,
    place,
    inside,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MORE: tl.constexpr,
    IS_PAIR: tl.constexpr,
):
    """Store a product, fp32, at some places, with what stands behind it; `above` is the ups' product of a pair."""
    if IS_PAIR:
        result = result / (1.0 + tl.exp(-result)) * above
    if HAS_RESIDUAL:
        result += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_MORE:
        result += tl.load(also + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, result, mask=inside)
