"""What goes to `vllm serve` and back: completions of its OpenAI-compatible interface, by token ids."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from kodkod_engine.api import SamplingParams, TokenLogprob

DATA = "data: "
DONE = "[DONE]"
ID_PREFIX = "token_id:"


class WireFault(Exception):
    """The server told of a fault, or sent what cannot be read. One line."""


class _Logprobs(BaseModel):
    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = Field(default_factory=list)


class _Choice(BaseModel):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(BaseModel):
    choices: list[_Choice] = Field(default_factory=list)
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


class _Card(BaseModel):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class ModelList(BaseModel):
    """The reply of `/models`."""

    data: list[_Card]


@dataclass(frozen=True, slots=True)
class Reply:
    """One line of a stream."""

    tokens: tuple[TokenLogprob, ...] = ()
    """New tokens; their log-probability is NaN where none was asked for."""
    finish_reason: str | None = None
    cached_tokens: int | None = None
    """Of the prompt, on the line that tells it."""


@dataclass(frozen=True, slots=True)
class Asking:
    """One request to the server; an answer may take several."""

    prompt_ids: Sequence[int]
    sampling: SamplingParams
    max_tokens: int
    stop_ids: Collection[int]
    num_top: int | None
    allowed_ids: Collection[int] | None = None
    seed: int = 0

    def payload(self, model: str) -> dict[str, Any]:
        """The body; every filter is named, or the server would take the checkpoint's generation defaults."""
        sampling = self.sampling
        fields: dict[str, Any] = {
            "model": model,
            "prompt": list(self.prompt_ids),
            "max_tokens": self.max_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            # Which ids end a turn is said in full; the server's own idea of it would come on top.
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": True,
            "skip_special_tokens": False,
            "return_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.temperature:
            fields["seed"] = self.seed
        if self.num_top is not None:
            fields |= {"logprobs": self.num_top, "return_tokens_as_token_ids": True}
        if self.allowed_ids is not None:
            fields["allowed_token_ids"] = sorted(self.allowed_ids)
        return fields


def read_line(line: str) -> Reply | None:
    """One line of a stream of server-sent events; None for one that says nothing.

    Raises:
        WireFault: an error of the server, or a line that cannot be read.
    """
    if not line.startswith(DATA):
        return None
    body = line.removeprefix(DATA).strip()
    if body == DONE:
        return None
    try:
        chunk = _Chunk.model_validate_json(body)
    except ValidationError as fault:
        raise WireFault(f"it sent what is no completion ({one_line(body, 80)})") from fault
    if chunk.error is not None:
        raise WireFault(error_text(body))
    details = chunk.usage.prompt_tokens_details if chunk.usage else None
    cached = details.cached_tokens if details else None
    if not chunk.choices:
        return Reply(cached_tokens=cached)
    choice = chunk.choices[0]
    return Reply(_tokens(choice), choice.finish_reason, cached)


def _tokens(choice: _Choice) -> tuple[TokenLogprob, ...]:
    if choice.token_ids is None:
        raise WireFault("it sends no token ids; a vLLM of 0.10.2 or newer does")
    if choice.logprobs is None:
        return tuple(TokenLogprob(token_id, math.nan) for token_id in choice.token_ids)
    given = choice.logprobs
    if not len(choice.token_ids) == len(given.token_logprobs) == len(given.top_logprobs):
        raise WireFault("it sends another number of log-probabilities than of tokens")
    return tuple(
        TokenLogprob(token_id, math.nan if chosen is None else chosen, _top(top or {}))
        for token_id, chosen, top in zip(choice.token_ids, given.token_logprobs, given.top_logprobs, strict=True)
    )


def _top(named: dict[str, float]) -> tuple[tuple[int, float], ...]:
    if not all(name.startswith(ID_PREFIX) and name.removeprefix(ID_PREFIX).isdigit() for name in named):
        raise WireFault("it names tokens by their text; a vLLM of 0.10.2 or newer gives ids when asked to")
    pairs = [(int(name.removeprefix(ID_PREFIX)), value) for name, value in named.items()]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))


def error_text(body: str) -> str:
    """What an error reply says, on one line: `{"error": {"message": ...}}`, or the text itself."""
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = body
    return one_line(said)


def one_line(text: object, limit: int = 300) -> str:
    """Others' text in one line of bounded length, nothing in it that a terminal would obey."""
    words = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:limit]
