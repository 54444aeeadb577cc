"""Batches for the training loop: made when they are asked for, or ahead of time beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any, Protocol

import torch

from kodkod_engine.training.batches import Mixture
from kodkod_engine.training.losses import Lesson, prepared

AHEAD = 8
"""Batches that wait."""
_LOOK_UP_S = 0.2


class Supply(Protocol):
    """Lessons in the order of the seed."""

    def next(self) -> Lesson:
        """The next one, on the processor."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on behind the last one that was handed out."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; before the first one is asked for."""
        ...

    def close(self) -> None:
        """No more will be asked for."""
        ...


class OnDemand:
    """Makes each when it is asked for."""

    def __init__(self, mixture: Mixture, progress: Callable[[int], float], *, draft_share: float, seed: int) -> None:
        """Args: progress: how far the run is, 0 to 1, once so many steps were made."""
        self.mixture = mixture
        self._progress = progress
        self._draft_share = draft_share
        self._generator = torch.Generator().manual_seed(seed)
        self._steps = 0

    def next(self) -> Lesson:
        """See `Supply`."""
        batch = self.mixture.next_batch(self._progress(self._steps))
        self._steps += 1
        return prepared(batch, draft_share=self._draft_share, generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        """See `Supply`."""
        return {
            "mixture": self.mixture.state_dict(),
            "generator": self._generator.get_state(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Supply`."""
        self.mixture.load_state_dict(state["mixture"])
        self._generator.set_state(state["generator"])
        self._steps = state["steps"]

    def close(self) -> None:
        """See `Supply`."""


@dataclass(frozen=True, slots=True)
class _Made:
    lesson: Lesson
    state: dict[str, Any]
    """After it."""


class AheadOfTime:
    """Makes some in a thread while others are trained on."""

    def __init__(self, inner: Supply, *, pin: bool) -> None:
        """Args: pin: whether they go into pinned memory, for a GPU."""
        self._inner = inner
        self._pin = pin
        self._made: Queue[_Made | Exception] = Queue(AHEAD)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._state = inner.state_dict()

    def next(self) -> Lesson:
        """See `Supply`. Raises what the making of it raised."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._make, name="batches", daemon=True)
            self._thread.start()
        made = self._made.get()
        if isinstance(made, Exception):
            raise made
        self._state = made.state
        return made.lesson

    def state_dict(self) -> dict[str, Any]:
        """See `Supply`."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Supply`."""
        self._inner.load_state_dict(state)
        self._state = state

    def close(self) -> None:
        """See `Supply`."""
        self._closed.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._made.get(timeout=_LOOK_UP_S)
            except Empty:
                self._thread.join(_LOOK_UP_S)

    def _make(self) -> None:
        try:
            while not self._closed.is_set():
                lesson = self._inner.next()
                self._put(_Made(lesson.pinned() if self._pin else lesson, self._inner.state_dict()))
        except Exception as fault:  # noqa: BLE001  # whoever asks for the batch is told
            self._put(fault)

    def _put(self, made: _Made | Exception) -> None:
        while not self._closed.is_set():
            try:
                self._made.put(made, timeout=_LOOK_UP_S)
            except Full:
                continue
            return
