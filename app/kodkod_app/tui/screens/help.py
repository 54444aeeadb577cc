"""Keys and commands, read off the bindings and the commands there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Input, Static

from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.screens.parts import Heading, Line

_NAME_WIDTH = 18


@dataclass(frozen=True, slots=True)
class HelpEntry:
    """One key or command, and what it does."""

    name: str
    words: str


@dataclass(frozen=True, slots=True)
class HelpSection:
    """Entries under a heading."""

    title: str
    entries: tuple[HelpEntry, ...]


def key_entries(app: App[Any], bindings: Iterable[BindingType]) -> tuple[HelpEntry, ...]:
    """The keys of bindings that say what they do."""
    return tuple(
        HelpEntry(binding.key_display or " ".join(_keys(app, binding)), binding.description)
        for binding in bindings
        if isinstance(binding, Binding) and binding.description
    )


def _keys(app: App[Any], binding: Binding) -> list[str]:
    return [app.get_key_display(replace(binding, key=key.strip())) for key in binding.key.split(",")]


class HelpScreen(Screen[None]):
    """See the module."""

    DEFAULT_CSS = """
    HelpScreen Input { margin: 0 1; }
    HelpScreen VerticalScroll { margin: 1 1 0 1; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll(-1)", show=False),
        Binding("down", "scroll(1)", "Scroll", key_display="↑ ↓"),
        Binding("pageup", "scroll(-10)", show=False),
        Binding("pagedown", "scroll(10)", show=False),
        Binding("escape", "close", "Close"),
    ]

    def __init__(self, sections: Sequence[HelpSection]) -> None:
        super().__init__()
        self._sections = tuple(sections)

    def compose(self) -> ComposeResult:
        """A line to type in, and all of it."""
        yield Heading("Help", "keys and commands")
        yield Line(placeholder="search")
        with VerticalScroll(can_focus=False):
            yield Static(id="sections")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Show it all."""
        self.query_one(Input).focus()
        self._show()

    @on(Input.Changed)
    def _show(self) -> None:
        words = self.query_one(Input).value.casefold().split()
        lines: list[Content] = []
        for section in self._sections:
            entries = [
                one for one in section.entries if all(word in f"{one.name} {one.words}".casefold() for word in words)
            ]
            if entries:
                lines += [
                    Content.styled(inert_line(section.title, 60), "bold $text-primary"),
                    *map(_entry, entries),
                    Content(),
                ]
        nothing = Content.styled("nothing has these words", "dim")
        self.query_one("#sections", Static).update(Content("\n").join(lines) if lines else nothing)

    def action_scroll(self, by: int) -> None:
        """While the line keeps the keys."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_close(self) -> None:
        """Done."""
        self.dismiss(None)


def _entry(entry: HelpEntry) -> Content:
    name = f"  {inert_line(entry.name, 60):<{_NAME_WIDTH}}"
    return Content.assemble((name, "$text-accent"), f"  {inert_line(entry.words)}")
