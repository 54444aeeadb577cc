"""Engines of each back end, built alike and audited alike. A new back end joins the conformance suite here."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, collect
from kodkod_engine.backends.looped import LoopedEngine
from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig

BACKENDS = ("vllm",) if os.environ.get("KODKOD_TEST_VLLM") else ("native", "scripted", "visits")
"""`visits` is the native one with several steps per visit. vLLM has pins of its own, so it is tested in an environment
of its own; see `test_vllm.py`."""
VOCAB_SIZE = 320
EOS_ID = 2
FIRST_BYTE_ID = 21
"""Ids from here to FIRST_BYTE_ID + 255 are the bytes of the byte tokenizer."""
WAIT_S = 30.0
STEPS_PER_VISIT = 4


@dataclass(frozen=True)
class Dictation:
    """A constraint under which a model can say nothing but `answer`; afterwards anything."""

    answer: Sequence[int]

    def allowed_ids(self, generated_ids: Sequence[int]) -> list[int] | None:
        return [self.answer[len(generated_ids)]] if len(generated_ids) < len(self.answer) else None


class Rule:
    """A constraint made of a function; remembers what it was asked."""

    def __init__(self, function) -> None:
        self.function = function
        self.asked: list[list[int]] = []

    def allowed_ids(self, generated_ids):
        self.asked.append(list(generated_ids))
        return self.function(list(generated_ids))


@dataclass
class Bench:
    """Builds engines of one back end; `audit` closes them and looks for what they left behind."""

    name: str
    folder: Path
    engines: list[LoopedEngine] = field(default_factory=list)

    def make(
        self, *, max_context_tokens: int = 4_096, with_tokenizer: bool = True, pace_s: float = 0.0, **options: Any
    ) -> LoopedEngine:
        """`pace_s` slows a step down, so that a probe can act in the middle of an answer."""
        # One token per step, unless a probe wants drafts: many look at what happens between two tokens.
        config = EngineConfig(**{"max_cached_tokens": 8_192, "max_step_tokens": 256, "speculation": "none", **options})
        build = {
            "native": self._native,
            "scripted": self._scripted,
            "visits": self._visits,
            "vllm": self._vllm,
        }[self.name]
        engine = build(max_context_tokens, with_tokenizer, config)
        self.engines.append(engine)
        if pace_s:
            around_steps(engine, before=lambda: time.sleep(pace_s))
        return engine

    def _native(self, max_context_tokens: int, with_tokenizer: bool, config: EngineConfig) -> LoopedEngine:
        # Not at the top: vLLM does not start in a process that has loaded llvmlite.
        from kodkod_engine.backends.native import load_native
        from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

        folder = self.folder / f"{max_context_tokens}-{with_tokenizer}"
        if not folder.exists():
            sizes = {"num_layers": 1, "max_position_embeddings": max_context_tokens}
            write_random_checkpoint(folder, {**TINY, **sizes}, with_mtp=False)
            if with_tokenizer:
                write_byte_tokenizer(folder)
        return load_native(folder, config)

    def _visits(self, max_context_tokens: int, with_tokenizer: bool, config: EngineConfig) -> LoopedEngine:
        steps_per_visit = config.steps_per_visit or STEPS_PER_VISIT
        return self._native(max_context_tokens, with_tokenizer, replace(config, steps_per_visit=steps_per_visit))

    def _scripted(self, max_context_tokens: int, with_tokenizer: bool, config: EngineConfig) -> LoopedEngine:
        return ScriptedEngine(
            improvise,
            vocab_size=VOCAB_SIZE,
            eos_id=EOS_ID,
            max_context_tokens=max_context_tokens,
            tokenizer=self._tokenizer() if with_tokenizer else None,
            config=config,
        )

    def _vllm(self, max_context_tokens: int, with_tokenizer: bool, config: EngineConfig) -> Any:
        from engine.backends.vllm_bench import make

        return make(self.folder, max_context_tokens, with_tokenizer, config)

    def _tokenizer(self) -> Tokenizer:
        folder = self.folder / "tokenizer"
        if not folder.exists():
            folder.mkdir()
            write_byte_tokenizer(folder)
        return Tokenizer.from_folder(folder)

    def num_blocks(self, block_size: int) -> int:
        """Of an engine made with that size and the usual cache; vLLM's attention on a CPU has one size."""
        return 8_192 // (32 if self.name == "vllm" else block_size)

    def audit(self) -> None:
        """Close every engine: all blocks must have come back, and no thread may be left."""
        for engine in self.engines:
            engine.close()
            if isinstance(engine, LoopedEngine):
                engine.check_integrity()
            stats = engine.stats()
            assert (stats.running, stats.waiting) == (0, 0)
            assert stats.free_blocks + stats.cached_blocks == stats.total_blocks
        assert not engine_threads()


def improvise(prompt_ids: tuple[int, ...]) -> Sequence[int]:
    """A long answer, the same for the same prompt, of bytes alone."""
    return random.Random(hash(prompt_ids)).choices(range(FIRST_BYTE_ID, FIRST_BYTE_ID + 256), k=5_000)


def around_steps(engine: LoopedEngine, before: Callable[[], object]) -> None:
    """Have something done on the engine thread before each step; what it raises is a fault of the step."""
    runner, name = stepper(engine)
    plain_run = getattr(runner, name)

    def run(*arguments):
        # On a device readers are told once it computes: who is held up here must not hold them up.
        getattr(runner, "meanwhile", lambda: None)()
        before()
        return plain_run(*arguments)

    setattr(runner, name, run)


def stepper(engine: LoopedEngine) -> tuple[Any, str]:
    """What computes a step, and the name of its method."""
    loop = engine._loop
    return (loop._runner, "run") if isinstance(engine, LoopedEngine) else (loop.engine, "step")


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kodkod-engine"]


def ask(prompt: Sequence[int], max_tokens: int = 16, *, answer: Sequence[int] = (), **fields: Any) -> GenerationRequest:
    """A request that goes on past EOS unless told otherwise; with `answer` the model is made to say that.

    `fields` are those of the request or of its sampling parameters.
    """
    of_request = {name: fields.pop(name) for name in ("constraint", "parent_id") if name in fields}
    if answer:
        of_request["constraint"] = Dictation(answer)
    sampling = SamplingParams(**{"max_tokens": max_tokens, "ignore_eos": True, **fields})
    return GenerationRequest(tuple(prompt), sampling, **of_request)


async def answer_to(engine: LoopedEngine, prompt: Sequence[int], max_tokens: int = 16, **fields: Any) -> Completion:
    """`ask`, read to the end."""
    return await collect(engine.generate(ask(prompt, max_tokens, **fields)))


async def until(holds: Callable[[], bool]) -> None:
    """Wait for the engine thread to make something true; the event loop goes on."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.001)
