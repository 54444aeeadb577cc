"""What a step minimises: weighted next-token loss of the model, and a little of the draft block's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kodkod_engine.training.batches import Batch
from kodkod_engine.training.head_loss import head_loss
from kodkod_engine.training.model import TrainableModel

LIGHT_PERCENT = 5
"""Positions of this weight and below are sampled: they are many, and each costs a row of the vocabulary."""
LIGHT_SAMPLE = 3
"""One in so many is taken, with as many times its weight."""


class StepLoss(NamedTuple):
    """Of one batch."""

    total: Tensor
    """What is minimised."""
    main: Tensor
    """Mean in nats over the batch's weight."""
    draft: Tensor
    """The same of the draft block; 0 without one."""
    choices: Tensor
    """See `model.Passed`."""


def step_loss(
    model: TrainableModel, batch: Batch, *, draft_factor: float, draft_share: float, generator: torch.Generator
) -> StepLoss:
    """One pass.

    Args:
        draft_factor: of the draft block's loss in the total.
        draft_share: part of the documents the draft block learns from.
        generator: of the samples; on the CPU.
    """
    passed = model(batch.token_ids, batch.is_token)
    main = _predicted(model, passed.normed, batch, 1, generator)
    draft = main.new_zeros(())
    if model.mtp is not None and draft_factor > 0:
        part, rows = _some_documents(batch, draft_share, generator)
        next_ids = torch.cat([part.token_ids[:, 1:], part.token_ids[:, :1]], dim=1)
        draft = _predicted(model, model.draft(passed.normed[rows], next_ids), part, 2, generator)
    return StepLoss(main + draft_factor * draft, main.detach(), draft.detach(), passed.choices)


def _some_documents(batch: Batch, share: float, generator: torch.Generator) -> tuple[Batch, Tensor]:
    count = max(1, round(share * len(batch.token_ids)))
    rows = torch.randperm(len(batch.token_ids), generator=generator)[:count].sort().values.to(batch.token_ids.device)
    return Batch(batch.token_ids[rows], batch.weights[rows], batch.is_token[rows]), rows


def _predicted(
    model: TrainableModel, normed: Tensor, batch: Batch, distance: int, generator: torch.Generator
) -> Tensor:
    """Weighted mean loss of predicting the token `distance` places on; the head runs where the weight is not 0."""
    weights = sampled_weights(batch.weights[:, distance:], generator)
    places = weights.nonzero(as_tuple=True)
    if not len(places[0]):
        return normed.sum() * 0
    chosen = weights[places]
    targets = batch.token_ids[:, distance:][places]
    return head_loss(normed[places], model.head, targets, chosen / chosen.sum())


def sampled_weights(percents: Tensor, generator: torch.Generator) -> Tensor:
    """Weights as fractions, the light ones thinned out: uint8 -> fp32, any shape."""
    dice = torch.rand(percents.shape, generator=generator).to(percents.device)
    is_light = (percents > 0) & (percents <= LIGHT_PERCENT)
    factor = torch.where(is_light, LIGHT_SAMPLE * (dice * LIGHT_SAMPLE < 1), 1)
    return percents.float() / 100 * factor
