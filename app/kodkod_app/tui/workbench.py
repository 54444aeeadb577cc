"""What works behind the screen: box, model and session, in a thread and a loop of their own.

    screen ── send, interrupt, answer, ... ──►  loop of the thread `kodkod-agent`  ──►  engine thread
       ▲                                              │
       └──────────────────  Feed  ◄───────────────────┘

Methods may be called from the screen's thread, return at once and never fail; what comes of them is put in the feed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from kodkod_app.tui import updates as u
from kodkod_app.tui.desk import Desk, branch_of, open_desk
from kodkod_app.tui.faults import told_fault
from kodkod_app.tui.feed import Feed
from kodkod_app.tui.persons_shell import PersonsShell
from kodkod_app.wish import Wish

if TYPE_CHECKING:
    from kodkod_agent import events
    from kodkod_agent.approval import Approval
    from kodkod_agent.session import Session
    from kodkod_app.extras import Extras
    from kodkod_app.settings import Settings
    from kodkod_engine.api import EngineStats

Command = Callable[[], Awaitable[None]]
_Found = TypeVar("_Found")
_CLOSE_TIMEOUT_S = 5.0
"""A model that is still being loaded is not waited for any longer, and once."""
_STEP_TIMEOUT_S = 0.5
"""Nor is one for which a step takes longer: a piece of a prompt may take seconds, and is of no use any more."""


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
        self._desk: Desk | None = None
        self._cancel: Callable[[], object] | None = None
        self._was_stopped = False
        """The last command was told to end; it may have come to nothing that could be stopped yet."""
        self._shell = PersonsShell(feed)
        self._was_closed = False
        self._is_away = threading.Event()
        """Session, box and extras are closed, in whatever way."""

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

    @property
    def extras(self) -> Extras | None:
        """What a person and the project add to the session; None while none is open."""
        return self._desk.extras if self._desk is not None else None

    @property
    def is_guided(self) -> bool:
        """The model is one that calls its own few tools alone."""
        return self._desk is not None and self._desk.model.profile.guided

    def send(self, text: str) -> None:
        """Say something."""
        self._soon(lambda: self._run(lambda session: session.send(self._shell.with_what_was_run(text))))

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

    def fork(self, session_id: str, step: int | None) -> None:
        """Leave the session and begin one as that one was after `step` turns, or stands, files and all."""
        self._soon(lambda: self._reopen(session_id, step, forks=True))

    def rewind(self, step: int) -> None:
        """Take the session back to where it was after `step` turns, files and all."""
        self._soon(lambda: self._rewind(step))

    def compact(self, focus: str) -> None:
        """Shorten the conversation to a summary of it."""
        self._soon(lambda: self._compact(focus))

    def restart_server(self, name: str) -> None:
        """Start an MCP server again."""
        self._soon(lambda: self._restart_server(name))

    def interrupt(self) -> None:
        """Stop what runs, or what was asked for and is about to."""
        self._call(self._stop)

    def answer(self, approvals: tuple[Approval, ...]) -> None:
        """Answer what was asked; calls that are not named are refused."""
        self._call(lambda: self._answer(approvals))

    def set_mode(self, mode: str) -> None:
        """Change how much is done without asking."""
        self._call(lambda: self._set_mode(mode))

    def put_away(self) -> None:
        """Stop what runs and close session, box and extras in order, the model behind them. May be called again."""
        self.interrupt()
        self._call(lambda: self._commands.put_nowait(None))
        if self._thread.is_alive() and not (self._was_closed and self._desk is None):
            self._is_away.wait(_CLOSE_TIMEOUT_S)
        self._was_closed = True

    def close(self) -> bool:
        """As `put_away`, the model too; False where the thread does not end, as in a step that takes long."""
        self.put_away()
        if self._thread.is_alive() and self._is_away.is_set():
            self._thread.join(_STEP_TIMEOUT_S)
            if not self._is_computing:
                self._thread.join(_CLOSE_TIMEOUT_S)
        return not self._thread.is_alive()

    @property
    def _is_computing(self) -> bool:
        counters = self.stats
        return counters is not None and counters.running + counters.waiting > 0

    def _call(self, function: Callable[[], object]) -> None:
        with self._starting:
            if self._loop is None:
                self._early.append(function)
                return
        # The loop is closed once its thread has ended after a fault; then there is nothing to be done.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _soon(self, command: Command) -> None:
        self._call(lambda: self._accept(command))

    def _accept(self, command: Command) -> None:
        self._was_stopped = False
        self._commands.put_nowait(command)

    def _stop(self) -> None:
        self._was_stopped = True
        if self._cancel is not None:
            self._cancel()

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as fault:  # noqa: BLE001  # the outermost edge of the thread: the person is told
            self._feed.put(told_fault(fault, is_fatal=True))
        finally:
            self._desk = None
            self._is_away.set()

    async def _main(self) -> None:
        with self._starting:
            self._loop = asyncio.get_running_loop()
        for function in self._early:
            function()
        self._feed.put(u.Loading("opening"))
        # The model is closed last: it may be in the middle of a step, and whoever leaves need not wait for that.
        async with AsyncExitStack() as models, AsyncExitStack() as stack:
            self._desk = await open_desk(self._wish, self._feed, stack, models)
            models.callback(self._is_away.set)
            stack.push_async_callback(self._desk.close)
            await self._tell_opened()
            while (command := await self._next()) is not None:
                try:
                    await command()
                except Exception as fault:  # noqa: BLE001  # a command that fails ends itself alone
                    self._feed.put(told_fault(fault))
                finally:
                    self._cancel = None
                    self._feed.put(u.Idle())  # at once: keys are refused until then
                    self._feed.put(u.BranchSeen(branch_of(self._wish.work_tree)))

    async def _next(self) -> Command | None:
        """What is asked for next. Where there is no room for it, the conversation is shortened while nobody asks."""
        assert self._desk is not None
        asking = asyncio.create_task(self._commands.get())
        await asyncio.sleep(0)  # what waits already comes first
        if not asking.done() and self._desk.session.is_nearly_full:
            shortening = asyncio.create_task(self._shorten_ahead(self._desk.session, asking))
            await asyncio.wait({asking, shortening}, return_when=asyncio.FIRST_COMPLETED)
            self._desk.session.cancel()
            await shortening
        return await asking

    async def _shorten_ahead(self, session: Session, asking: asyncio.Task[Command | None]) -> None:
        """Until something is asked. What keeps it from that ends nothing else, and mostly is told when it matters."""
        from kodkod_agent import events
        from kodkod_agent.errors import AgentError
        from kodkod_engine.errors import EngineError

        self._feed.put(u.Loading("summing up ahead"))
        try:
            async with aclosing(session.compact()) as told:
                async for event in told:
                    if isinstance(event, events.ContextRebuilt):
                        self._feed.put(event)
                    if asking.done():  # before there was something to cancel
                        break
        except (AgentError, EngineError):
            pass
        except Exception as fault:  # noqa: BLE001  # as of a command: it ends itself alone
            self._feed.put(told_fault(fault))
        self._feed.put(u.Loading(""))

    async def _tell_opened(self) -> None:
        assert self._desk is not None
        self._feed.put(await self._desk.opened())

    async def _run(self, begin: Callable[[Session], AsyncGenerator[events.Event, None]]) -> None:
        from kodkod_agent import events
        from kodkod_app.session_opening import candidates_for

        assert self._desk is not None
        desk, session = self._desk, self._desk.session
        candidates = candidates_for(session, desk.settings, desk.plan, desk.box)
        self._cancel = candidates.cancel
        async with aclosing(candidates.follow(begin(session))) as found:
            async for event in found:
                self._feed.put(event)
                if isinstance(event, events.RunStarted) and self._was_stopped:
                    candidates.cancel()
                if isinstance(event, events.ApprovalAsked):
                    self._feed.put(await self._asked(event))

    async def _compact(self, focus: str) -> None:
        assert self._desk is not None
        session = self._desk.session
        self._cancel = session.cancel
        async with aclosing(session.compact(focus)) as told:
            async for event in told:
                self._feed.put(event)
                if self._was_stopped:
                    return

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

    async def _run_shell(self, command: str) -> None:
        assert self._desk is not None
        await self._shell.run(command, self._stoppable(self._shell.read(command, self._desk.box)))

    async def _restart_server(self, name: str) -> None:
        assert self._desk is not None
        restarting = self._stoppable(self._desk.restart_server(name))
        with suppress(asyncio.CancelledError):
            for line in await restarting:
                self._feed.put(u.Told(line))

    async def _reopen(self, session_id: str | None, step: int | None = None, *, forks: bool = False) -> None:
        assert self._desk is not None
        await self._desk.reopen(session_id, step, forks=forks)
        await self._tell_opened()

    async def _rewind(self, step: int) -> None:
        assert self._desk is not None
        going = self._stoppable(self._desk.session.rewind(step))
        try:
            await going
        except asyncio.CancelledError:
            self._feed.put(u.Told("stopped: the conversation and the files are as they were"))
        else:
            await self._tell_opened()

    def _stoppable(self, work: Coroutine[Any, Any, _Found]) -> asyncio.Task[_Found]:
        """Ended by `interrupt`, be it that the word came before the work."""
        task = asyncio.create_task(work)
        self._cancel = task.cancel
        if self._was_stopped:
            task.cancel()
        return task
