"""How well a model predicts held-out documents: loss, accuracy by weight class, and what its draft block is worth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kodkod_engine.training.batches import Batch, cut_into_batches, stack_pieces
from kodkod_engine.training.model import TrainableModel
from kodkod_engine.training.shards import read_shard

ROWS_AT_ONCE = 1024


@dataclass(slots=True)
class ClassFigures:
    """Of the tokens that have one weight."""

    tokens: int = 0
    hits: int = 0
    """Predicted first of all tokens."""
    loss_sum: float = 0.0
    drafts: int = 0
    """Tokens the draft block was asked for."""
    accepted: int = 0
    """Where the draft block's first choice is the model's."""

    def told(self) -> dict[str, float | int]:
        """As figures to print."""
        return {
            "tokens": self.tokens,
            "accuracy": self.hits / max(1, self.tokens),
            "loss": self.loss_sum / max(1, self.tokens),
            "draft_acceptance": self.accepted / max(1, self.drafts),
        }


@dataclass(slots=True)
class Evaluation:
    """Figures by weight in percent, 0 left out."""

    by_weight: dict[int, ClassFigures] = field(default_factory=lambda: defaultdict(ClassFigures))

    @property
    def loss(self) -> float:
        """Weighted mean in nats."""
        weight = sum(percent * figures.tokens for percent, figures in self.by_weight.items())
        return sum(percent * figures.loss_sum for percent, figures in self.by_weight.items()) / max(1, weight)

    def told(self) -> dict[str, object]:
        """As plain values, for JSON."""
        accepted = sum(figures.accepted for figures in self.by_weight.values())
        drafts = sum(figures.drafts for figures in self.by_weight.values())
        classes = {str(percent): figures.told() for percent, figures in sorted(self.by_weight.items())}
        return {"loss": self.loss, "draft_acceptance": accepted / max(1, drafts), "by_weight": classes}


@torch.no_grad()
def evaluate(
    model: TrainableModel,
    shard_path: str | Path,
    *,
    max_documents: int | None = None,
    batch_tokens: int = 8192,
    max_document_tokens: int = 2048,
) -> Evaluation:
    """Run a shard's documents, the first `max_documents` of them.

    Raises:
        ShardFault: the shard cannot be used.
    """
    shard = read_shard(shard_path, vocab_size=model.config.vocab_size)
    limit = min(max_document_tokens, batch_tokens)
    pieces = [(0, start, stop) for start, stop in shard.pieces(limit)[:max_documents].tolist()]
    evaluation = Evaluation()
    device = model.head.device
    for batch_pieces in cut_into_batches(pieces, batch_tokens):
        _add(evaluation, model, stack_pieces([shard], batch_pieces).to(device))
    return evaluation


def _add(evaluation: Evaluation, model: TrainableModel, batch: Batch) -> None:
    normed = model(batch.token_ids, batch.is_token).normed
    choices, losses = _choices(model, normed[:, :-1], batch.token_ids[:, 1:])
    weights = batch.weights[:, 1:]
    hits = choices == batch.token_ids[:, 1:]
    drafted = None
    if model.mtp is not None:
        next_ids = torch.cat([batch.token_ids[:, 1:], batch.token_ids[:, :1]], dim=1)
        drafted, _ = _choices(model, model.draft(normed, next_ids)[:, :-2], batch.token_ids[:, 2:])
    for percent in weights.unique().tolist():
        if percent:
            is_class = weights == percent
            figures = evaluation.by_weight[percent]
            figures.tokens += int(is_class.sum())
            figures.hits += int(hits[is_class].sum())
            figures.loss_sum += float(losses[is_class].sum())
            if drafted is not None:
                # A draft stands where the model's own choice for the same place would.
                figures.drafts += int(is_class[:, 1:].sum())
                figures.accepted += int((drafted == choices[:, 1:])[is_class[:, 1:]].sum())


def _choices(model: TrainableModel, normed: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Most probable tokens, and the targets' losses: both [documents, tokens]."""
    pairs = zip(normed.flatten(0, 1).split(ROWS_AT_ONCE), targets.flatten().split(ROWS_AT_ONCE), strict=True)
    best, losses = [], []
    for rows, wanted in pairs:
        logits = F.linear(rows, model.head).float()
        best.append(logits.argmax(dim=-1))
        losses.append(F.cross_entropy(logits, wanted, reduction="none"))
    return torch.cat(best).view_as(targets), torch.cat(losses).view_as(targets)
