"""A list under headings that typing searches: keys and commands, skills, servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Input, Static

from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.screens.parts import Heading, Line

_NAME_WIDTH = 19
_INDENT = "    "
"""Of further lines."""
_MAX_LINE_CHARS = 400


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: what it is called, and what is to be said of it."""

    name: str
    """Empty where the words are all there is."""
    words: str
    more: tuple[str, ...] = ()
    """Further lines."""

    @property
    def text(self) -> str:
        """All of it, for searching."""
        return "\n".join((self.name, self.words, *self.more)).casefold()


@dataclass(frozen=True, slots=True)
class Section:
    """Entries under a heading."""

    title: str
    entries: tuple[Entry, ...]


class ListScreen(Once[None]):
    """See the module."""

    DEFAULT_CSS = """
    ListScreen Input { margin: 0 1; }
    ListScreen VerticalScroll { margin: 1 1 0 1; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll(-1)", show=False),
        Binding("down", "scroll(1)", "Scroll", key_display="↑ ↓"),
        Binding("pageup", "scroll(-10)", show=False),
        Binding("pagedown", "scroll(10)", show=False),
        Binding("escape", "close", "Close"),
    ]

    def __init__(self, title: str, note: str, sections: Sequence[Section], *, empty: str = "") -> None:
        """Show these.

        Args:
            title: the screen's name.
            note: what it shows, in a few words.
            sections: those without entries are left out.
            empty: what is said where there is no entry at all.
        """
        super().__init__()
        self._title, self._note, self._empty = title, note, empty
        self._sections = tuple(section for section in sections if section.entries)

    def compose(self) -> ComposeResult:
        """A line to type in, and all of it."""
        yield Heading(self._title, self._note)
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
            if entries := [entry for entry in section.entries if all(word in entry.text for word in words)]:
                lines.append(Content.styled(inert_line(section.title, 60), "bold $text-primary"))
                lines += [line for entry in entries for line in _lines(entry)]
                lines.append(Content())
        nothing = "nothing has these words" if self._sections else self._empty
        shown = Content("\n").join(lines) if lines else Content.styled(inert_line(nothing), "dim")
        self.query_one("#sections", Static).update(shown)

    def action_scroll(self, by: int) -> None:
        """While the line keeps the keys."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_close(self) -> None:
        """Done."""
        self.dismiss(None)


def _lines(entry: Entry) -> list[Content]:
    name = f"  {inert_line(entry.name, 60):<{_NAME_WIDTH}}" if entry.name else ""
    first = Content.assemble((name, "$text-accent"), f"  {inert_line(entry.words, _MAX_LINE_CHARS)}")
    return [first, *(Content.styled(f"{_INDENT}{inert_line(line, _MAX_LINE_CHARS)}", "dim") for line in entry.more)]
