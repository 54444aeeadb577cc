"""From shards to batches: sources mixed by proportion, documents of like length side by side.

Everything is a function of the seed and of a few counters, so a run that stopped goes on with the very next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kodkod_engine.training.shards import Shard, ShardFault, read_shard

POOL_BATCHES = 32
"""Documents of so many batches are drawn together and sorted by length."""
LENGTH_STEP = 16
"""Batches are padded to a multiple of this many tokens."""

Piece = tuple[int, int, int]
"""Source, first token, the one after the last."""


@dataclass(frozen=True, slots=True)
class Source:
    """A shard's part in the mixture."""

    path: Path
    proportion: float = 1.0
    """Share of the tokens, relative to the other sources of the time."""
    begin: float = 0.0
    """From which part of the run on, 0 to 1."""
    end: float = 1.0
    """Up to which part of the run."""


def parse_source(text: str) -> Source:
    """`PATH[:PROPORTION[@BEGIN-END]]`, as on the command line.

    Raises:
        ValueError: another form, or numbers out of range.
    """
    path, _, rest = text.rpartition(":")
    if not path:
        return Source(Path(text))
    proportion, _, phase = rest.partition("@")
    begin, _, end = phase.partition("-")
    try:
        source = Source(Path(path), float(proportion), float(begin or 0), float(end or 1))
    except ValueError as fault:
        raise ValueError(
            f"{text}: write PATH:PROPORTION or PATH:PROPORTION@BEGIN-END, e.g. a.safetensors:3@0-0.5"
        ) from fault
    if source.proportion <= 0 or not 0 <= source.begin < source.end <= 1:
        raise ValueError(f"{text}: the proportion must be above 0, and 0 <= BEGIN < END <= 1")
    return source


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents side by side, padded at the right."""

    token_ids: Tensor
    """int64 [documents, tokens]."""
    weights: Tensor
    """uint8, same shape: percent of the loss on predicting the token at this place; 0 at the first."""
    is_token: Tensor
    """bool, same shape."""

    @property
    def num_tokens(self) -> int:
        """Without padding."""
        return int(self.is_token.sum())

    def to(self, device: torch.device) -> Batch:
        """On another device, without waiting where that can be."""
        token_ids, weights, is_token = (
            values.to(device, non_blocking=True) for values in (self.token_ids, self.weights, self.is_token)
        )
        return Batch(token_ids, weights, is_token)

    def pinned(self) -> Batch:
        """In memory that a GPU copies from by itself."""
        return Batch(self.token_ids.pin_memory(), self.weights.pin_memory(), self.is_token.pin_memory())


def stack_pieces(shards: Sequence[Shard], pieces: Sequence[Piece]) -> Batch:
    """A batch of these documents."""
    longest = max(stop - start for _, start, stop in pieces)
    shape = (len(pieces), -(-longest // LENGTH_STEP) * LENGTH_STEP)
    token_ids = np.zeros(shape, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.uint8)
    is_token = np.zeros(shape, dtype=np.bool_)
    for row, (source, start, stop) in enumerate(pieces):
        token_ids[row, : stop - start] = shards[source].tokens[start:stop]
        weights[row, 1 : stop - start] = shards[source].weights[start + 1 : stop]
        is_token[row, : stop - start] = True
    return Batch(torch.from_numpy(token_ids), torch.from_numpy(weights), torch.from_numpy(is_token))


def cut_into_batches(pieces: Sequence[Piece], max_tokens: int) -> list[list[Piece]]:
    """Pieces in order of length, as many side by side as fit `max_tokens` with their padding."""
    batches: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece[2] - piece[1]):
        padded = -(-(piece[2] - piece[1]) // LENGTH_STEP) * LENGTH_STEP
        if not batches or (len(batches[-1]) + 1) * padded > max_tokens:
            batches.append([])
        batches[-1].append(piece)
    return batches


class Mixture:
    """An endless row of batches."""

    def __init__(
        self, sources: Sequence[Source], *, vocab_size: int, batch_tokens: int, max_document_tokens: int, seed: int
    ) -> None:
        """Raises ShardFault for a shard that cannot be used, ValueError when some time of the run has no source."""
        self.sources = tuple(sources)
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.shards = [read_shard(source.path, vocab_size=vocab_size) for source in sources]
        self._pieces = [shard.pieces(min(max_document_tokens, batch_tokens)) for shard in self.shards]
        for shard, pieces in zip(self.shards, self._pieces, strict=True):
            if not len(pieces):
                raise ShardFault(f"{shard.path}: no document of two tokens or more; make the shard again")
        _check_cover(self.sources)
        self._orders: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self._drawn = [0] * len(self.sources)
        self._pool_number = -1
        self._pool_progress = 0.0
        self._drawn_before: list[int] = list(self._drawn)
        self._batches: list[list[Piece]] = []
        self._next = 0

    def next_batch(self, progress: float) -> Batch:
        """The next one; `progress` from 0 to 1 says which sources are on."""
        if self._next >= len(self._batches):
            self._fill(progress)
        self._next += 1
        return stack_pieces(self.shards, self._batches[self._next - 1])

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on from here."""
        return {
            "pool_number": self._pool_number,
            "pool_progress": self._pool_progress,
            "drawn_before": list(self._drawn_before),
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ValueError when the run had other sources."""
        if len(state["drawn_before"]) != len(self.sources):
            raise ValueError("this run was begun with other sources; give the same ones in the same order")
        if state["pool_number"] >= 0:
            self._drawn = list(state["drawn_before"])
            self._pool_number = state["pool_number"] - 1
            self._fill(state["pool_progress"])
            self._next = state["next"]

    def _fill(self, progress: float) -> None:
        self._pool_number += 1
        self._pool_progress = progress
        self._drawn_before = list(self._drawn)
        self._batches = cut_into_batches(self._draw_pool(progress), self.batch_tokens)
        np.random.default_rng([self.seed, 1, self._pool_number]).shuffle(self._batches)
        self._next = 0

    def _draw_pool(self, progress: float) -> list[Piece]:
        """Always from the source that is furthest behind its proportion."""
        active = [index for index, source in enumerate(self.sources) if source.begin <= progress < source.end]
        active = active or [index for index, source in enumerate(self.sources) if source.end == 1]
        tokens = dict.fromkeys(active, 0.0)
        pieces = []
        while sum(tokens.values()) < POOL_BATCHES * self.batch_tokens:
            source = min(active, key=lambda index: tokens[index] / self.sources[index].proportion)
            start, stop = self._draw(source)
            tokens[source] += stop - start
            pieces.append((source, start, stop))
        return pieces

    def _draw(self, source: int) -> tuple[int, int]:
        """Each document once an epoch, in an order of its own."""
        count = len(self._pieces[source])
        epoch, place = divmod(self._drawn[source], count)
        self._drawn[source] += 1
        if (source, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != source}
            self._orders[source, epoch] = np.random.default_rng([self.seed, 0, source, epoch]).permutation(count)
        start, stop = self._pieces[source][self._orders[source, epoch][place]].tolist()
        return start, stop


def _check_cover(sources: Sequence[Source]) -> None:
    """Whether at any time of the run some source is on."""
    reached = 0.0
    for source in sorted(sources, key=lambda source: source.begin):
        if source.begin <= reached:
            reached = max(reached, source.end)
    if reached < 1:
        raise ValueError(f"no data from {reached:.0%} of the run on; let the sources' phases cover 0 to 1")
