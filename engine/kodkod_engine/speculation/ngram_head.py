"""Drafts read off the N-gram embedding: a low-rank head on what a token and its predecessors are embedded as.

The first open question of arXiv 2601.21204, section 4.3. Nothing of the model runs, so a draft costs two thin products;
but it knows no more than the last N tokens. `engine/bench/drafters.py` trains a head and says what it is worth; a
checkpoint folder that has one in `ngram_head.safetensors` is drafted for with it.
"""

from __future__ import annotations

from collections.abc import Sequence as Run
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.sampler import draw
from kodkod_engine.errors import CheckpointCorrupt
from kodkod_engine.layers.ngram_hash import ABSENT
from kodkod_engine.models.config import ModelConfig
from kodkod_engine.speculation.drafter import NO_DRAFT, Draft, DraftTask

FILE_NAME = "ngram_head.safetensors"

MAX_STEPS = 3


@dataclass(frozen=True, slots=True)
class NgramHead:
    """Logits of the next token: up times down times the normalised embedding."""

    down: Tensor
    """[rank, hidden]."""
    up: Tensor
    """[vocab, rank]."""

    def logits(self, embedded: Tensor) -> Tensor:
        """[rows, hidden] as the model embeds tokens -> fp32 [rows, vocab]."""
        normed = embedded.float() * embedded.float().square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt()
        return normed @ self.down.t() @ self.up.t()

    def save(self, folder: Path) -> None:
        """Write it beside a checkpoint."""
        tensors = {"down": self.down.bfloat16().contiguous(), "up": self.up.bfloat16().contiguous()}
        save_file(tensors, folder / FILE_NAME, metadata={"format": "pt"})


def load_ngram_head(folder: Path, config: ModelConfig, device: torch.device) -> NgramHead | None:
    """The head of a checkpoint, None when it has none.

    Raises:
        CheckpointCorrupt: the file is damaged, or of another model.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        head = NgramHead(tensors["down"].float().to(device), tensors["up"].float().to(device))
    except (SafetensorError, KeyError, OSError) as fault:
        raise CheckpointCorrupt(f"{path} cannot be read ({fault}); remove it or make it again") from fault
    rank = head.down.shape[0] if head.down.dim() else 0
    if head.down.shape != (rank, config.hidden_size) or head.up.shape != (config.vocab_size, rank):
        raise CheckpointCorrupt(f"{path} belongs to another model; remove it or make it again")
    return head


class NgramHeadDrafter:
    """See `drafter.Drafter`."""

    name = "ngram_head"

    def __init__(self, runner: ModelRunner, head: NgramHead) -> None:
        self._runner = runner
        self._head = head

    @torch.inference_mode()
    def draft(self, tasks: Run[DraftTask]) -> list[Draft]:
        """See `Drafter`."""
        if self._runner.loaded.model.embedding is None:
            return [NO_DRAFT] * len(tasks)
        depth = self._runner.context_tokens
        tails = [[*task.sequence.token_ids[-depth - 1 :], *task.prefix_ids][-depth - 1 :] for task in tasks]
        ids: list[list[int]] = [[] for _ in tasks]
        sure: list[list[float]] = [[] for _ in tasks]
        for _ in range(min(MAX_STEPS, max(task.max_tokens for task in tasks))):
            logits = self._next_logits([[ABSENT] * (depth + 1 - len(tail)) + tail for tail in tails])
            for place, task in enumerate(tasks):
                token_id = self._choose(logits[place], task, len(ids[place]))
                sure[place].append(float(logits[place].softmax(dim=-1)[token_id]))
                ids[place].append(token_id)
                tails[place] = [*tails[place], token_id][-depth - 1 :]
        return [
            Draft(tuple(own[: task.max_tokens]), tuple(own_sure[: task.max_tokens]))
            for own, own_sure, task in zip(ids, sure, tasks, strict=True)
        ]

    def _next_logits(self, tails: list[list[int]]) -> Tensor:
        """int [streams, 1 + context], the latest last -> fp32 [streams, vocab]."""
        embedding = self._runner.loaded.model.embedding
        assert embedding is not None
        windows = torch.tensor(tails, device=self._runner.loaded.device).flip(1)
        with self._runner.threads(len(tails)):
            return self._head.logits(embedding(windows[:, 0].contiguous(), windows))

    @staticmethod
    def _choose(logits: Tensor, task: DraftTask, num_before: int) -> int:
        sampling = task.request.sampling
        if sampling.temperature == 0:
            return int(logits.argmax())
        return draw(logits, sampling, task.sequence.num_tokens + len(task.prefix_ids) + num_before)

    def end(self, request_id: str) -> None:
        """See `Drafter`. Nothing is kept."""
