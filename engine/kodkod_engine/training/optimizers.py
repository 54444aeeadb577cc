"""Who updates which weight: Muon the matrices, AdamW words, norms and router, lazy Adam the rows of the tables.

Muon (Jordan et al., 2024) makes the update of a matrix nearly orthogonal; scaled after arXiv 2502.16982 it shares
AdamW's learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kodkod_engine.training.initial import pace
from kodkod_engine.training.model import TrainableModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards 1."""
NEWTON_SCHULZ_STEPS = 5
MATCHED_RMS = 0.2
"""Root mean square of an AdamW update of a matrix."""


def orthogonalised(update: Tensor) -> Tensor:
    """Nearly the closest matrix with singular values 1; [..., rows, columns], each matrix on its own."""
    a, b, c = NEWTON_SCHULZ
    is_tall = update.shape[-2] > update.shape[-1]
    x = update.mT if is_tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    out: Tensor = x.mT if is_tall else x
    return out


_Own = tuple[Tensor, dict[str, Any]]
"""A parameter and the group that it is in."""


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal; for matrices [rows, columns] and stacks of them."""

    def __init__(
        self, params: Iterable[dict[str, Any]], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody passes a closure
        """Update every parameter that has a gradient."""
        del closure
        by_shape: dict[tuple[int, ...], list[_Own]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape[-2:]), []).append((parameter, group))
        for own in by_shape.values():
            self._update(own)

    def _update(self, own: Sequence[_Own]) -> None:
        """Matrices of one shape, made orthogonal side by side: a GPU has more to do at a time."""
        updates = [self._update_of(parameter, group) for parameter, group in own]
        stacked = orthogonalised(torch.cat([update.flatten(0, -3) if update.dim() > 2 else update[None]
                                            for update in updates]))  # fmt: skip
        parts = stacked.split([update.shape[:-2].numel() for update in updates])
        for (parameter, group), part in zip(own, parts, strict=True):
            scale = MATCHED_RMS * math.sqrt(max(parameter.shape[-2:]))
            decayed = parameter.mul_(1 - group["lr"] * group["weight_decay"])
            decayed.add_(part.view_as(parameter), alpha=-group["lr"] * scale)

    def _update_of(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(grad, 1 - group["momentum"])
        return grad.lerp(momentum, group["momentum"])


class Optimizers:
    """All of a model's, stepped together."""

    def __init__(
        self,
        model: TrainableModel,
        *,
        learning_rate: float,
        table_learning_rate: float,
        weight_decay: float,
        amplification: float,
        use_muon: bool,
    ) -> None:
        paces = _paces(model, amplification)
        self.dense = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if model.tables is not None:
            self.dense = [parameter for parameter in self.dense if parameter is not model.tables]
        matrices = {id(parameter) for parameter in _matrices(model)} if use_muon else set()
        adam, muon = (
            [
                {"params": [parameter], "lr": learning_rate * paces[id(parameter)]}
                for parameter in self.dense
                if (id(parameter) in matrices) is is_matrix
            ]
            for is_matrix in (False, True)
        )
        if model.tables is not None and model.is_static:
            adam.append({"params": [model.tables], "lr": table_learning_rate})
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(adam, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        ]
        if muon:
            self._optimizers.append(Muon(muon, lr=learning_rate, weight_decay=weight_decay))
        if model.tables is not None and not model.is_static:
            self._optimizers.append(torch.optim.SparseAdam([model.tables], lr=table_learning_rate, betas=(0.9, 0.98)))
        self._full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]

    def step(self, factor: float, max_grad_norm: float) -> Tensor:
        """Clip and update at `factor` times the full learning rates; gradients are gone afterwards.

        Returns:
            The dense gradients' norm before clipping.
        """
        norm = nn.utils.clip_grad_norm_(self.dense, max_grad_norm)
        for optimizer, rates in zip(self._optimizers, self._full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> list[dict[str, Any]]:
        """Of all, in order."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Of all, in order."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _paces(model: TrainableModel, amplification: float) -> dict[int, float]:
    """Per parameter, by identity; those that no published name singles out are 1."""
    paces = {id(parameter): 1.0 for parameter in model.parameters()}
    by_slot = {
        slot.untyped_storage().data_ptr(): pace(name, model, amplification)
        for name, slot in model.checkpoint_slots().items()
    }
    for parameter in model.parameters():
        paces[id(parameter)] = by_slot[parameter.untyped_storage().data_ptr()]
    return paces


def _matrices(model: TrainableModel) -> list[nn.Parameter]:
    """What Muon takes: every matrix between hidden states, words, head, router and tables left out."""
    others = {id(model.head), id(model.tables), id(model.main.words)}
    if model.mtp is not None:
        others.add(id(model.mtp.word))
    others |= {id(layer.experts.router.weight) for layer in model.main.dual_layers}
    return [parameter for parameter in model.parameters() if parameter.dim() > 1 and id(parameter) not in others]
