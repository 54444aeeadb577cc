"""What a captured step reads and leaves, at places that stay: the host fills them and replays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from kodkod_engine.kernels.gpu.next_step import Places
from kodkod_engine.layers.draws import Draws
from kodkod_engine.layers.step_batch import Blocks, StepBatch
from kodkod_engine.models.step_graphs import Order

SMALLEST_BUCKET = 256
MOST_STEPS = 16
"""Steps in a row without the host."""


class Ending(StrEnum):
    """What a step comes to."""

    HIDDEN = "hidden"
    """Hidden states before the final norm."""
    GREEDY = "greedy"
    """The most probable next ids."""
    DRAWN = "drawn"
    """Ids drawn as each row's sampling parameters say."""


@dataclass(frozen=True, slots=True)
class ShapeKey:
    """Steps that share a graph."""

    sequences: int
    query_len: int
    context: int
    """Places, an upper bound: see `bucket_of`."""
    ending: Ending

    @property
    def tokens(self) -> int:
        """Rows of the step."""
        return self.sequences * self.query_len


def bucket_of(context_len: int) -> int:
    """The next power of two: contexts share a graph within it."""
    return max(SMALLEST_BUCKET, 1 << (context_len - 1).bit_length())


class StepBuffers:
    """The numbers of one shape, where its graph reads them, and what it leaves.

    They are one run of integers, fp64 as its bits among them: the host fills its copy and sends it whole.
    """

    def __init__(self, key: ShapeKey, window: int, block_size: int, embedded: Tensor) -> None:
        """`window`: ids of a token's window, 1 without n-grams; `embedded`: [tokens, hidden], used as it is."""
        self._key, self._window, tokens = key, window, key.tokens
        sizes = [*(tokens,) * 4, tokens * window, key.sequences * -(-key.context // block_size)]
        if key.ending is Ending.DRAWN:
            sizes += [*(tokens,) * 4, tokens * MOST_STEPS]
        self._host = torch.zeros(sum(sizes), dtype=torch.int64, pin_memory=embedded.is_cuda)
        self._device = self._host.to(embedded.device, copy=True)
        here, there = self._host.split(sizes), self._device.split(sizes)
        self._host_places, self.places = self._places(here[:6]), self._places(there[:6])
        self._host_draws, self.draws = self._draws(here[6:]), self._draws(there[6:])
        self._sent: torch.cuda.Event | None = torch.cuda.Event() if embedded.is_cuda else None
        self.chosen = torch.zeros(MOST_STEPS, tokens, dtype=torch.int64, device=embedded.device)
        """The ids of each step of a visit, where the ending is one of ids."""
        self.embedded = embedded
        """Filled before the graph when the tables are not where it can read them."""
        self.out: Tensor | None = None
        self.replay: Callable[[], None] | None = None
        self.order = Order()
        """Of the kernels that `replay` runs."""
        self.left = 0
        """Steps that may still be taken with what was filled in."""
        self._taken = 0

    def _places(self, parts: tuple[Tensor, ...]) -> Places:
        """The first column of `windows` are the tokens' own ids."""
        step, last, positions, slots, windows, blocks = parts
        return Places(
            step, last, positions, slots, windows.view(-1, self._window), blocks.view(self._key.sequences, -1)
        )

    @staticmethod
    def _draws(parts: tuple[Tensor, ...]) -> Draws | None:
        if not parts:
            return None
        top_k, *floats = parts
        temperature, top_p, min_p, points = (part.view(torch.float64) for part in floats)
        return Draws(temperature, top_k, top_p, min_p, points.view(MOST_STEPS, -1))

    def fill(self, batch: StepBatch, draws: Draws | None = None, num_steps: int = 1) -> None:
        """Send the numbers of so many steps, from the host's memory. `draws`: where the ending asks for them."""
        if self._sent is not None:
            self._sent.synchronize()  # the copy of the step before may still be under way
        to = self._host_places
        to.step.zero_()
        to.last.fill_(num_steps - 1)
        to.positions.copy_(batch.positions)
        to.slots.copy_(batch.slots)
        to.windows.copy_(batch.token_ids[:, None] if batch.windows is None else batch.windows)
        (group,) = batch.groups
        assert isinstance(group.places, Blocks)
        # What lies beyond a sequence's position is never seen, so older blocks may stay there.
        to.blocks[:, : group.places.table.shape[1]] = group.places.table
        if draws is not None:
            self._fill_draws(draws)
        self._device.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

        self.left, self._taken = num_steps, 0

    def take(self, num_steps: int) -> Tensor:
        """Steps on from where the last ones ended; what they leave: ids [num_steps, tokens], or hidden states."""
        assert self.replay is not None
        for _ in range(num_steps):
            self.replay()
        first, self._taken = self._taken, self._taken + num_steps
        self.left -= num_steps
        assert self.out is not None
        return self.out if self._key.ending is Ending.HIDDEN else self.out[first : self._taken]

    def _fill_draws(self, draws: Draws) -> None:
        to = self._host_draws
        assert to is not None
        for name in ("temperature", "top_k", "top_p", "min_p"):
            getattr(to, name).copy_(getattr(draws, name))
        to.points[: len(draws.points)] = draws.points
