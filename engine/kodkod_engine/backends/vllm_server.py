"""A running `vllm serve` behind the engine contract. See `backends.vllm` for what holds and what cannot."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from pydantic import ValidationError

from kodkod_engine.api import EngineStats, FinishReason, GenerationRequest, TokenStream
from kodkod_engine.backends.checking import check_request
from kodkod_engine.backends.vllm_config import VllmConfig
from kodkod_engine.backends.vllm_dialogue import ConstraintFault, Dialogue
from kodkod_engine.backends.vllm_wire import Asking, ModelList, Reply, WireFault, error_text, one_line, read_line
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.engine_thread import FORKED
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.stream import ThreadedStream
from kodkod_engine.errors import EngineClosed, RequestError, ServerUnreachable

START_S = 30.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What has to be known of a model to ask for its tokens."""

    name: str
    vocab_size: int
    max_context_tokens: int
    eos_id: int
    tokenizer: Tokenizer | None


@dataclass(slots=True)
class _Job:
    answer: Answer
    sequence: Sequence
    task: asyncio.Task[FinishReason] | None = None


class ServedEngine:
    """See `api.Engine`. Its thread runs an event loop: a task per request."""

    def __init__(self, url: str, model: ServedModel, config: VllmConfig) -> None:
        self.tokenizer = model.tokenizer
        self._url = url
        self._model = model
        self._config = config
        self._numbers = itertools.count(1)
        self._jobs: dict[str, _Job] = {}
        self._stats = EngineStats()
        self._is_closed = False
        self._closing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._shut = asyncio.Event()
        self._client = httpx2.AsyncClient(**client_options(url, config))
        self._thread = threading.Thread(target=self._work, name="kodkod-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def vocab_size(self) -> int:
        """See `Engine`."""
        return self._model.vocab_size

    @property
    def max_context_tokens(self) -> int:
        """See `Engine`."""
        return self._model.max_context_tokens

    def generate(self, request: GenerationRequest) -> TokenStream:
        """See `Engine`.

        Raises:
            RequestError: also for log-probabilities under a constraint, which no server tells.
        """
        self._check(request)
        stream = ThreadedStream(f"stream-{next(self._numbers)}", self._cancel)
        prompt = list(request.token_ids)
        end = min(len(prompt) + request.sampling.max_tokens, self.max_context_tokens)
        job = _Job(
            Answer(request, stream, self._model.eos_id, self.tokenizer), Sequence(stream.id, prompt, len(prompt), end)
        )
        with self._closing:
            if self._is_closed:
                raise EngineClosed("the engine is closed; connect again")
            if not self._thread.is_alive():
                raise EngineClosed(FORKED)
            self._loop.call_soon_threadsafe(self._begin, job)
        return stream

    def _check(self, request: GenerationRequest) -> None:
        if self._is_closed:
            raise EngineClosed("the engine is closed; connect again")
        check_request(
            request,
            vocab_size=self.vocab_size,
            max_context_tokens=self.max_context_tokens,
            has_tokenizer=self.tokenizer is not None,
        )
        if request.constraint is not None and request.sampling.logprobs is not None:
            raise RequestError(
                "a vLLM server does not tell log-probabilities under a constraint; ask without one of the two"
            )

    def stats(self) -> EngineStats:
        """Of the requests of this process; what the server does for others and in its cache is not told."""
        return self._stats

    def close(self) -> None:
        """See `Engine`. The server goes on."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._shut.set)
        if self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self.close)

    # Everything below runs on the engine thread, but for _cancel.

    def _work(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        await self._shut.wait()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def _begin(self, job: _Job) -> None:
        self._jobs[job.sequence.id] = job
        job.task = self._loop.create_task(self._hold(job))
        job.task.add_done_callback(lambda task: self._end(job, task))
        self._publish(prompt_tokens=job.sequence.num_prompt_tokens)
        if self._shut.is_set():
            job.task.cancel()

    async def _hold(self, job: _Job) -> FinishReason:
        job.answer.began(self._loop.time())
        return await Dialogue(self._ask, job.answer, job.sequence, self.vocab_size).hold()

    def _end(self, job: _Job, task: asyncio.Task[FinishReason]) -> None:
        reason, error = FinishReason.CANCELLED, None
        if not task.cancelled():
            fault = task.exception()
            reason, error = (FinishReason.ERROR, self._cause(fault)) if fault else (task.result(), None)
        del self._jobs[job.sequence.id]
        self._publish(reused_tokens=job.sequence.reused_tokens)
        job.answer.end(reason, job.sequence, error)

    def _cause(self, fault: BaseException) -> str:
        said = one_line(str(fault) or type(fault).__name__)
        if isinstance(fault, ConstraintFault):
            return f"the constraint failed ({said}); correct it, or ask without it"
        if isinstance(fault, WireFault):
            return f"the server at {self._url} failed ({said}); see its log, and ask again"
        if isinstance(fault, httpx2.HTTPError):
            return f"the server at {self._url} does not answer ({said}); see whether it runs, and ask again"
        return f"the engine failed ({type(fault).__name__}: {said}); it goes on, so ask again"

    async def _ask(self, asking: Asking) -> AsyncGenerator[Reply]:
        async with self._client.stream("POST", "completions", json=asking.payload(self._model.name)) as response:
            if response.status_code != httpx2.codes.OK:
                body = (await response.aread()).decode(errors="replace")
                raise WireFault(f"status {response.status_code}: {error_text(body)}")
            async for line in response.aiter_lines():
                reply = read_line(line)
                if reply is not None:
                    self._publish(steps=1, generated_tokens=len(reply.tokens))
                    yield reply

    def _publish(self, **more: int) -> None:
        counts = {name: getattr(self._stats, name) + number for name, number in more.items()}
        self._stats = replace(self._stats, running=len(self._jobs), **counts)

    def _cancel(self, stream_id: str) -> None:
        with suppress(RuntimeError):  # the loop may be closed at any moment: then the stream has ended
            self._loop.call_soon_threadsafe(self._cancel_task, stream_id)

    def _cancel_task(self, stream_id: str) -> None:
        job = self._jobs.get(stream_id)
        if job is not None and job.task is not None:
            job.task.cancel()


def client_options(url: str, config: VllmConfig) -> dict[str, Any]:
    """Of a client for the server: no bound on connections, since the server queues; no proxies for a machine's own."""
    key = os.environ.get(config.api_key_variable, "")
    return {
        "base_url": url.rstrip("/") + "/",
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx2.Timeout(config.read_timeout_s, connect=config.connect_timeout_s, pool=None),
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=32),
        "trust_env": False,
    }


