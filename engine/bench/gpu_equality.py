"""The fused step against the modules on the device: as they are, and with the same experts chosen.

Near ties make two correct roads in bf16 choose other experts, and a whole expert's output is no rounding error. So the
choice of one run is forced on another: what is left then is rounding. A model of two layers is run in fp32 as well, and
neither road may be much further from that than the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from gpu_model import Player
from torch import Tensor

from kodkod_engine.kernels.gpu.route import Routing
from kodkod_engine.layers.moe import Router
from kodkod_engine.layers.step_batch import StepBatch
from kodkod_engine.models import gpu_step
from kodkod_engine.models.gpu_step import GpuStep
from kodkod_engine.models.loading import LoadedModel
from kodkod_engine.models.step_buffers import ShapeKey, StepBuffers


@dataclass(frozen=True, slots=True)
class Choice:
    """What the router of one layer says of a step's tokens."""

    chosen: Tensor
    """int64 [tokens, k]."""
    weights: Tensor
    """fp32 [tokens, k]."""

    def sets(self, num_experts: int) -> Tensor:
        """bool [tokens, experts + 1]: the real experts; the last column is nothing."""
        real = self.chosen.clamp(max=num_experts)
        return torch.zeros(len(real), num_experts + 1, dtype=torch.bool, device=real.device).scatter_(1, real, True)


class EagerStep(GpuStep):
    """The fused step without graphs, so that it can be looked into."""

    def _prepare(self, shape: StepBuffers, key: ShapeKey) -> None:
        def run() -> None:
            shape.out = self._compute(shape, key)

        shape.replay = run


def fused(player: Player, batch: StepBatch, forced: list[Choice] | None = None) -> tuple[Tensor, list[Choice]]:
    """Hidden states of the fused step, and its choices or the ones forced on it."""
    own, choices = gpu_step.route, []
    tokens, num_experts = len(batch.token_ids), player.loaded.config.num_experts

    def routed(*arguments: Any) -> None:
        own(*arguments)
        to: Routing = arguments[-1]
        if forced is not None:
            _put(forced[len(choices)], to, num_experts)
        choices.append(_taken(to, tokens, num_experts))

    gpu_step.route = routed
    try:
        out = EagerStep(player.loaded.model, player.runner.cache)(batch).float().clone()
        player.device.wait()
    finally:
        gpu_step.route = own
    return out, choices


def _taken(to: Routing, tokens: int, num_experts: int) -> Choice:
    """The kernel keeps the identity experts' weights as one sum: here the first of them has it."""
    chosen, weights = to.chosen[:tokens].long(), to.weights[:tokens].clone()
    is_identity = chosen >= num_experts
    is_first = is_identity & (is_identity.cumsum(dim=1) == 1)
    return Choice(chosen, torch.where(is_first, to.identity[:tokens, None], weights))


def _put(choice: Choice, to: Routing, num_experts: int) -> None:
    tokens, is_identity = len(choice.chosen), choice.chosen >= num_experts
    to.chosen[:tokens] = choice.chosen.to(to.chosen.dtype)
    to.weights[:tokens] = choice.weights.masked_fill(is_identity, 0.0)
    to.identity[:tokens] = (choice.weights * is_identity).sum(dim=1)


def modules(player: Player, batch: StepBatch, forced: list[Choice] | None = None) -> tuple[Tensor, list[Choice]]:
    """The same of the modules."""
    choices: list[Choice] = []
    with _router(lambda own, x: forced[len(choices)] if forced is not None else Choice(*own(x)), choices):
        out = player.plain(batch).float().clone()
    return out, choices


@contextmanager
def _router(choose: Callable[[Callable[[Tensor], Any], Tensor], Choice], choices: list[Choice]) -> Iterator[None]:
    own = Router.forward

    def forward(router: Router, x: Tensor) -> tuple[Tensor, Tensor]:
        choice = choose(lambda rows: own(router, rows), x)
        choices.append(choice)
        return choice.chosen, choice.weights

    with mock.patch.object(Router, "forward", forward):
        yield


def differing(left: list[Choice], right: list[Choice], num_experts: int) -> float:
    """The share of real experts that only one of two runs chose."""
    pairs = [(a.sets(num_experts)[:, :-1], b.sets(num_experts)[:, :-1]) for a, b in zip(left, right, strict=True)]
    apart, all_of_them = sum(int((a ^ b).sum()) for a, b in pairs), sum(int(a.sum() + b.sum()) for a, b in pairs)
    return apart / max(1, all_of_them)


def error(got: Tensor, wanted: Tensor) -> float:
    """Norm of the deviation over the norm."""
    return float((got - wanted).norm() / wanted.norm())


@torch.inference_mode()
def equality_row(player: Player, sequences: int, context: int, new: int) -> dict[str, Any]:
    """The fused step against the modules, free and with its experts."""
    batch = player.batch(player.runs(sequences, context, new))
    row: dict[str, Any] = {"precision": str(player.loaded.precisions.experts), "sequences": sequences, "new": new}
    if not player.fused.admits(batch):
        return row | {"fused_step": False}
    replayed = player.fused(batch).float().clone()
    out, choices = fused(player, batch)
    plain, own_choices = modules(player, batch)
    same, _ = modules(player, batch, choices)
    return row | {
        "graph_against_eager": error(replayed, out),
        "relative_error": error(out, plain),
        "experts_that_differ": differing(choices, own_choices, player.loaded.config.num_experts),
        "relative_error_same_experts": error(out, same),
    }


@torch.inference_mode()
def reference_row(player: Player, wide: Player, sequences: int, context: int, new: int) -> dict[str, Any]:
    """Both roads against the same model in fp32, with the experts that fp32 chose."""
    batch = player.batch(player.runs(sequences, context, new))
    wanted, choices = modules(wide, batch)
    by_fused, by_modules = (road(player, batch, choices)[0] for road in (fused, modules))
    return {
        "sequences": sequences,
        "new": new,
        "fused_against_fp32": error(by_fused, wanted),
        "modules_against_fp32": error(by_modules, wanted),
        "ratio": error(by_fused, wanted) / error(by_modules, wanted) if not torch.equal(by_modules, wanted) else None,
    }


def widened(player: Player) -> Player:
    """The same model and cache in fp32: a second copy of everything, so for models of few layers."""
    loaded = player.loaded
    model = copy.deepcopy(loaded.model).float()
    assert model.embedding is not None
    model.embedding.dtype = torch.float32
    wide = LoadedModel(
        loaded.config, model, None, torch.float32, torch.float32, loaded.device, loaded.precisions
    )  # fmt: skip
    other = Player(wide, player.num_tokens, player.device)
    for layer in range(player.runner.layout.num_cache_layers):
        other.runner.cache.layer(layer).copy_(player.runner.cache.layer(layer))
    return other
