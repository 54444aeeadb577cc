"""Weights to begin with, and the embedding's amplification.

An averaged embedding enters the residual stream so small that the blocks' outputs drown it (arXiv 2601.21204,
section 3). Amplifying it by a constant needs nothing of whoever runs the model: the factor lies in the word vectors and
in the projections of the N-gram rows, and where the word vectors are the head as well, its inverse lies in the norms
before the head. Each such tensor learns at a pace scaled as its values are, so the optimizer sees the plain ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kodkod_engine.training.model import TrainableModel

ROUTER_STD = 0.02
ROW_STD = 0.3


def default_amplification(hidden_size: int, num_parts: int) -> float:
    """What brings the mean of `num_parts` vectors to the size of the blocks' inputs."""
    return math.sqrt(hidden_size) * math.sqrt(num_parts)


@torch.no_grad()
def initialise(model: TrainableModel, *, amplification: float, seed: int) -> None:
    """Fill every weight; the same seed gives the same ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, slot in model.checkpoint_slots().items():
        slot.copy_(_first_value(name, slot, model, amplification, generator))


def _first_value(
    name: str, slot: Tensor, model: TrainableModel, amplification: float, generator: torch.Generator
) -> Tensor:
    if name.endswith("e_score_correction_bias"):
        return torch.zeros_like(slot)
    if slot.dim() == 1:
        return torch.ones_like(slot) * pace(name, model, amplification)
    return torch.randn(slot.shape, generator=generator) * _std(name, slot, model) * pace(name, model, amplification)


def _std(name: str, slot: Tensor, model: TrainableModel) -> float:
    hidden = model.config.hidden_size
    if "embedders" in name:
        return ROW_STD
    if "router" in name:
        return ROUTER_STD
    if name.endswith(("embed_tokens.weight", "lm_head.weight")) or "post_projs" in name:
        return 1 / math.sqrt(hidden)
    std = 1 / math.sqrt(slot.shape[1])
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        # What is added to the residual stream, 5 times a layer.
        std /= math.sqrt(5 * model.config.num_layers)
    return std


def pace(name: str, model: TrainableModel, amplification: float) -> float:
    """Factor on a tensor's values and on its learning rate, by its published name."""
    if name == "model.embed_tokens.weight":
        return amplification
    if "post_projs" in name:
        # What leaves the projections has a word vector's size.
        return amplification / math.sqrt(model.config.hidden_size)
    if name in ("model.norm.weight", "model.mtp.norm.weight") and model.main.lm_head is None:
        return 1 / amplification
    return 1.0
