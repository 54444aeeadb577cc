"""Requests for a benchmark, of any engine: random prompts, answers of a forced length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import torch

from kodkod_engine.api import Completion, Engine, GenerationRequest, SamplingParams, Speculation, collect

if TYPE_CHECKING:
    from kodkod_engine.backends.native import NativeEngine

Result = TypeVar("Result")

LOWEST_ID = 3
"""Ids below it may be special."""


def random_prompts(vocab_size: int, count: int, length: int, generator: torch.Generator) -> list[tuple[int, ...]]:
    """Prompts that no cache and no earlier prompt knows."""
    ids = torch.randint(LOWEST_ID, vocab_size, (count, length), generator=generator)
    return [tuple(row) for row in ids.tolist()]


def complete_together(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    max_tokens: int,
    speculation: Speculation | None = None,
    draft_sources: tuple[tuple[int, ...], ...] = (),
) -> list[Completion]:
    """Greedy answers of `max_tokens` each, asked for at once."""
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)

    async def together() -> list[Completion]:
        requests = [
            GenerationRequest(prompt, sampling, speculation=speculation, draft_sources=draft_sources)
            for prompt in prompts
        ]
        return list(await asyncio.gather(*(collect(engine.generate(request)) for request in requests)))

    return asyncio.run(together())


def decode_step_s(engine: Engine, prompts: Sequence[tuple[int, ...]], steps: int) -> float:
    """Seconds per step of decoding all prompts side by side."""
    complete_together(engine, prompts, 1)  # found in the cache afterwards, so that all begin to decode in one step
    done = complete_together(engine, prompts, steps + 1)
    return max(one.usage.decode_s for one in done) / steps


def on_engine_thread(engine: NativeEngine, work: Callable[[], Result]) -> Result:
    """Do something where the engine computes.

    Each thread that computes gets OpenMP threads of its own, and while there are more of them than cores, all of them
    sleep between operations: beside the engine's, transformers took up to twice as long.
    """
    done: Future[Result] = Future()

    def watch(_runs: object, _hidden: object) -> None:
        if not done.done():
            _fulfil(done, work)

    engine.runner.watchers.append(watch)
    try:
        complete_together(engine, [(engine.vocab_size - 1,)], 1)
    finally:
        engine.runner.watchers.remove(watch)
    return done.result()


def _fulfil(done: Future[Result], work: Callable[[], Result]) -> None:
    try:
        done.set_result(work())
    except Exception as fault:  # noqa: BLE001  # whoever asked is told; the engine's thread would die of it
        done.set_exception(fault)
