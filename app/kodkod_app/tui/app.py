"""The app: what the chat screen is made of, what keys do, and the one consumer that brings the session's events to it.

Wiring alone. What is shown is in `widgets/`, what is known in `store`, `telling` and `meter`, what works in
`workbench`.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.driver import Driver

from kodkod_app import paths
from kodkod_app.tui import store as s
from kodkod_app.tui.actions import Actions
from kodkod_app.tui.commands import find_command
from kodkod_app.tui.feed import Feed
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.meter import Meter
from kodkod_app.tui.prompt_history import PromptHistory
from kodkod_app.tui.terminal_driver import TerminalDriver
from kodkod_app.tui.themes import DARK, THEMES, full_name, wanted_theme
from kodkod_app.tui.widgets.completion import Completion
from kodkod_app.tui.widgets.plan import PlanList
from kodkod_app.tui.widgets.prompt import Prompt
from kodkod_app.tui.widgets.queue import Queue
from kodkod_app.tui.widgets.status import StatusLine
from kodkod_app.tui.widgets.transcript import Transcript
from kodkod_app.tui.workbench import Workbench
from kodkod_app.wish import Wish

FRAME_S = 1 / 25
"""What happened is brought to the screen this often at most."""
_TWICE_S = 0.8
"""Two presses of a key within this time are one gesture."""


class KodkodApp(Actions):
    """The terminal app."""

    TITLE = "kodkod"
    CSS_PATH = Path(__file__).with_name("style.tcss")
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Interrupt; twice: rewind", show=False),
        Binding("ctrl+c", "copy_or_stop", "Copy, interrupt, clear or leave", show=False, priority=True),
        Binding("ctrl+d", "leave_or_delete", "Leave, when nothing is written", show=False),
        Binding("ctrl+q", "leave", "Leave", show=False, priority=True),
        Binding("shift+tab", "cycle_mode", "Next permission mode", show=False),
        Binding("pageup", "scroll_page(-1)", "Scroll up", show=False),
        Binding("pagedown", "scroll_page(1)", "Scroll down", show=False),
        Binding("ctrl+end", "scroll_end", "To the last message", show=False),
        Binding("ctrl+o", "unfold_all", "Unfold or fold all calls", show=False),
        Binding("f1", "show_help", "Help", show=False),
        Binding("f2", "sessions", "Sessions", show=False),
        Binding("f3", "branches", "Branches", show=False),
        Binding("f4", "settings", "Settings", show=False),
    ]

    def __init__(self, wish: Wish, *, is_first_start: bool = False) -> None:
        super().__init__()
        self.wish = wish
        self.is_first_start = is_first_start
        self.feed = Feed()
        self.workbench = Workbench(wish, self.feed)
        self.store = s.Store()
        self.meter = Meter()
        self.hears_keys = threading.Event()
        """There is somebody to take them: the driver's thread keeps back what was typed before."""
        self._fed = asyncio.Event()
        self._stop_pressed_s = 0.0
        self._leave_pressed_s = 0.0
        self._is_told_to_leave = False
        self.animation_level = "none"
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = full_name(wanted_theme(paths.user_settings()))

    def compose(self) -> ComposeResult:
        """The chat screen, from top to bottom."""
        completion = Completion()
        self.transcript = Transcript(self.store, id="transcript")
        self.plan_list, self.queue, self.status = PlanList(), Queue(), StatusLine()
        self.prompt = Prompt(PromptHistory(paths.prompt_history()), completion, id="prompt")
        yield from (self.transcript, self.plan_list, self.queue, completion, self.prompt, self.status)

    def on_mount(self) -> None:
        """Paint first; everything else begins behind the first frame."""
        self.prompt.take_back = self.queue.take_last
        self.prompt.focus()
        self.store.reset([self.welcome()])
        self.call_after_refresh(self._begin)

    def get_driver_class(self) -> type[Driver]:
        """How the terminal is driven; tests drive none."""
        return TerminalDriver

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our own colours, for themes that know nothing of them."""
        return DARK.variables

    def _begin(self) -> None:
        self.hears_keys.set()
        loop = asyncio.get_running_loop()
        self.feed.wake = lambda: loop.call_soon_threadsafe(self._fed.set)
        self._fed.set()
        self.run_worker(self._consume(), group="consumer", exit_on_error=True)
        self.set_interval(0.25, self.look_at_meter)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.told_to_leave, number)
        self.workbench.start()
        if self.is_first_start:
            self.action_doctor("Welcome to kodkod.")

    def told_to_leave(self, number: int) -> None:
        """By the system, or by a terminal that is gone: the session is left in order."""
        if not self._is_told_to_leave:
            self._is_told_to_leave = True
            self.exit_code = 128 + number
            self.run_worker(self.action_leave())

    async def _consume(self) -> None:
        """The one reader of the feed: a frame's worth at a time, however fast it is filled, unless someone waits."""
        while True:
            await self._fed.wait()
            self._fed.clear()
            items = self.feed.take()
            await self.take_updates(items)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.hurry.wait(), FRAME_S)

    def welcome(self, title: str = "") -> s.Welcome:
        """The head of the transcript."""
        return s.Welcome(inert_line(self.shown_folder()), version("kodkod"), inert_line(title))

    def shown_folder(self) -> str:
        """The project, with the home folder in short."""
        folder = self.wish.work_tree
        return f"~/{folder.relative_to(Path.home())}" if folder.is_relative_to(Path.home()) else str(folder)

    # What is written

    async def on_prompt_submitted(self, event: Prompt.Submitted) -> None:
        """A command, a shell command, or something to say."""
        text = event.text
        if text.startswith("/") and (found := find_command(text)):
            command, argument = found
            await self.run_action(f"{command.action}({argument!r})" if command.argument else command.action)
        elif text.startswith("/") and "/" not in text[1:].partition(" ")[0]:
            self.notify(
                f"there is no command {inert_line(text, 40)}; /help lists them", markup=False, severity="warning"
            )
        elif text == "!":
            self.notify("behind the ! stands a command, as in !git diff", severity="warning")
        elif self.is_shut:
            self.prompt.put(text)
            self.notify(self.without_session, severity="warning")
        elif self.is_busy or not self.is_open:
            self.queue.add(text)
        else:
            await self.say(text)

    async def on_prompt_paths_wanted(self, event: Prompt.PathsWanted) -> None:
        """Look for paths in a thread; a later question takes the place of an earlier one."""
        self.run_worker(self._find_paths(event.fragment), group="paths", exclusive=True)

    async def _find_paths(self, fragment: str) -> None:
        found = await asyncio.to_thread(self.path_search.find, fragment)
        self.prompt.offer_paths(fragment, [inert_line(path) for path in found])

    # Keys

    def on_key(self, event: events.Key) -> None:
        """A letter that means nothing where the focus is belongs to the prompt."""
        if (
            self._is_for_prompt
            and event.character
            and event.is_printable
            and event.key not in self.screen.active_bindings
        ):
            self.prompt.focus()
            self.prompt.insert(event.character)

    def on_paste(self, event: events.Paste) -> None:
        """So does what is pasted."""
        if self._is_for_prompt:
            self.prompt.focus()
            self.prompt.on_paste(event)

    @property
    def _is_for_prompt(self) -> bool:
        return self.focused is not self.prompt and not self._is_covered

    def action_stop(self) -> None:
        """Interrupt what runs; when nothing does, take back what waits, and two presses go back in the session."""
        now_s = time.monotonic()
        if self.is_stoppable:
            self._was_interrupted = True
            self.workbench.interrupt()
            self.hurry.set()
            self.show_activity("stopping")
        elif self.queue.messages:
            self._give_back()
        elif now_s - self._stop_pressed_s < _TWICE_S:
            self._stop_pressed_s = 0.0
            self.run_worker(self.run_action("rewind('')"))
        else:
            self._stop_pressed_s = now_s

    async def action_copy_or_stop(self) -> None:
        """Copy what is selected; else interrupt, or clear the prompt; twice in a row leaves."""
        selected = self.prompt.selected_text or self.screen.get_selected_text()
        now_s = time.monotonic()
        if selected:
            self.copy_to_clipboard(selected)
            self.notify("copied")
        elif self.is_stoppable:
            self.action_stop()
        elif self.prompt.text:
            self.prompt.lay_aside()
        elif now_s - self._leave_pressed_s < 2 * _TWICE_S:
            await self.action_leave()
        else:
            self._leave_pressed_s = now_s
            self.notify("Ctrl+C again leaves; the session is kept", timeout=2)

    async def action_leave_or_delete(self) -> None:
        """Leave, unless something is written."""
        if self.prompt.text:
            self.prompt.action_delete_right()
        else:
            await self.action_leave()

    async def action_leave(self) -> None:
        """Close the session in order, and leave; who opened the app waits for the model, without a screen."""
        self.show_activity("closing")
        await asyncio.to_thread(self.workbench.put_away)
        self.exit(self.exit_code, return_code=self.exit_code)

    def action_scroll_page(self, direction: int) -> None:
        """Scroll the conversation, wherever the focus is."""
        transcript = self.transcript
        # At once: a scroll that waits for a frame goes to a place that was reckoned before the frame moved all.
        lines = direction * max(1, transcript.size.height - 2)
        transcript.scroll_relative(y=lines, animate=False, immediate=True)

    def action_scroll_end(self) -> None:
        """To the last message."""
        self.transcript.action_follow()
