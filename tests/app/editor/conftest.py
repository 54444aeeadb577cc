"""An editor: the client's side of the protocol's own package, with `kodkod acp` as a process of its own."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import acp
import pytest
from acp.schema import AllowedOutcome, DeniedOutcome, RequestPermissionResponse

from kodkod_app.editor.agent import KodkodAgent

LIMIT_S = 120


@dataclass
class Editor:
    """See `acp.Client`. Remembers what it is told; answers questions as `answer` says."""

    answer: Callable[[Any, list[Any]], str | None] = lambda _call, _options: "once"
    """Takes the call and the options; the id of the one chosen, None for a question that is put away."""
    updates: list[Any] = field(default_factory=list)
    questions: list[Any] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def request_permission(self, session_id, tool_call, options, **_):
        self.questions.append((tool_call, options))
        self.told.set()
        chosen = self.answer(tool_call, options)
        if asyncio.iscoroutine(chosen):
            chosen = await chosen
        outcome = (
            DeniedOutcome(outcome="cancelled")
            if chosen is None
            else AllowedOutcome(outcome="selected", option_id=chosen)
        )
        return RequestPermissionResponse(outcome=outcome)

    async def session_update(self, session_id, update, **_):
        self.updates.append(update)
        self.told.set()

    def on_connect(self, conn):
        pass

    def of(self, kind):
        """The updates of one kind."""
        return [update for update in self.updates if update.session_update == kind]

    def said(self, kind="agent_message_chunk"):
        """All text of one kind."""
        return "".join(update.content.text for update in self.of(kind))

    async def until(self, holds):
        """Wait until something holds of what was told."""
        async with asyncio.timeout(LIMIT_S):
            while not holds():
                self.told.clear()
                await self.told.wait()


@asynccontextmanager
async def spawned(editor: Editor, *arguments: object, home: Path) -> AsyncIterator[Any]:
    """`kodkod acp` as an editor runs it."""
    command = [sys.executable, "-m", "kodkod_app", "acp", *map(str, arguments)]
    environment = {**acp.default_environment(), "KODKOD_HOME": str(home)}
    async with acp.spawn_agent_process(editor, *command, env=environment) as (agent, _):
        await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        yield agent


@asynccontextmanager
async def beside(editor: Editor, **said: Any) -> AsyncIterator[Any]:
    """The same agent in this process, over a socket: a second less."""
    ours, theirs = socket.socketpair()
    (our_reader, our_writer), (reader, writer) = [await asyncio.open_connection(sock=end) for end in (ours, theirs)]
    agent = KodkodAgent(said)
    running = asyncio.create_task(acp.run_agent(agent, writer, reader))
    client = acp.connect_to_agent(editor, our_writer, our_reader)
    try:
        await client.initialize(protocol_version=acp.PROTOCOL_VERSION)
        yield client
    finally:
        await client.close()
        our_writer.close()
        await running
        await agent.close()
        writer.close()


@pytest.fixture
def editor() -> Editor:
    """One that agrees to everything, once."""
    return Editor()
