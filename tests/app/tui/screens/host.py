"""A tiny app that shows one screen, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.app import App, ComposeResult
from textual.screen import Screen
from textual.widgets import Static

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
