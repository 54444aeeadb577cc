"""What a session in an editor works with: settings, box, the model all of them share, and the session itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from kodkod_agent.session import Session
from kodkod_app.attended import open_attended
from kodkod_app.bootstrap import Model, open_session_model, require_model
from kodkod_app.boxes import BoxPlan
from kodkod_app.editor.telling import Telling
from kodkod_app.settings import Settings
from kodkod_app.wish import Wish
from kodkod_engine.config import EngineConfig
from kodkod_sandbox.base import Sandbox


@dataclass(slots=True)
class Desk:
    """One session that is open."""

    settings: Settings
    plan: BoxPlan
    box: Sandbox
    session: Session
    telling: Telling
    cancel: Callable[[], object] | None = None
    """Stops the run that goes on; None while none does."""
    was_cancelled: bool = False
    asking: asyncio.Task[Any] | None = None
    """The question that waits for the person."""
    working: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from a prompt to its end."""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def stop(self) -> None:
        """Stop what runs, if anything does; an open question is taken back."""
        if self.cancel is None:
            return
        self.was_cancelled = True
        if self.asking is not None:
            self.asking.cancel()
        self.cancel()

    async def close(self) -> None:
        """Stop what runs and wait until it has; close session and box."""
        self.stop()
        async with self.working:
            await self._stack.aclose()


class Models:
    """Models by name, each loaded once, at its first session."""

    def __init__(self) -> None:
        self._open: dict[str, Model] = {}
        self._loading = asyncio.Lock()

    async def get(self, name: str | None, config: EngineConfig) -> Model:
        """The model of that name.

        Raises:
            CheckpointError: it cannot be used.
        """
        name = require_model(name)
        async with self._loading:
            if name not in self._open:
                self._open[name] = await asyncio.to_thread(open_session_model, name, config, _unseen)
            return self._open[name]

    def close(self) -> None:
        """Close all their engines."""
        for model in self._open.values():
            model.engine.close()


@contextmanager
def _unseen(_title: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda _done, _total: None


async def open_desk(models: Models, wish: Wish) -> Desk:
    """Begin a session, or open one again.

    Raises:
        SettingsFault, SandboxError, CheckpointError, SessionNotFound, ...: each with its `exit_code`.
    """

    async def load(settings: Settings) -> Model:
        return await models.get(settings.model, settings.engine)

    async with AsyncExitStack() as stack:
        opened = await open_attended(wish, load, stack)
        stack.push_async_callback(opened.session.close)
        telling = Telling(wish.work_tree)
        return Desk(opened.settings, opened.plan, opened.box, opened.session, telling, _stack=stack.pop_all())
