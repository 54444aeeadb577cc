"""A session with a person there: what the engine does before the first word."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from kodkod_agent import events
from kodkod_app.attended import open_attended
from kodkod_app.bootstrap import open_session_model
from kodkod_app.wish import Wish
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

from .conftest import turn


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = write_random_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, seed=3)
    write_byte_tokenizer(folder)
    return folder


@asynccontextmanager
async def opened(project, model, **agent):
    """A session as the terminal app and editors open one."""

    async def load(settings):
        found = open_session_model(settings.model, settings.engine, tell=lambda _: None)
        stack.callback(found.engine.close)
        return found

    said = {"model": str(model), "sandbox": "none", "agent": {"max_turn_tokens": 16, **agent}}
    async with AsyncExitStack() as stack:
        desk = await open_attended(Wish(project, said), load, stack, tell=lambda _: None)
        stack.push_async_callback(desk.session.close)
        yield desk


async def usage_of(session, text):
    """What the first turn cost."""
    found = [event.usage async for event in session.send(text) if isinstance(event, events.UsageReported)]
    return found[0]


async def test_the_head_is_read_before_anything_is_said(home, project, tiny):
    async with opened(project, tiny) as desk:
        engine = desk.model.engine
        async with asyncio.timeout(60):
            while not engine.stats().prompt_tokens or engine.stats().running or engine.stats().waiting:
                await asyncio.sleep(0.02)
        usage = await usage_of(desk.session, "hi")
        assert usage.reused_tokens == engine.stats().prompt_tokens - usage.prompt_tokens > 1_000


async def test_a_recording_is_not_asked_for_it(home, project, record):
    async with opened(project, record(turn("Here."))) as desk:
        usage = await usage_of(desk.session, "hi")
        assert (usage.reused_tokens, desk.model.engine.stats().prompt_tokens) == (0, usage.prompt_tokens)
