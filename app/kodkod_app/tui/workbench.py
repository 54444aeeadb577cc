"""What works behind the screen: box, model and session, in a thread and a loop of their own.

    screen ── send, interrupt, answer, ... ──►  loop of the thread `kodkod-agent`  ──►  engine thread
       ▲                                              │
       └──────────────────  Feed  ◄───────────────────┘

Methods may be called from the screen's thread, return at once and never fail; what comes of them is put in the feed.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import subprocess
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodkod_app.tui import updates as u
from kodkod_app.tui.feed import Feed
from kodkod_app.tui.wish import Wish

if TYPE_CHECKING:
    from kodkod_agent import events
    from kodkod_agent.approval import Approval
    from kodkod_agent.session import Session, SessionSetup
    from kodkod_app.bootstrap import Model
    from kodkod_app.boxes import BoxPlan
    from kodkod_app.settings import Settings
    from kodkod_engine.api import EngineStats
    from kodkod_sandbox.base import Sandbox

Command = Callable[[], Awaitable[None]]
_CLOSE_TIMEOUT_S = 5.0
"""A model that is still being loaded is not waited for any longer."""
_MAX_SHOWN_TO_MODEL_CHARS = 4_000
_PROGRESS_S = 0.05


class Workbench:
    """Everything a session needs. The imports of its parts take a second, and are its thread's first work."""

    def __init__(self, wish: Wish, feed: Feed) -> None:
        self._wish = wish
        self._feed = feed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._early: list[Callable[[], object]] = []
        """What was asked for before there was a loop to do it."""
        self._thread = threading.Thread(target=self._work, name="kodkod-agent", daemon=True)
        self._commands: asyncio.Queue[Command | None] = asyncio.Queue()
        self._desk: _Desk | None = None
        self._cancel: Callable[[], object] | None = None
        self._shell_notes: list[str] = []

    def start(self) -> None:
        """Begin to open everything."""
        self._thread.start()

    @property
    def stats(self) -> EngineStats | None:
        """Counts of the engine at this moment; None while there is none."""
        return self._desk.model.engine.stats() if self._desk is not None else None

    @property
    def session(self) -> Session | None:
        """For looking at from the screen's thread; None while none is open."""
        return self._desk.session if self._desk is not None else None

    @property
    def settings(self) -> Settings | None:
        """As they were put together; None while they are not."""
        return self._desk.settings if self._desk is not None else None

    def send(self, text: str) -> None:
        """Say something."""
        self._soon(lambda: self._run(lambda session: session.send(self._with_shell_notes(text))))

    def proceed(self) -> None:
        """Go on with a run that was cut short."""
        self._soon(lambda: self._run(lambda session: session.proceed()))

    def run_shell(self, command: str) -> None:
        """Run a command in the box; the model is told with what is said next."""
        self._soon(lambda: self._run_shell(command))

    def new(self) -> None:
        """Leave the session and begin another."""
        self._soon(lambda: self._reopen(None))

    def open(self, session_id: str) -> None:
        """Leave the session and open this one."""
        self._soon(lambda: self._reopen(session_id))

    def fork(self, session_id: str, step: int) -> None:
        """Leave the session and begin one as that one was after `step` turns, files and all."""
        self._soon(lambda: self._reopen(session_id, step))

    def rewind(self, step: int) -> None:
        """Take the session back to where it was after `step` turns, files and all."""
        self._soon(lambda: self._rewind(step))

    def interrupt(self) -> None:
        """Stop what runs."""
        self._call(lambda: self._cancel and self._cancel())

    def answer(self, approvals: tuple[Approval, ...]) -> None:
        """Answer what was asked; calls that are not named are refused."""
        self._call(lambda: self._answer(approvals))

    def set_mode(self, mode: str) -> None:
        """Change how much is done without asking."""
        self._call(lambda: self._set_mode(mode))

    def close(self) -> bool:
        """Stop what runs, and close all in order; False where the thread does not end. May be called again."""
        self.interrupt()
        self._call(lambda: self._commands.put_nowait(None))
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)
        return not self._thread.is_alive()

    def _call(self, function: Callable[[], object]) -> None:
        with self._starting:
            if self._loop is None:
                self._early.append(function)
                return
        # The loop is closed once its thread has ended after a fault; then there is nothing to be done.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _soon(self, command: Command) -> None:
        self._call(lambda: self._commands.put_nowait(command))

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as fault:  # noqa: BLE001  # the outermost edge of the thread: the person is told
            self._feed.put(told_fault(fault, is_fatal=True))
        finally:
            self._desk = None

    async def _main(self) -> None:
        with self._starting:
            self._loop = asyncio.get_running_loop()
        for function in self._early:
            function()
        self._feed.put(u.Loading("opening"))
        async with AsyncExitStack() as stack:
            self._desk = await _open_desk(self._wish, self._feed, stack)
            stack.push_async_callback(self._desk.close)
            await self._tell_opened()
            while (command := await self._commands.get()) is not None:
                try:
                    await command()
                except Exception as fault:  # noqa: BLE001  # a command that fails ends itself alone
                    self._feed.put(told_fault(fault))
                finally:
                    self._cancel = None
                    self._feed.put(u.BranchSeen(branch_of(self._wish.work_tree)))
                    self._feed.put(u.Idle())

    async def _tell_opened(self) -> None:
        assert self._desk is not None
        self._feed.put(await self._desk.opened())

    async def _run(self, begin: Callable[[Session], AsyncGenerator[events.Event, None]]) -> None:
        from kodkod_agent import events
        from kodkod_app.headless import candidates_for

        assert self._desk is not None
        desk, session = self._desk, self._desk.session
        candidates = candidates_for(session, desk.settings, desk.plan, desk.box)
        self._cancel = candidates.cancel
        async with aclosing(candidates.follow(begin(session))) as found:
            async for event in found:
                self._feed.put(event)
                if isinstance(event, events.ApprovalAsked):
                    self._feed.put(await self._asked(event))

    async def _asked(self, event: events.ApprovalAsked) -> u.Asked:
        from kodkod_app.tui.preview import facts_of

        assert self._desk is not None
        session = self._desk.session
        facts = [await asyncio.to_thread(facts_of, request.call, session) for request in event.requests]
        return u.Asked(event.requests, tuple(facts))

    def _answer(self, approvals: tuple[Approval, ...]) -> None:
        from kodkod_agent.errors import SessionBusy

        if self._desk is not None:
            with suppress(SessionBusy):  # it was interrupted meanwhile
                self._desk.session.answer(*approvals)

    def _set_mode(self, mode: str) -> None:
        from kodkod_agent.policy import PermissionMode

        if self._desk is not None:
            self._desk.session.permissions.mode = PermissionMode(mode)
            self._feed.put(u.ModeSet(mode))

    def _with_shell_notes(self, text: str) -> str:
        notes, self._shell_notes = self._shell_notes, []
        return "\n\n".join([*notes, text])

    async def _run_shell(self, command: str) -> None:
        from kodkod_sandbox.base import ExecResult

        assert self._desk is not None
        self._feed.put(u.ShellBegan(command))
        reading = asyncio.create_task(self._read_shell(command))
        self._cancel = reading.cancel
        began_s = time.monotonic()
        output = ""
        try:
            output, ended = await reading
        except asyncio.CancelledError:
            ended = ExecResult(130, b"", b"", 0, 0, time.monotonic() - began_s)
        self._feed.put(u.ShellEnded(ended.exit_code, ended.duration_s))
        shown = output[-_MAX_SHOWN_TO_MODEL_CHARS:]
        self._shell_notes.append(f"I ran `{command}` (exit code {ended.exit_code}):\n{shown}")

    async def _read_shell(self, command: str) -> tuple[str, Any]:
        from kodkod_sandbox.base import ExecChunk

        assert self._desk is not None
        readers: dict[str, codecs.IncrementalDecoder] = {}
        parts: list[str] = []
        async for item in self._desk.box.exec_stream(command):
            if not isinstance(item, ExecChunk):
                return "".join(parts), item
            reader = readers.setdefault(item.channel, codecs.getincrementaldecoder("utf-8")("replace"))
            parts.append(reader.decode(item.data))
            self._feed.put(u.ShellSaid(parts[-1]))
        raise AssertionError("the stream of a command ends with its result")

    async def _reopen(self, session_id: str | None, step: int | None = None) -> None:
        assert self._desk is not None
        await self._desk.reopen(session_id, step)
        await self._tell_opened()

    async def _rewind(self, step: int) -> None:
        assert self._desk is not None
        await self._desk.session.rewind(step)
        await self._tell_opened()


