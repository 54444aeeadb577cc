"""The whole state of a training run in one file, so that it can stop at any time and go on exactly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch

from kodkod_engine.errors import CheckpointCorrupt

STATE_NAME = "state.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a state; one that was there is replaced only when the new one is whole."""
    partial = folder / f"{STATE_NAME}.partial"
    torch.save(state, partial)
    partial.replace(folder / STATE_NAME)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The state of a run, on the CPU; None when there is none.

    Raises:
        CheckpointCorrupt: the file is not a run's state.
    """
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as fault:
        raise CheckpointCorrupt(f"{path}: not the state of a training run; remove it to begin anew") from fault
    return state


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one has its usual effect. Elsewhere than in the main thread
    signals are left alone."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        stop.set()
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
