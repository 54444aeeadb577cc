"""A server that answers as `vllm serve` 0.32 does, over real HTTP, with a model of a few lines.

The shapes of its replies were taken from vLLM's CPU build. `--skip-tokenizer-init` and `--enable-prompt-tokens-details`
are on.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

VOCAB_SIZE = 320
TOP_LIMIT = 20


def logprobs_after(ids: Sequence[int]) -> np.ndarray:
    """float64 [vocabulary]: what the model thinks of each next token."""
    logits = 3 * np.random.default_rng([*ids[-3:], len(ids) % 7]).standard_normal(VOCAB_SIZE)
    return logits - np.log(np.exp(logits).sum())


def choose(ids: Sequence[int], body: dict[str, Any], draws: np.random.Generator) -> int:
    """The next token under the request's sampling parameters."""
    values = logprobs_after(ids)
    allowed = body.get("allowed_token_ids")
    if allowed is not None:
        masked = np.full(VOCAB_SIZE, -np.inf)
        masked[allowed] = values[allowed]
        values = masked
    if not body["temperature"]:
        return int(values.argmax())
    weights = np.exp(values / body["temperature"])
    return int(draws.choice(VOCAB_SIZE, p=weights / weights.sum()))


def top_of(ids: Sequence[int], token_id: int, count: int) -> dict[str, float]:
    """The chosen token first, then the most probable, as vLLM names them."""
    values = logprobs_after(ids)
    best = np.argsort(-values)[:count]
    return {f"token_id:{one}": float(values[one]) for one in (token_id, *best)}


@dataclass
class FakeServer:
    """What the server was asked, and knobs to make it misbehave."""

    model: Path
    max_model_len: int = 4_096
    pace_s: float = 0.0
    break_off_after: int | None = None
    """Tokens after which the stream ends without an end."""
    say_error: str | None = None
    """What it says in place of a second token."""
    key: str | None = None
    names_ids: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    abandoned: int = 0
    known: set[tuple[int, ...]] = field(default_factory=set)
    url: str = ""

    async def models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        card = {"id": "tiny", "object": "model", "created": 1, "owned_by": "vllm", "parent": None, "permission": []}
        card |= {"root": str(self.model), "max_model_len": self.max_model_len}
        return JSONResponse({"object": "list", "data": [card]})

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if body["model"] != "tiny":
            return _refusal(f"The model `{body['model']}` does not exist.", 404, "NotFoundError")
        if (body.get("logprobs") or 0) > TOP_LIMIT:
            return _refusal(f"Requested sample logprobs of {body['logprobs']}, which is greater\nthan 20", 400)
        return StreamingResponse(self._stream(body), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        self.running += 1
        is_whole = False
        try:
            async for line in self._tokens(body):
                yield f"data: {json.dumps(line)}\n\n"
            is_whole = True
            if self.break_off_after is None:
                yield "data: [DONE]\n\n"
        finally:
            self.running -= 1
            self.abandoned += not is_whole

    async def _tokens(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        ids, prompt = list(body["prompt"]), tuple(body["prompt"])
        draws = np.random.default_rng(body.get("seed") or 0)
        about = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny"}
        for index in range(body["max_tokens"]):
            if self.pace_s:
                await asyncio.sleep(self.pace_s)
            if index and self.say_error:
                yield {"error": {"message": self.say_error, "type": "InternalServerError", "param": None, "code": 500}}
                return
            if index == self.break_off_after:
                return
            token_id = choose(ids, body, draws)
            choice = self._choice(ids, token_id, body, is_first=not index)
            ids.append(token_id)
            is_stop = token_id in body["stop_token_ids"]
            if is_stop or index + 1 == body["max_tokens"]:
                choice["finish_reason"] = "stop" if is_stop else "length"
            yield {**about, "choices": [choice]}
            if is_stop:
                break
        cached = 16 * (len(prompt) // 16) if prompt in self.known else 0
        self.known.add(prompt)
        counts = {"prompt_tokens": len(prompt), "completion_tokens": len(ids) - len(prompt), "total_tokens": len(ids)}
        yield {**about, "choices": [], "usage": {**counts, "prompt_tokens_details": {"cached_tokens": cached}}}

    def _choice(self, ids: list[int], token_id: int, body: dict[str, Any], *, is_first: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": "", "logprobs": None, "finish_reason": None, "stop_reason": None}
        choice["prompt_token_ids"] = body["prompt"] if is_first else None
        choice["token_ids"] = [token_id] if self.names_ids else None
        if body.get("logprobs") is not None:
            value = float(logprobs_after(ids)[token_id])
            top = top_of(ids, token_id, body["logprobs"])
            named = {"tokens": [f"token_id:{token_id}"], "token_logprobs": [value], "top_logprobs": [top]}
            choice["logprobs"] = {"text_offset": [0], **named}
        return choice


def _refusal(message: str, status: int, kind: str = "BadRequestError") -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    """Run it in a thread, on a port that is free; `url` is set."""
    routes = [
        Route("/v1/models", server.models),
        Route("/v1/completions", server.completions, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_level="error", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, name="fake-vllm", daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not running.started:
        assert time.monotonic() < deadline, "the fake server never started"
        time.sleep(0.002)
    port = running.servers[0].sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        running.should_exit = running.force_exit = True
        thread.join(30)
