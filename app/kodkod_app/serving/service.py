"""What the endpoints share: the model, what it generated, and how a request becomes the engine's."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

from kodkod_app.bootstrap import Model
from kodkod_app.serving.memory import GeneratedTurns, PromptBuilder
from kodkod_app.serving.requests import Sampled
from kodkod_engine.api import Engine, SamplingParams, Usage
from kodkod_engine.chat.tokenizer import Tokenizer

_SEEDS = 2**63
_ID_BYTES = 12


@dataclass
class Service:
    """One model that is served."""

    model: Model
    name: str
    """What clients call it."""
    tell: Callable[[str], object] = lambda _: None
    """Takes a line for the person for each request."""
    turns: GeneratedTurns = field(default_factory=GeneratedTurns)
    began_at: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    def __post_init__(self) -> None:
        self.prompts = PromptBuilder(self.model.tokenizer, self.turns)

    @property
    def engine(self) -> Engine:
        """The model's."""
        return self.model.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.model.tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the same request may get another answer."""
        return f"kodkod-{version('kodkod')}-{self.tokenizer.fingerprint[:8]}"

    def told_cost(self, kind: str, usages: list[Usage], completion_tokens: int) -> None:
        """Tell the person what a request cost."""
        prompt, reused = (sum(getattr(usage, f"{part}_tokens") for usage in usages) for part in ("prompt", "reused"))
        seconds = max(usage.queue_s + usage.prefill_s + usage.decode_s for usage in usages)
        self.tell(
            f"{kind}: {prompt:,} prompt tokens, {reused:,} reused; {completion_tokens:,} written; {seconds:.1f} s"
        )


def sampling_of(
    request: Sampled, *, index: int, seed: int, max_tokens: int, stops: tuple[str, ...], logprobs: int | None
) -> SamplingParams:
    """How the choice with an index is to be drawn."""
    return SamplingParams(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=max(0, request.top_k or 0),
        top_p=request.top_p or 1.0,
        min_p=request.min_p or 0.0,
        seed=seed + index,
        max_tokens=max_tokens,
        stop_strings=stops,
        logprobs=logprobs,
    )


def seed_of(request: Sampled) -> int:
    """The request's, or one that nobody knows beforehand."""
    return secrets.randbelow(_SEEDS) if request.seed is None else request.seed


def new_id(kind: str) -> str:
    """A name that no other answer or call has."""
    return f"{kind}{secrets.token_hex(_ID_BYTES)}"
