"""What a step minimises: weighted next-token loss of the model, and a little of the draft block's."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a batch's loss is taken, and of what."""

    places: Tensor
    """int64 [n]: documents one after another, padding included."""
    targets: Tensor
    """int64 [n]."""
    weights: Tensor
    """fp32 [n], 1 in all."""

    def to(self, device: torch.device) -> Wanted:
        """On another device, without waiting where that can be."""
        places, targets, weights = (
            values.to(device, non_blocking=True) for values in (self.places, self.targets, self.weights)
        )
        return Wanted(places, targets, weights)

    def pinned(self) -> Wanted:
        """In memory that a GPU copies from by itself."""
        return Wanted(self.places.pin_memory(), self.targets.pin_memory(), self.weights.pin_memory())


@dataclass(frozen=True, slots=True)
class DraftPart:
    """What the draft block learns from."""

    rows: Tensor
    """int64 [documents]: which of the batch."""
    next_ids: Tensor
    """int64 [documents, tokens]."""
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Lesson:
    """A batch with all that chance decides about it."""

    batch: Batch
    wanted: Wanted
    draft: DraftPart | None
    num_tokens: int
    """Without padding."""

    def to(self, device: torch.device) -> Lesson:
        """On another device, without waiting where that can be."""
        draft = self.draft
        if draft is not None:
            rows, next_ids = (values.to(device, non_blocking=True) for values in (draft.rows, draft.next_ids))
            draft = DraftPart(rows, next_ids, draft.wanted.to(device))
        return Lesson(self.batch.to(device), self.wanted.to(device), draft, self.num_tokens)

    def pinned(self) -> Lesson:
        """In memory that a GPU copies from by itself."""
        draft = self.draft
        if draft is not None:
            draft = DraftPart(draft.rows.pin_memory(), draft.next_ids.pin_memory(), draft.wanted.pinned())
        return Lesson(self.batch.pinned(), self.wanted.pinned(), draft, self.num_tokens)


def prepared(batch: Batch, *, draft_share: float, generator: torch.Generator) -> Lesson:
    """Draw what is learnt of a batch; all on the processor.

    Args:
        draft_share: part of the documents the draft block learns from; 0 for none.
        generator: of the samples.
    """
    wanted = _wanted(batch, 1, generator)
    draft = None
    if draft_share > 0:
        part, rows = _some_documents(batch, draft_share, generator)
        next_ids = torch.cat([part.token_ids[:, 1:], part.token_ids[:, :1]], dim=1)
        draft = DraftPart(rows, next_ids, _wanted(part, 2, generator))
    return Lesson(batch, wanted, draft, batch.num_tokens)


def step_loss(model: TrainableModel, lesson: Lesson, *, draft_factor: float) -> StepLoss:
    """One pass.

    Args:
        draft_factor: of the draft block's loss in the total.
    """
    passed = model(lesson.batch.token_ids, lesson.batch.is_token)
    main = _predicted(model, passed.normed, lesson.wanted)
    draft = main.new_zeros(())
    if lesson.draft is not None:
        drafted = model.draft(passed.normed.index_select(0, lesson.draft.rows), lesson.draft.next_ids)
        draft = _predicted(model, drafted, lesson.draft.wanted)
    return StepLoss(main + draft_factor * draft, main.detach(), draft.detach(), passed.choices)


def _some_documents(batch: Batch, share: float, generator: torch.Generator) -> tuple[Batch, Tensor]:
    count = max(1, round(share * len(batch.token_ids)))
    rows = torch.randperm(len(batch.token_ids), generator=generator)[:count].sort().values
    return Batch(batch.token_ids[rows], batch.weights[rows], batch.is_token[rows]), rows


def _wanted(batch: Batch, distance: int, generator: torch.Generator) -> Wanted:
    """Predicting the token `distance` places on, wherever the weight is not 0."""
    weights = sampled_weights(batch.weights[:, distance:], generator)
    rows, columns = weights.nonzero(as_tuple=True)
    chosen = weights[rows, columns]
    places = rows * batch.token_ids.shape[1] + columns
    return Wanted(places, batch.token_ids[rows, columns + distance], chosen / chosen.sum())


def _predicted(model: TrainableModel, normed: Tensor, wanted: Wanted) -> Tensor:
    """Weighted mean loss; the head runs at the wanted places alone."""
    if not len(wanted.places):
        return normed.sum() * 0
    return head_loss(normed.flatten(0, 1).index_select(0, wanted.places), model.head, wanted.targets, wanted.weights)


def sampled_weights(percents: Tensor, generator: torch.Generator) -> Tensor:
    """Weights as fractions, the light ones thinned out: uint8 -> fp32, any shape."""
    dice = torch.rand(percents.shape, generator=generator)
    is_light = (percents > 0) & (percents <= LIGHT_PERCENT)
    factor = torch.where(is_light, LIGHT_SAMPLE * (dice * LIGHT_SAMPLE < 1), 1)
    return percents.float() / 100 * factor
