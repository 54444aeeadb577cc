"""A tiny app that shows one screen, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from textual import events
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static

from kodkod_app.tui.screens.parts import ConfirmScreen
from kodkod_app.tui.screens.settings import ValueScreen
from kodkod_app.tui.themes import THEMES, full_name

CHAT = "\n".join(
    f"  {line}"
    for line in (
        "› The date filter drops the last day. Mend it.",
        "",
        "I look at the filter first: the end of a span should be part of it.",
        "",
        "● view  timesheet/spans.py",
        "● test  tests/test_spans.py  1 failed, 11 passed",
    )
)


TIMEOUT_S = 60.0
_QUIET_ROUNDS = 2
"""A result that is shown may move the cursor, and what is under the cursor is looked up again."""


async def until(pilot: Pilot[Any], is_so: Callable[[], object], what: str) -> None:
    """Wait for something to be so."""
    end_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end_s, f"{what} never came"
        await pilot.pause(0.01)


async def press_at_once(pilot: Pilot[Any], *keys: str) -> None:
    """Keys that are all there before the first is dealt with, as over a slow line."""
    for key in keys:
        pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
    await pilot.pause()
    await settled(pilot)


async def settled(pilot: Pilot[Any]) -> None:
    """What is looked up behind the screen is there, and shown."""
    num_quiet = 0
    while num_quiet < _QUIET_ROUNDS:
        await until(pilot, lambda: not _is_working(pilot.app), "the end of the work behind the screen")
        await pilot.pause()
        num_quiet = 0 if _is_working(pilot.app) else num_quiet + 1


def _is_working(app: App[Any]) -> bool:
    if isinstance(app.screen, ConfirmScreen | ValueScreen):
        return False  # what opened it waits for its answer
    return any(worker.is_running for worker in app.workers)


class Host(App[None]):
    """See the module."""

    TITLE = "kodkod"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, make: Callable[[], Screen[Any]], theme: str = "dark", behind: str = "") -> None:
        super().__init__(ansi_color=theme == "ansi")
        for one in THEMES:
            self.register_theme(one)
        self.theme = full_name(theme)
        self.animation_level = "none"
        self._make = make
        self._behind = behind
        self.result: Any = "open"

    def compose(self) -> ComposeResult:
        yield Static(self._behind, markup=False)

    def on_mount(self) -> None:
        self.push_screen(self._make(), self._take)

    def _take(self, result: Any) -> None:
        self.result = result
