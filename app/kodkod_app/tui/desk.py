"""What a session works with, opened: settings, box, model, and the session itself. Belongs to the agent's thread."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kodkod_app.tui import updates as u
from kodkod_app.tui.feed import Feed
from kodkod_app.tui.inert import inert_line
from kodkod_app.wish import Wish

if TYPE_CHECKING:
    from kodkod_agent.session import Session, SessionSetup
    from kodkod_app.attended import Attended
    from kodkod_app.bootstrap import Model
    from kodkod_app.settings import Settings

_PROGRESS_S = 0.05
_WAY_BACK = "/mcp restart {name} starts it again"


class Desk:
    """What is open: settings, box, model, extras, session."""

    def __init__(self, wish: Wish, opened: Attended) -> None:
        self.wish = wish
        self.settings = opened.settings
        self.plan = opened.plan
        self.box = opened.box
        self.model = opened.model
        self.extras = opened.extras
        self.session = opened.session

    async def reopen(self, session_id: str | None, step: int | None, *, forks: bool) -> None:
        """Open, fork or begin another session, and close this one; where that fails it stays open."""
        from dataclasses import replace

        from kodkod_app import paths
        from kodkod_engine.chat.ledger_state import LedgerFault

        setup, before = replace(self.session.setup, mode=self.session.permissions.mode), self.session
        try:
            self.session = await _open_session(paths.sessions_folder(), setup, session_id, step, forks)
        except LedgerFault as fault:  # another model's
            raise LedgerFault(f"{fault}: kodkod -r {session_id}, without -m") from fault
        await _close_session(before)

    async def opened(self) -> u.Opened:
        """What the screen is told of it."""
        from kodkod_app.tui.history import past_entries, pending_entries, unanswered_entries

        session = self.session
        is_unfinished = await session.is_unfinished()
        entries = await asyncio.to_thread(past_entries, session.folder)
        entries += await asyncio.to_thread(unanswered_entries, session.folder, session.ledger.view)
        if is_unfinished:
            conversation, pending = session.ledger.view(), session.ledger.pending_calls
            entries += await asyncio.to_thread(pending_entries, session.folder, conversation, pending)
        return u.Opened(
            session_id=session.id,
            title=session.info.title,
            model=short_name(self.model.name),
            box=self.box.name,
            mode=str(session.permissions.mode),
            branch=branch_of(self.wish.work_tree),
            max_context_tokens=self.model.engine.max_context_tokens,
            max_step_tokens=self.model.config.step_tokens,
            entries=entries,
            is_unfinished=is_unfinished,
            context_tokens=len(session.ledger),
        )

    async def restart_server(self, name: str) -> Sequence[str]:
        """Start an MCP server again; how it stands then, in lines for the person."""
        servers = self.extras.servers
        if servers is None or name not in servers.connections:
            return [f"no MCP server {name} was started; /mcp lists them"]
        await servers.restart(name)
        is_ready = servers.connections[name].is_ready
        return [*servers.notes(), *([f"MCP server {name} was started again; what it held is gone"] if is_ready else [])]

    async def close(self) -> None:
        """Close the session. Box and model are closed by who opened them."""
        await _close_session(self.session)


async def _close_session(session: Session) -> None:
    """Nothing stays of one without a word."""
    from kodkod_app.session_shelf import remove_unsaid

    await session.close()
    await asyncio.to_thread(remove_unsaid, session.folder)


async def _open_session(
    root: Path, setup: SessionSetup, session_id: str | None, step: int | None, forks: bool
) -> Session:
    from kodkod_agent.session import Session

    if session_id is None:
        return await Session.create(root, setup)
    if forks:
        return await Session.fork(root, session_id, step, setup)
    return await Session.resume(root, session_id, setup)


async def open_desk(wish: Wish, feed: Feed, stack: AsyncExitStack, models: AsyncExitStack) -> Desk:
    """Open everything, telling how far it is; the model is closed with `models`, all else but the session with `stack`.

    Raises:
        SettingsFault, SandboxError, CheckpointError, SessionNotFound, ...: each with its `exit_code`.
    """
    from kodkod_app.attended import open_attended
    from kodkod_app.bootstrap import open_session_model

    def tell(line: str) -> None:
        feed.put(u.Told(line))

    async def load(settings: Settings) -> Model:
        feed.put(u.Loading("loading the engine"))
        model = open_session_model(settings.model, settings.engine, lambda what: _progress(what, feed), tell)
        models.callback(model.engine.close)
        return model

    feed.put(u.Loading("preparing the box"))
    opened = await open_attended(wish, load, stack, tell=tell, way_back=_WAY_BACK)
    return Desk(wish, opened)


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
            done = subprocess.run(["git", *question], cwd=work_tree, capture_output=True, timeout=5, check=False)
            if done.returncode == 0:
                return inert_line(done.stdout.decode("utf-8", "replace").strip())
    return ""
