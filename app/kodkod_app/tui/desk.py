"""What a session works with, opened: settings, box, model, and the session itself. Belongs to the agent's thread."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kodkod_app.tui import updates as u
from kodkod_app.tui.feed import Feed
from kodkod_app.tui.wish import Wish

if TYPE_CHECKING:
    from kodkod_agent.session import Session, SessionSetup
    from kodkod_app.bootstrap import Model
    from kodkod_app.boxes import BoxPlan
    from kodkod_app.settings import Settings
    from kodkod_sandbox.base import Sandbox

_PROGRESS_S = 0.05


class Desk:
    """What is open: settings, box, model, session."""

    def __init__(
        self, wish: Wish, settings: Settings, plan: BoxPlan, box: Sandbox, model: Model, session: Session
    ) -> None:
        self.wish = wish
        self.settings = settings
        self.plan = plan
        self.box = box
        self.model = model
        self.session = session

    async def reopen(self, session_id: str | None, step: int | None) -> None:
        """Close the session and open, fork or begin another; where that fails the old one is open again."""
        from dataclasses import replace

        from kodkod_agent.session import Session
        from kodkod_app import paths

        setup, before = replace(self.session.setup, mode=self.session.permissions.mode), self.session.id
        await self.session.close()
        root = paths.sessions_folder()
        try:
            self.session = await _open_session(root, setup, session_id, step)
        except Exception:
            self.session = await Session.resume(root, before, setup)
            raise

    async def opened(self) -> u.Opened:
        """What the screen is told of it."""
        from kodkod_app.tui.history import past_entries, pending_entries, unanswered_entries

        session = self.session
        is_unfinished = await session.is_unfinished()
        entries = await asyncio.to_thread(past_entries, session.folder)
        entries += await asyncio.to_thread(unanswered_entries, session.folder, session.ledger.view)
        if is_unfinished:
            entries += pending_entries(session.ledger.view(), session.ledger.pending_calls)
        return u.Opened(
            session_id=session.id,
            title=session.info.title,
            model=short_name(self.model.name),
            box=self.box.name,
            mode=str(session.permissions.mode),
            branch=branch_of(self.wish.work_tree),
            max_context_tokens=self.model.engine.max_context_tokens,
            max_step_tokens=self.settings.engine.step_tokens,
            entries=entries,
            is_unfinished=is_unfinished,
            context_tokens=len(session.ledger),
        )

    async def close(self) -> None:
        """Close the session; box and model are closed by who opened them."""
        await self.session.close()


async def _open_session(root: Path, setup: SessionSetup, session_id: str | None, step: int | None) -> Session:
    from kodkod_agent.session import Session

    if session_id is None:
        return await Session.create(root, setup)
    if step is not None:
        return await Session.fork(root, session_id, step, setup)
    return await Session.resume(root, session_id, setup)


async def open_desk(wish: Wish, feed: Feed, stack: AsyncExitStack) -> Desk:
    """Open everything, telling how far it is; box and engine are closed with the stack.

    Raises:
        SettingsFault, SandboxError, CheckpointError, SessionNotFound, ...: each with its `exit_code`.
    """
    from kodkod_agent.policy import PermissionMode
    from kodkod_app import paths
    from kodkod_app.bootstrap import open_model, require_model
    from kodkod_app.boxes import open_box
    from kodkod_app.headless import (
        Extension,
        RunOptions,
        box_plan,
        extras_of,
        open_session,
        session_setup,
        what_was_asked,
    )
    from kodkod_app.settings import load_settings, merge_layers
    from kodkod_app.telemetry import require_telemetry

    before = what_was_asked(wish.session_id) if wish.session_id is not None else {}
    asked = merge_layers(merge_layers(before, dict(wish.said)), {"agent": {"attended": True}})
    settings = load_settings(wish.work_tree, trusted=True, environment=os.environ, flags=asked)
    mode = settings.permission_mode or PermissionMode.DEFAULT
    settings = settings.model_copy(update={"permission_mode": mode})
    require_model(settings.model)
    require_telemetry(settings.telemetry)
    options = RunOptions(
        wish.work_tree,
        settings,
        None,
        wish.session_id,
        wish.fork,
        wish.allow_build_network,
        extras=Extension.TRUSTED if wish.trusts else Extension.KNOWN,
        asked=asked,
    )
    plan = box_plan(options)
    feed.put(u.Loading("preparing the box"))
    box = await stack.enter_async_context(open_box(plan, lambda note: feed.put(u.Told(note))))
    feed.put(u.Loading("loading the engine"))
    model = open_model(settings.model, settings.engine, lambda what: _progress(what, feed))
    stack.callback(model.engine.close)
    extras = await stack.enter_async_context(extras_of(options, model))
    for note in extras.news():
        feed.put(u.Told(note))
    setup = session_setup(settings, model, box, extras)
    if wish.session_id is not None and wish.fork_step is not None:
        session = await _open_session(paths.sessions_folder(), setup, wish.session_id, wish.fork_step)
    else:
        session = await open_session(options, setup)
    return Desk(wish, settings, plan, box, model, session)


@contextmanager
def _progress(what: str, feed: Feed) -> Iterator[Callable[[int, int], None]]:
    """Bytes loaded, told a few times a second."""
    last_s = 0.0

    def move(done: int, total: int) -> None:
        nonlocal last_s
        if (now_s := time.monotonic()) - last_s >= _PROGRESS_S or done == total:
            last_s = now_s
            feed.put(u.Loading(what, done, total))

    yield move


def short_name(model: str) -> str:
    """A model's name for a line: the last part of its path, or where its server is."""
    if model.startswith("vllm:http"):
        return model.split("://", 1)[1].partition("/")[0]
    return Path(model.removeprefix("script:")).stem if model.startswith("script:") else Path(model).name


def branch_of(work_tree: Path) -> str:
    """The branch that is checked out, or the commit's short name; empty outside a repository."""
    for question in (["symbolic-ref", "--quiet", "--short", "HEAD"], ["rev-parse", "--short", "HEAD"]):
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                ["git", *question], cwd=work_tree, capture_output=True, text=True, timeout=5, check=False
            )
            if done.returncode == 0:
                return done.stdout.strip()
    return ""
