"""Mixture of experts with identity experts (arXiv 2509.01322, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kodkod_engine.kernels.expert_mix import expert_mix
from kodkod_engine.kernels.expert_rows import as_rows, expert_rows, takes_expert_rows
from kodkod_engine.kernels.packed_linear import Packed, packed_arrays
from kodkod_engine.kernels.thin_experts import takes_thin_experts, thin_experts
from kodkod_engine.layers.feed_forward import swiglu
from kodkod_engine.layers.grouped_experts import grouped_experts
from kodkod_engine.layers.linear import (
    is_host_bf16,
    is_on_host,
    kernel_rows,
    linear,
    many_rows_linear,
    max_expert_mix_rows,
    narrowed,
    product_dtype,
)
from kodkod_engine.layers.on_device import takes_kernels
from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision, Slot
from kodkod_engine.layers.split_product import has_wide_products, split_product
from kodkod_engine.models.config import ModelConfig

MAX_THIN_EXPERT_ROWS = 32
"""Of a packed expert, on average: up to here it is quicker to unpack it in registers, for six tokens at a time, than in
cache for tiles of sixteen. Measured, 256 experts at full width on two cores: with 16 rows each 121 ms against 149 in 4
bits, 326 against 499 in 8, 145 against 283 in FP8; with 32 rows 237 against 247, 527 against 614, 275 against 373; with
48 the same in 4 bits, with 64 in 8."""

MAX_THIN_PLAIN_ROWS = 3
"""The same of a bf16 expert, which has nothing to unpack. Measured, whole steps of 5 to 16 tokens in turns: 5 to 7 %
less time than with the experts in tiles, whose lanes are mostly empty then."""

MIN_ROWS_TO_UNPACK = 6
"""Of one that has no such code: from here tiles, for which it is unpacked, are quicker than products of single rows.
Measured, 64 experts, row by row against tiles: at 4 rows 22 ms against 28 in 4 bits, 27 against 43 in 8, 67 against 59
in FP8; at 8 rows 43 against 29, 55 against 46, 108 against 62."""

MIN_SPLIT_ROWS = 128
"""From here a device multiplies the router's matrix in three parts; splitting it takes as long as few rows do."""


class Router(nn.Module):
    """Chooses experts and weighs them, in fp32.

    Softmax runs over real and identity experts together. The selection bias steers the choice and nothing else; the
    weights are the chosen probabilities times the scaling factor, not renormalised.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num_choices = config.num_experts + config.num_identity_experts
        self.weight = nn.Parameter(
            torch.empty(num_choices, config.hidden_size, dtype=torch.float32), requires_grad=False
        )
        self.selection_bias = nn.Parameter(torch.empty(num_choices, dtype=torch.float32), requires_grad=False)
        self.experts_per_token = config.experts_per_token
        self.scaling_factor = config.routed_scaling_factor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[tokens, hidden] -> expert ids int64 [tokens, k] and their weights fp32 [tokens, k]."""
        probabilities = self._logits(x).softmax(dim=-1)
        chosen = torch.topk(probabilities + self.selection_bias, self.experts_per_token, dim=-1, sorted=False).indices
        return chosen, probabilities.gather(1, chosen) * self.scaling_factor

    def _logits(self, x: Tensor) -> Tensor:
        is_long = x.dtype == torch.bfloat16 and len(x) >= MIN_SPLIT_ROWS
        if is_long and takes_kernels(x) and has_wide_products(x.device):
            return split_product(x, self.weight)
        return F.linear(x.float(), self.weight)


