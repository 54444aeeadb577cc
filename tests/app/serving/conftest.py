"""Servers in this process over real HTTP: a scripted model, a tiny random one, and the real `openai` client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from kodkod_app.bootstrap import Model
from kodkod_app.evaluation.agents import scripted_model
from kodkod_app.offline import open_tokenizer
from kodkod_app.recorded_model import RecordedTurn
from kodkod_app.serving.application import Access, application
from kodkod_app.serving.running import listen, server_for
from kodkod_app.serving.service import Service
from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.config import EngineConfig

NAME = "wildcat"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    url: str
    service: Service
    clients: list[openai.OpenAI] = field(default_factory=list)
    """Closed with the server: what is left to the garbage collector warns in whatever test is next."""

    def client(self, **options: Any) -> openai.OpenAI:
        self.clients.append(openai.OpenAI(base_url=self.url, max_retries=0, **{"api_key": "any", **options}))
        return self.clients[-1]


class Running:
    """A server for a model in a thread of its own."""

    def __init__(self, model: Model, access: Access | None = None) -> None:
        listening = listen("127.0.0.1", 0)
        self.served = Served(listening.url, Service(model, NAME))
        self._server = server_for(application(self.served.service, access))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[listening.socket])))
        self._thread.start()

    def end(self) -> None:
        """Begin to close it."""
        for client in self.served.clients:
            client.close()
        self._server.should_exit = True

    def close(self) -> None:
        """Close it, and the model."""
        self.end()
        self._thread.join()
        self.served.service.engine.close()


@contextmanager
def served(model: Model, access: Access | None = None) -> Iterator[Served]:
    """A server for a model, which is closed with it."""
    running = Running(model, access)
    try:
        yield running.served
    finally:
        running.close()


def says(text: str = "", *calls: tuple[str, dict[str, Any]], reasoning: str = "") -> RecordedTurn:
    """A turn."""
    made = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return RecordedTurn.model_validate({"text": text, "reasoning": reasoning, "calls": made})


@pytest.fixture(scope="module")
def ending() -> Iterator[list[Running]]:
    """Servers that are told to end: they take a moment for it, which need not be waited for after each test."""
    running: list[Running] = []
    yield running
    for one in running:
        one.close()


@pytest.fixture
def serve(ending: list[Running]) -> Iterator[Callable[..., Served]]:
    """Starts a server whose model says these turns, the first in conversations of which nothing was said yet."""
    started: list[Running] = []

    def start(*turns: RecordedTurn, access: Access | None = None) -> Served:
        started.append(Running(scripted_model(turns, "scripted"), access))
        return started[-1].served

    yield start
    for running in started:
        running.end()
    ending += started


def slow_model(
    answer: str, *, seconds_per_step: float = 0.005, context_tokens: int = 32_768, steps_per_visit: int = 1
) -> Model:
    """A model that writes an answer at some pace, whatever it is asked."""
    tokenizer = open_tokenizer("")
    ids = [*tokenizer.encode_text(answer), tokenizer.eos_id]
    engine = ScriptedEngine(
        lambda _: ids,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        max_context_tokens=context_tokens,
        tokenizer=tokenizer,
        seconds_per_step=seconds_per_step,
        config=EngineConfig(steps_per_visit=steps_per_visit),
    )
    return Model("slow", engine, tokenizer)


def ask(client: openai.OpenAI, messages: Sequence[Any] | str, **options: Any) -> Any:
    """A chat completion; a text is the person's one message."""
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return client.chat.completions.create(model=NAME, messages=given, **options)