def connect(url: str, config: VllmConfig) -> ServedEngine:
    """Ask a server what it serves, and take it as an engine.

    Args:
        url: with the interface's version: `http://127.0.0.1:8000/v1`.
        config: says where the tokenizer is, if the server's model is not on this machine.

    Raises:
        ServerUnreachable: nobody answers, or it is not said what model that is.
        CheckpointError: the tokenizer cannot be used.
    """
    card = _first_model(url, config)
    folder = config.tokenizer or (Path(card.root) if card.root else None)
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise ServerUnreachable(
            f"the server at {url} serves {one_line(card.id, 80)}, whose tokenizer.json is not on this machine; "
            "fetch it and say where it is: engine.vllm.tokenizer"
        )
    tokenizer = Tokenizer.from_folder(folder)
    limit = card.max_model_len or config.max_model_len
    if limit is None:
        raise ServerUnreachable(f"the server at {url} does not tell its context; set engine.vllm.max_model_len")
    return ServedEngine(
        url, ServedModel(card.id, vocab_size_of(folder, tokenizer), limit, tokenizer.eos_id, tokenizer), config
    )


def _first_model(url: str, config: VllmConfig) -> Any:
    try:
        with httpx2.Client(**client_options(url, config)) as client:
            reply = client.get("models")
        if reply.status_code != httpx2.codes.OK:
            said = f"status {reply.status_code}: {error_text(reply.text)}"
            raise ServerUnreachable(f"the server at {url} refused ({said}); check the address and the key")
        models = ModelList.model_validate_json(reply.text).data
    except (httpx2.HTTPError, httpx2.InvalidURL) as fault:
        cause = one_line(str(fault) or type(fault).__name__)
        raise ServerUnreachable(f"no server answers at {url} ({cause}); start one: vllm serve MODEL") from fault
    except ValidationError as fault:
        raise ServerUnreachable(f"what answers at {url} is no vLLM server; the address ends in /v1") from fault
    if not models:
        raise ServerUnreachable(f"the server at {url} serves no model; start it with one: vllm serve MODEL")
    return models[0]


def vocab_size_of(folder: Path, tokenizer: Tokenizer) -> int:
    """Of the model, which may be padded; the tokenizer's where its config.json is not there."""
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return tokenizer.vocab_size
    size = fields.get("vocab_size") if isinstance(fields, dict) else None
    return size if isinstance(size, int) else tokenizer.vocab_size
