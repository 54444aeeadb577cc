"""How what happens behind the screen reaches it: updates of the workbench into store, meter and widgets."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

from textual.app import App

from kodkod_app.tui import store as s
from kodkod_app.tui import updates as u
from kodkod_app.tui.inert import inert, inert_line
from kodkod_app.tui.widgets.plan import PlanList
from kodkod_app.tui.widgets.prompt import Prompt
from kodkod_app.tui.widgets.queue import Queue
from kodkod_app.tui.widgets.status import StatusLine, facts_of
from kodkod_app.tui.widgets.transcript import Transcript

if TYPE_CHECKING:
    from kodkod_app.tui.feed import Feed
    from kodkod_app.tui.meter import Meter
    from kodkod_app.tui.telling import Teller
    from kodkod_app.tui.workbench import Workbench


class Updating(App[int]):
    """The part of the app that takes updates in."""

    workbench: Workbench
    feed: Feed
    store: s.Store
    meter: Meter
    transcript: Transcript
    prompt: Prompt
    queue: Queue
    plan_list: PlanList
    status: StatusLine

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        """A session is there, and something may be said."""
        self.is_shut = False
        """None could be opened, and none will be."""
        self.is_busy = False
        """A run, or a command of the person's, goes on."""
        self.is_ending = False
        """What goes on cannot be stopped, any more or at all: what is written now is said after it."""
        self.hurry = asyncio.Event()
        """The person waits for the end of what goes on: it is shown as it comes, not a frame later."""
        self.exit_code = 0
        self.session_id = ""
        self._teller: Teller | None = None
        self._shell: s.ShellRun | None = None
        self._scene = {"model": "", "mode": "default", "box": "", "branch": ""}
        self._activity = ""
        self._began_s = self._asked_s = 0.0
        self._was_interrupted = False

    async def take_updates(self, items: list[object]) -> None:
        """Everything that happened since the last frame, then one look of the widgets."""
        if self._teller is not None:
            from kodkod_app.tui.telling import coalesced

            items = coalesced(items)
        for item in items:
            await self._take(item)
        await self.transcript.refresh_store()
        self.plan_list.steps = self.store.plan
        self._show_status()

    async def _take(self, item: object) -> None:
        match item:
            case u.Loading():
                self._loading(item)
            case u.Opened():
                await self._opened(item)
            case u.Asked():
                self._asked(item)
            case u.Idle():
                await self._idle()
            case u.Told(text):
                self.store.add(s.Note(inert(text)))
            case u.Fault():
                self._failed(item)
            case u.ModeSet(mode):
                self._scene["mode"] = mode
                self.prompt.set_class(mode == "plan", "plan")
            case u.BranchSeen(branch):
                self._scene["branch"] = inert_line(branch, 40)
            case u.ShellBegan() | u.ShellSaid() | u.ShellEnded():
                self._shell_told(item)
            case _:
                self._told(item)

    def _told(self, event: Any) -> None:
        """An event of the agent's."""
        from kodkod_agent.events import RunEnded, RunInterrupted

        counters = self.workbench.stats
        if self._teller is None or counters is None:
            return
        self._teller.tell(event, counters)
        match event:
            case RunInterrupted():
                self._settle()
            case RunEnded(report):
                self._was_interrupted |= report.status == "interrupted" and not self.is_ending
            case _:
                pass

    def _loading(self, loading: u.Loading) -> None:
        share = f" {loading.done / loading.total:.0%}" if loading.total else ""
        self._activity = f"{loading.what}{share}"

    async def _opened(self, opened: u.Opened) -> None:
        from kodkod_app.tui.telling import Teller

        self.is_open, self.session_id = True, opened.session_id
        self._activity = ""
        self._scene |= {"model": opened.model, "mode": opened.mode, "box": opened.box, "branch": opened.branch}
        notes = [entry for entry in self.store.entries if isinstance(entry, s.Note)] if not self._teller else []
        self.store.reset([self.welcome(opened.title), *opened.entries, *notes])
        self.meter.open(opened.context_tokens, opened.max_context_tokens, opened.max_step_tokens)
        if self._teller is None:
            # All that was imported, and what was said before, is there to stay: to look through it for garbage again
            # and again would stop the screen for a fifth of a second each time. Widgets that went are found among what
            # is younger; what outlived that is looked through a sixth as often as usual.
            gc.freeze()
            young, middle, _ = gc.get_threshold()
            gc.set_threshold(young, middle, 60)
        self._teller = Teller(self.store, self.meter)
        if opened.is_unfinished:
            self._teller.adopt(opened.entries)
            self.store.add(s.Note("a run was cut short here; /continue goes on with it", s.NoteKind.WARNING))
        if not self.is_busy:
            await self._send_next()

    def welcome(self, title: str = "") -> s.Welcome:
        """See `KodkodApp`."""
        raise NotImplementedError

    def _asked(self, asked: u.Asked) -> None:
        self._asked_s = time.monotonic()
        if self._teller is not None:
            self._teller.asked(request.call.id for request in asked.requests)
        self.open_approval(asked)

    def open_approval(self, asked: u.Asked) -> None:
        """See `Actions`."""
        raise NotImplementedError

    def close_approval(self) -> None:
        """See `Opening`."""
        raise NotImplementedError

    def was_answered(self, asked: u.Asked) -> None:
        """The person has answered. What they took for it is no work."""
        self._began_s += time.monotonic() - self._asked_s
        if self._teller is not None:
            self._teller.answered(request.call.id for request in asked.requests)
        self.run_worker(self.transcript.refresh_store(), group="window")

    def _settle(self) -> None:
        """Nothing works any more: for the person the run is over."""
        self.is_ending = True
        self._activity = ""
        self.close_approval()
        self._give_back()

    async def _idle(self) -> None:
        self.is_busy = self.is_ending = False
        self.hurry.clear()
        self._activity = ""
        self.meter.stop()
        self.close_approval()
        if self._was_interrupted:
            self._give_back()
        else:
            await self._send_next()

    @property
    def is_stoppable(self) -> bool:
        """Something goes on that Esc stops."""
        return self.is_busy and not self.is_ending

    @property
    def why_busy(self) -> str:
        """What a person is told who wants something that waits for what goes on."""
        if self.is_stoppable:
            return "not while something runs; Esc stops it"
        return f"one moment: {self._activity or 'what the run changed is being looked up'}"

    def _give_back(self) -> None:
        """After an interrupt nothing is said by itself: what waited is the person's again."""
        self._was_interrupted = False
        if waiting := self.queue.take_all():
            self.prompt.put_before(waiting)

    async def _send_next(self) -> None:
        if self.is_open and (text := self.queue.take_first()) is not None:
            await self.say(text)

    async def say(self, text: str) -> None:
        """Say something, or run it where it begins with `!`."""
        self.begin_work()
        self.transcript.follows = True
        if text.startswith("!"):
            self.workbench.run_shell(text[1:].strip())
            return
        self.store.add(s.Said(inert(text)))
        self.workbench.send(self.plain_paths(text))
        await self.transcript.refresh_store()

    def plain_paths(self, text: str) -> str:
        """See `Actions`."""
        raise NotImplementedError

    def begin_work(self, unstoppable: str = "") -> None:
        """Something goes on from now; what it is, where Esc cannot stop it."""
        self.is_busy, self._began_s = True, time.monotonic()
        self.is_ending, self._activity = bool(unstoppable), unstoppable
        self._was_interrupted = False
        self._show_status()

    def _failed(self, fault: u.Fault) -> None:
        match self.store.entries[-1:]:
            case [s.Ending(reason=told)] if told == inert_line(fault.text):
                pass  # the end of the run says it
            case _:
                self.store.add(s.Note(inert(fault.text), s.NoteKind.FAULT))
        if fault.is_fatal:
            self.is_shut, self.is_open = True, False
            self.exit_code = fault.exit_code
            self._activity = ""
            self.store.add(s.Note(f"{self.without_session}; /doctor tells what is missing", s.NoteKind.WARNING))
            self._give_back()

    @property
    def without_session(self) -> str:
        """What a person is told who wants something that needs a session."""
        return "no session could be opened; /quit leaves" if self.is_shut else "no session is open yet"

    def _shell_told(self, item: u.ShellBegan | u.ShellSaid | u.ShellEnded) -> None:
        match item:
            case u.ShellBegan(command):
                self._shell = s.ShellRun(inert_line(command))
                self.store.add(self._shell)
            case u.ShellSaid(text) if self._shell is not None:
                self._shell.say(text)
                self.store.touch(self._shell)
            case u.ShellEnded(exit_code, duration_s) if self._shell is not None:
                self._shell.exit_code, self._shell.duration_s = exit_code, duration_s
                self.store.touch(self._shell)
                self._shell = None
            case _:
                pass

    # The status line

    def show_activity(self, activity: str) -> None:
        """Say what goes on."""
        self._activity = activity
        self._show_status()

    def on_transcript_follow_changed(self) -> None:
        """The reader left the end, or came back to it."""
        self._show_status()

    def look_at_meter(self) -> None:
        """A few times a second."""
        if (counters := self.workbench.stats) is None:
            return
        if self.is_busy:
            self.meter.look(time.monotonic(), counters)
        else:
            self.meter.look_ahead(counters)
        self._show_status()

    def _show_status(self) -> None:
        activity = self._activity
        if not activity and self.is_stoppable:
            activity = f"working {time.monotonic() - self._began_s:.0f} s · esc stops"
        is_behind = not self.transcript.follows
        self.status.facts = facts_of(self.meter, is_behind=is_behind, activity=activity, **self._scene)
