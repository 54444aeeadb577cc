"""Keeps experts equally busy without a loss term (arXiv 2509.01322, section 2.1.1).

A router's selection bias steers which experts are chosen and has no gradient. After each step every real expert's bias
moves with what it lacks of its target share. The identity experts' stays: as the real ones take their target, the
rest of the choices, a fixed number on average, is theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kodkod_engine.training.model import TrainableModel


def default_real_experts(model: TrainableModel) -> float:
    """Real experts a token has on average when every choice, identity or not, is as frequent."""
    config = model.config
    return config.experts_per_token * config.num_experts / (config.num_experts + config.num_identity_experts)


@torch.no_grad()
def rebalance(model: TrainableModel, choices: Tensor, *, real_experts_per_token: float, rate: float) -> None:
    """Move the biases after a step.

    Args:
        choices: int64 [layers, choices], how many tokens chose each expert.
        real_experts_per_token: wanted on average.
        rate: change of a bias, in probability, for an expert that nobody chose though every token should have.
    """
    config = model.config
    target = real_experts_per_token / config.num_experts
    for layer, counts in zip(model.main.dual_layers, choices, strict=True):
        tokens = counts.sum() / config.experts_per_token
        lacking = target - counts[: config.num_experts] / tokens
        layer.experts.router.selection_bias[: config.num_experts] += rate * lacking


def load_figures(model: TrainableModel, choices: Tensor) -> dict[str, float]:
    """Real experts per token, and the busiest expert's load over the mean one's, worst layer."""
    real = choices[:, : model.config.num_experts].float()
    tokens = choices.sum(dim=1) / model.config.experts_per_token
    return {
        "real_experts": float((real.sum(dim=1) / tokens).mean()),
        "max_load": float((real.max(dim=1).values / real.mean(dim=1).clamp(min=1e-9)).max()),
    }