class MixtureOfExperts(nn.Module):
    """Weighted sum of the chosen experts; an identity expert returns its input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.router = Router(config)
        width, hidden = config.expert_ffn_hidden_size, config.hidden_size
        self.gate_up = nn.Parameter(torch.empty(self.num_experts, 2 * width, hidden), requires_grad=False)
        self.down = nn.Parameter(torch.empty(self.num_experts, hidden, width), requires_grad=False)

    @property
    def homes(self) -> tuple[Slot, Slot]:
        """Where the experts lie: gate and up [experts, 2 * width, hidden], down [experts, hidden, width]."""
        return self.gate_up, self.down

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]; summed in fp32."""
        chosen, weights = self.router(x)
        if self._fits_rows_kernel(x):
            kernel = thin_experts if self._has_thin_rows(chosen) else expert_rows
            return kernel(x, self.gate_up, self.down, chosen, weights)
        if is_host_bf16(self.down) and x.shape[0] <= max_expert_mix_rows() and not torch.is_grad_enabled():
            return expert_mix(x, self.gate_up, self.down, chosen, weights)
        if takes_kernels(x) and x.dtype == self.down.dtype == torch.bfloat16:
            return grouped_experts(x, self.gate_up, self.down, chosen, weights)
        return self._by_expert(x, chosen, weights)

    def _fits_rows_kernel(self, x: Tensor) -> bool:
        return is_host_bf16(self.down) and len(x) > kernel_rows(self.down) and _have_rows_kernel(self.homes, x)

    def _has_thin_rows(self, chosen: Tensor) -> bool:
        is_thin = self._rows_per_expert(chosen) <= MAX_THIN_PLAIN_ROWS
        return is_thin and takes_thin_experts(*map(as_rows, (self.gate_up, self.down)))

    def _rows_per_expert(self, chosen: Tensor) -> float:
        """Of the real experts that somebody chose."""
        counts = chosen.flatten().bincount(minlength=self.num_experts)[: self.num_experts]
        return float(counts.sum()) / max(1, int(counts.count_nonzero()))

    def _by_expert(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        is_identity = chosen >= self.num_experts
        total = x.float() * (weights * is_identity).sum(dim=1, keepdim=True)
        tokens, places = (~is_identity).nonzero(as_tuple=True)
        if len(tokens):
            experts, order = chosen[tokens, places].sort(stable=True)
            own = narrowed(x, self.homes[1], len(x))[tokens[order]]
            rows = self._rows(own, experts, weights[tokens, places][order])
            # Rows lie by expert; a bag is the rows of one token.
            first = torch.searchsorted(tokens, torch.arange(len(x), device=x.device))
            total = total + F.embedding_bag(order.argsort(), rows, first, mode="sum")
        out: Tensor = total.to(x.dtype)
        return out

    def _rows(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Each row through its expert, weighted.

        Args:
            x: [rows, hidden].
            experts: int64 [rows], ascending.
            weights: fp32 [rows].

        Returns:
            [rows, hidden], dtype of x.
        """
        # An expert of a long step may have few rows; it stays on the road of the whole step.
        gate_up, down = self.homes
        multiply: Callable[[Tensor, Slot], Tensor] = many_rows_linear if is_host_bf16(down) else linear
        hit, counts = experts.unique_consecutive(return_counts=True)
        numbers, sizes = hit.tolist(), counts.tolist()
        wide = [multiply(part, gate_up[e]) for e, part in zip(numbers, x.split(sizes), strict=True)]
        inner = (swiglu(torch.cat(wide)) * weights[:, None]).to(x.dtype)
        return torch.cat([multiply(part, down[e]) for e, part in zip(numbers, inner.split(sizes), strict=True)])


class PackedExperts(MixtureOfExperts):
    """The same with experts in 8 or 4 bits; it has `homes` and neither `gate_up` nor `down`."""

    def __init__(self, plain: MixtureOfExperts, precision: Precision) -> None:
        """With the router of `plain`, and unset experts."""
        nn.Module.__init__(self)
        self.num_experts, self.router = plain.num_experts, plain.router
        self.packed_gate_up = PackedParameter(tuple(plain.gate_up.shape), precision, plain.gate_up.shape[1] // 2)
        self.packed_down = PackedParameter(tuple(plain.down.shape), precision, plain.down.shape[1])

    @property
    def homes(self) -> tuple[PackedMatrix, PackedMatrix]:
        """See `MixtureOfExperts`."""
        return self.packed_gate_up.matrix, self.packed_down.matrix

    def forward(self, x: Tensor) -> Tensor:
        """See `MixtureOfExperts`."""
        chosen, weights = self.router(x)
        if takes_kernels(x) and x.dtype == torch.bfloat16:
            return grouped_experts(x, *self.homes, chosen, weights)
        if _have_rows_kernel(self.homes, x):
            gate_up, down = map(_arrays, self.homes)
            mean_rows = self._rows_per_expert(chosen)
            is_few = mean_rows <= MAX_THIN_EXPERT_ROWS and len(x) > kernel_rows(self.homes[1])
            if is_few and takes_thin_experts(gate_up, down):
                return thin_experts(x, gate_up, down, chosen, weights)
            if mean_rows >= MIN_ROWS_TO_UNPACK:
                return expert_rows(x, gate_up, down, chosen, weights)
        return self._by_expert(x, chosen, weights)


def _have_rows_kernel(homes: tuple[Slot, Slot], x: Tensor) -> bool:
    """Whether the kernel of many tokens takes these experts, here."""
    gate_up, down = homes
    is_bf16 = is_on_host(down) and product_dtype(down, x.dtype) == torch.bfloat16
    return is_bf16 and not torch.is_grad_enabled() and takes_expert_rows(gate_up.shape)


def _arrays(home: PackedMatrix) -> Packed:
    return packed_arrays(home.codes, home.scales, home.bits, home.row_block)
