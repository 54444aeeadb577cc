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
from kodkod_app.headless import (
    Extension,
    RunOptions,
    box_plan,
    extras_of,
    open_session,
    session_setup,
    what_was_asked,
)
from kodkod_app.settings import Settings, load_settings, merge_layers
from kodkod_app.telemetry import require_telemetry
from kodkod_engine.config import EngineConfig
from kodkod_sandbox.base import Sandbox
from kodkod_tools.mcp.config import McpServer


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


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session is opened with."""

    work_tree: Path
    """Absolute and resolved. Whoever opens the editor there trusts it, as one who stands in it does."""
    session_id: str | None = None
    """None begins a session."""
    servers: Mapping[str, McpServer] = field(default_factory=dict)
    """MCP servers that the editor names; its settings are the person's."""


async def open_desk(models: Models, wish: Wish, said: Mapping[str, Any], *, trusts: bool) -> Desk:
    """Begin a session, or open one again.

    Args:
        models: those that are open.
        wish: which, and where.
        said: flags, as a layer of settings.
        trusts: what needs trust (see `kodkod_app.trust`) is used for this once.

    Raises:
        SettingsFault, SandboxError, CheckpointError, SessionNotFound, ...: each with its `exit_code`.
    """
    options = _options(wish, said, trusts=trusts)
    settings = options.settings
    require_telemetry(settings.telemetry)
    plan = box_plan(options)
    async with AsyncExitStack() as stack:
        model = await models.get(settings.model, settings.engine)
        box = await stack.enter_async_context(open_box(plan))
        extras = await stack.enter_async_context(extras_of(options, model))
        session = await open_session(options, session_setup(settings, model, box, extras))
        stack.push_async_callback(session.close)
        return Desk(settings, plan, box, session, Telling(wish.work_tree), _stack=stack.pop_all())


def _options(wish: Wish, said: Mapping[str, Any], *, trusts: bool) -> RunOptions:
    before = what_was_asked(wish.session_id) if wish.session_id is not None else {}
    asked = merge_layers(merge_layers(before, dict(said)), {"agent": {"attended": True}})
    settings = load_settings(wish.work_tree, trusted=True, environment=os.environ, flags=asked)
    update = {
        "permission_mode": settings.permission_mode or PermissionMode.DEFAULT,
        "mcp_servers": {**wish.servers, **settings.mcp_servers},
    }
    return RunOptions(
        wish.work_tree,
        settings.model_copy(update=update),
        None,
        wish.session_id,
        extras=Extension.TRUSTED if trusts else Extension.KNOWN,
        asked=asked,
    )
