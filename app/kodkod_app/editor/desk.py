"""What a session in an editor works with: settings, box, the model all of them share, and the session itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kodkod_agent.policy import PermissionMode
from kodkod_agent.session import Session
from kodkod_app.bootstrap import Model, open_model, require_model
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.editor.telling import Telling
from kodkod_app.headless import RunOptions, box_plan, open_session, session_setup, what_was_asked
from kodkod_app.settings import Settings, load_settings, merge_layers
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
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def close(self) -> None:
        """Stop what runs; close session and box."""
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
                self._open[name] = await asyncio.to_thread(open_model, name, config, _unseen)
            return self._open[name]

    def close(self) -> None:
        """Close all their engines."""
        for model in self._open.values():
            model.engine.close()


@contextmanager
def _unseen(_title: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda _done, _total: None


async def open_desk(models: Models, work_tree: Path, said: Mapping[str, Any], session_id: str | None = None) -> Desk:
    """Begin a session, or open one again.

    Args:
        models: those that are open.
        work_tree: where it works; whoever opens the editor there trusts it.
        said: flags, as a layer of settings.
        session_id: None for a new one.

    Raises:
        SettingsFault, SandboxError, CheckpointError, SessionNotFound, ...: each with its `exit_code`.
    """
    before = what_was_asked(session_id) if session_id is not None else {}
    asked = merge_layers(merge_layers(before, dict(said)), {"agent": {"attended": True}})
    settings = load_settings(work_tree, trusted=True, environment=os.environ, flags=asked)
    mode = settings.permission_mode or PermissionMode.DEFAULT
    settings = settings.model_copy(update={"permission_mode": mode})
    options = RunOptions(work_tree, settings, None, session_id, asked=asked)
    plan = box_plan(options)
    async with AsyncExitStack() as stack:
        model = await models.get(settings.model, settings.engine)
        box = await stack.enter_async_context(open_box(plan))
        session = await open_session(options, session_setup(settings, model, box))
        stack.push_async_callback(session.close)
        return Desk(settings, plan, box, session, Telling(work_tree), _stack=stack.pop_all())
