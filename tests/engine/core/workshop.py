"""A loop over a runner that only counts, and requests by name."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, collect
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.loop import EngineLoop
from kodkod_engine.core.prefix_store import PrefixStore
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import ChosenToken, TokenRun
from kodkod_engine.core.stream import ThreadedStream

VOCAB_SIZE = 1_000
WAIT_S = 30.0


class CountingRunner:
    """The token after a sequence of n tokens is n."""

    context_tokens = 3

    def __init__(self) -> None:
        self.steps: list[tuple[tuple, tuple[TokenRun, ...]]] = []
        self.visits: list[int] = []
        self.expected: list[tuple[list[int], list[int]]] = []
        self.before: Callable[[], object] = lambda: None

    def expect(self, context_ids, token_ids):
        self.expected.append((list(context_ids), list(token_ids)))

    def run(self, copies, runs, num_steps=1):
        self.before()
        # The blocks are the sequence's own list, which is empty once it ended.
        kept = tuple(replace(run, block_ids=tuple(run.block_ids)) for run in runs)
        self.steps.append((tuple(copies), kept))
        self.visits.append(num_steps)
        tokens = [tuple(map(ChosenToken, range(run.end, run.end + num_steps))) for run in runs]
        return [said if run.choices else () for run, said in zip(runs, tokens, strict=True)]


class DeviceRunner(CountingRunner):
    """One whose steps a device computes. What is launched, and whose reader is told, stands in `events`."""

    overlaps = True

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] = lambda: None
        self.events: list[str] = []
        monkeypatch.setattr(ThreadedStream, "wake", lambda stream: stream._chunks and self.events.append(stream.id))

    def run(self, copies, runs, num_steps=1):
        chosen = super().run(copies, runs, num_steps)
        self.events.append("launch")
        self.meanwhile()
        return chosen


class Workshop:
    """A loop, its runner, and requests by name."""

    def __init__(
        self,
        num_blocks: int = 64,
        max_step_tokens: int = 8,
        max_running: int = 4,
        steps_per_visit: int = 1,
        store: PrefixStore | None = None,
        runner: CountingRunner | None = None,
    ) -> None:
        self.runner = runner or CountingRunner()
        self.loop = EngineLoop(
            BlockPool(num_blocks, 4),
            self.runner,
            vocab_size=VOCAB_SIZE,
            max_step_tokens=max_step_tokens,
            max_running=max_running,
            steps_per_visit=steps_per_visit,
            store=store,
        )

    def submit(
        self, name: str, prompt: list[int], max_tokens: int = 4, *, max_total_tokens: int | None = None, **fields
    ) -> ThreadedStream:
        stream = ThreadedStream(name, self.loop.cancel)
        request = GenerationRequest(tuple(prompt), **{"sampling": SamplingParams(max_tokens=max_tokens), **fields})
        total = max_total_tokens or len(prompt) + max_tokens
        sequence = Sequence(name, list(prompt), len(prompt), total)
        self.loop.submit(sequence, Answer(request, stream, eos_id=0, tokenizer=None))
        return stream

    def ask(self, name: str, prompt: list[int], max_tokens: int = 4, **fields) -> Completion:
        return asyncio.run(collect(self.submit(name, prompt, max_tokens, **fields)))

    def close(self) -> None:
        """Close, and find every block returned."""
        self.loop.close()
        self.loop.check_integrity()
        stats = self.loop.stats
        assert stats.free_blocks + stats.cached_blocks == stats.total_blocks
        assert (stats.running, stats.waiting) == (0, 0)
        assert not any(thread.name == "kodkod-engine" for thread in threading.enumerate())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)