class _Desk:
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
        from kodkod_app.tui.history import past_entries, pending_entries

        session = self.session
        is_unfinished = await session.is_unfinished()
        entries = await asyncio.to_thread(past_entries, session.folder)
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
            max_step_tokens=self.settings.engine.max_step_tokens,
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


async def _open_desk(wish: Wish, feed: Feed, stack: AsyncExitStack) -> _Desk:
    from kodkod_agent.policy import PermissionMode
    from kodkod_app import paths
    from kodkod_app.bootstrap import open_model, require_model
    from kodkod_app.boxes import open_box
    from kodkod_app.headless import RunOptions, box_plan, open_session, session_setup, what_was_asked
    from kodkod_app.settings import load_settings, merge_layers

    before = what_was_asked(wish.session_id) if wish.session_id is not None else {}
    asked = merge_layers(merge_layers(before, dict(wish.said)), {"agent": {"attended": True}})
    settings = load_settings(wish.work_tree, trusted=True, environment=os.environ, flags=asked)
    mode = settings.permission_mode or PermissionMode.DEFAULT
    settings = settings.model_copy(update={"permission_mode": mode})
    require_model(settings.model)
    options = RunOptions(
        wish.work_tree, settings, None, wish.session_id, wish.fork, wish.allow_build_network, asked=asked
    )
    plan = box_plan(options)
    feed.put(u.Loading("preparing the box"))
    box = await stack.enter_async_context(open_box(plan, lambda note: feed.put(u.Told(note))))
    feed.put(u.Loading("loading the engine"))
    model = open_model(settings.model, settings.engine, lambda what: _progress(what, feed))
    stack.callback(model.engine.close)
    setup = session_setup(settings, model, box)
    if wish.session_id is not None and wish.fork_step is not None:
        session = await _open_session(paths.sessions_folder(), setup, wish.session_id, wish.fork_step)
    else:
        session = await open_session(options, setup)
    return _Desk(wish, settings, plan, box, model, session)


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
    """A model's name for a line: the last part of its path."""
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


def told_fault(fault: BaseException, *, is_fatal: bool = False) -> u.Fault:
    """A fault in one line. One that nobody foresaw is written down whole, where the line says."""
    exit_code = getattr(fault, "exit_code", None)
    text = " ".join(str(fault).split()) or type(fault).__name__
    if exit_code is None:
        text = f"{type(fault).__name__}: {text}; the whole of it is in {_write_down(fault)}"
    return u.Fault(text, int(exit_code or 1), is_fatal)


def _write_down(fault: BaseException) -> Path:
    from kodkod_app import paths

    path = paths.cache_folder() / "fault.log"
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(fault)))
    return path
