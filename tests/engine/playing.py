"""Sequences played on a runner by hand, as the engine's loop plays them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import Choice, TokenRun
from kodkod_engine.models.loading import LoadedModel


@dataclass
class Played:
    """One sequence: the ids accepted so far, and the blocks its KV lies in."""

    runner: ModelRunner
    block_ids: list[int]
    ids: list[int] = field(default_factory=list)

    def run(self, new_ids: Sequence[int], choice: Choice | None = None) -> TokenRun:
        """The run that adds ids; they are accepted at once."""
        start, depth = len(self.ids), self.runner.context_tokens
        context = self.ids[max(0, start - depth) :]
        self.ids += new_ids
        choices = () if choice is None else (choice,)
        return TokenRun("played", list(new_ids), context, start, self.block_ids, choices, self.ids)

    def feed(self, new_ids: Sequence[int]) -> Tensor:
        """Logits after each of the new ids: fp32 [new, vocab]."""
        return self.runner.logits([self.run(new_ids)])[0]

    def feed_in_chunks(self, ids: Sequence[int], size: int) -> Tensor:
        """The same, a few tokens per step."""
        return torch.cat([self.feed(ids[start : start + size]) for start in range(0, len(ids), size)])

    def reject(self, count: int) -> None:
        """Take back the last ids; nothing else is undone, as after a rejected draft."""
        del self.ids[len(self.ids) - count :]


def play(loaded: LoadedModel, count: int = 1, *, tokens: int = 512, block_size: int = 4) -> list[Played]:
    """Sequences with room for `tokens` each on one fresh runner, their blocks neighbours."""
    each = -(-tokens // block_size)
    runner = ModelRunner(loaded, each * count, block_size)
    # Fresh memory may hold what an earlier test left: nothing that was not written may be read.
    runner.cache._latents.fill_(float("nan"))
    return [Played(runner, list(range(index * each, (index + 1) * each))) for index in range(count)]


def play_scattered(loaded: LoadedModel, count: int = 1, *, tokens: int = 512, block_size: int = 4) -> list[Played]:
    """The same with the blocks of the sequences interleaved, last block first."""
    played = play(loaded, count, tokens=tokens, block_size=block_size)
    each = len(played[0].block_ids)
    for index, sequence in enumerate(played):
        sequence.block_ids = [(each - 1 - place) * count + index for place in range(each)]
    return played


def greedy(played: Played, prompt: Sequence[int], count: int) -> list[int]:
    """Plain decoding, one token per step."""
    token = int(played.feed(prompt)[-1].argmax())
    out = [token]
    while len(out) < count:
        token = int(played.feed([token])[-1].argmax())
        out.append(token)
    return out


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Largest deviation against the spread (max - min) of what is wanted."""
    spread = float(wanted.max() - wanted.min())
    return float((got.double() - wanted.double()).abs().max()) / spread
