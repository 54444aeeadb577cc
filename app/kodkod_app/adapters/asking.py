"""An engine for callers that are not asyncio's: one model for the process, turns asked for and waited for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kodkod_agent.model_turn import Turn, run_turn
from kodkod_app.bootstrap import Model, open_model
from kodkod_app.settings import load_settings
from kodkod_engine.api import SamplingParams
from kodkod_engine.chat.ledger import TokenLedger

MODEL_VARIABLE = "KODKOD_MODEL"
"""Which model the benches' own commands, which know no flag of ours, work with; the bundled one where it is not set."""
_ResultT = TypeVar("_ResultT")


@cache
def shared_model() -> Model:
    """The process's one model, opened at the first call and open until the process ends.

    Raises:
        CheckpointError: it cannot be used.
    """
    settings = load_settings(Path.cwd(), trusted=False, environment=os.environ)
    return open_model(settings.model, settings.engine)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own: benches call from many threads, some with a loop of their own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="kodkod-adapter", daemon=True).start()
    return loop


def wait_for(work: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """Do asynchronous work and wait for it, from any thread but the loop's own."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


def next_turn(model: Model, ledger: TokenLedger, sampling: SamplingParams) -> Turn:
    """The model's next turn, written into the ledger.

    Raises:
        EngineError: the engine failed.
    """
    return wait_for(run_turn(model.engine, ledger, sampling, lambda _: None))


def sampling_of(arguments: dict[str, Any] | None) -> SamplingParams:
    """From what benches call a model's arguments."""
    given = arguments or {}
    return SamplingParams(
        temperature=float(given.get("temperature") or 0.0),
        top_p=float(given.get("top_p") or 1.0),
        seed=int(given.get("seed") or 0),
        max_tokens=int(given.get("max_tokens") or 4096),
    )
