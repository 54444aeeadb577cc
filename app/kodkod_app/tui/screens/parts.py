"""What several screens are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Footer, Input, OptionList, Static, TextArea

from kodkod_app.report_text import FileStat
from kodkod_app.tui.inert import inert, inert_line
from kodkod_app.tui.screens.once import Once

_MAX_FILES = 12
STATUS_COLOURS = {
    "done": "$text-success",
    "fault": "$text-error",
    "damaged": "$text-error",
    "unfinished": "$text-warning",
    "unverified": "$text-warning",
    "limit": "$text-warning",
}


class Heading(Static):
    """A screen's name, and a word about what it shows."""

    DEFAULT_CSS = "Heading { height: 1; margin: 0 1 1 1; }"

    def __init__(self, title: str, note: str = "", *, id: str | None = None) -> None:  # noqa: A002 - Textual's own
        super().__init__(id=id)
        self._title = inert_line(title, 60)
        self.say(note)

    def say(self, note: str) -> None:
        """Another word."""
        self.update(Content.assemble((self._title, "bold $text-primary"), "  ", (inert_line(note, 200), "dim")))


class Line(Input):
    """One line to type in. What is pasted into it, or stands in it at first, is made inert."""

    def __init__(self, value: str = "", *, placeholder: str = "", enter: str = "", id: str | None = None) -> None:  # noqa: A002
        """`enter` tells what Enter does."""
        super().__init__(inert_line(value), placeholder=placeholder, id=id, select_on_focus=False, compact=True)
        if enter:
            bind_enter(self, "submit", enter)

    def _on_paste(self, event: events.Paste) -> None:
        event.text = inert_line(event.text.strip())


class Lines(TextArea):
    """Several lines to type in. The same holds for them."""

    def __init__(self, text: str, *, id: str | None = None) -> None:  # noqa: A002 - Textual's own name
        super().__init__(inert(text), id=id, compact=True, soft_wrap=True)

    async def _on_paste(self, event: events.Paste) -> None:
        event.text = inert(event.text)


def bind_enter(widget: Widget, action: str, words: str) -> None:
    """What Enter does in a widget, told at the foot. As a key of the screen it would overtake what came before it."""
    widget._bindings.key_to_bindings["enter"] = [Binding("enter", action, words)]


class Options(OptionList):
    """Choices one moves in. Where there is no room for one there is no page: Textual knows no line then, and fails."""

    def action_page_up(self) -> None:
        """Up by what is seen."""
        with suppress(KeyError):
            super().action_page_up()  # type: ignore[no-untyped-call]  # Textual left it so

    def action_page_down(self) -> None:
        """Down by what is seen."""
        with suppress(KeyError):
            super().action_page_down()  # type: ignore[no-untyped-call]  # Textual left it so


class ConfirmScreen(ModalScreen[bool], Once[bool]):
    """A question with yes and no; no is where the cursor would be."""

    DEFAULT_CSS = """
    ConfirmScreen { align: center middle; background: $background 40%; }
    ConfirmScreen Vertical {
        width: 60; max-width: 90%; height: auto; padding: 1 2; background: $surface; border: round $warning;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,enter", "answer(False)", "No", key_display="n"),
    ]

    def __init__(self, question: str, detail: str = "") -> None:
        super().__init__()
        self._question, self._detail = question, detail

    def compose(self) -> ComposeResult:
        """The question over the keys."""
        with Vertical():
            yield Static(Content.styled(inert_line(self._question, 200), "bold"))
            if self._detail:
                yield Static(Content.styled(inert_line(self._detail, 300), "dim"))
        yield Footer(show_command_palette=False)

    def action_answer(self, answer: bool) -> None:
        """Done."""
        self.dismiss(answer)


def put_late(screen: Screen[Any], selector: str, content: Content) -> None:
    """Show what took its time; nothing where the screen is being left, and its parts are gone before its work is."""
    for place in screen.query(selector).results(Static):
        place.update(content)


def files_content(files: Sequence[FileStat]) -> Content:
    """The files a change touches, each with its lines."""
    if not files:
        return Content.styled("no file changes", "dim")
    lines = [Content.styled(f"{len(files)} {'file changes' if len(files) == 1 else 'files change'}", "bold")]
    for file in files[:_MAX_FILES]:
        counts = "binary" if file.is_binary else f"+{file.added} −{file.removed}"
        lines.append(Content.assemble("  ", inert_line(file.path, 200), "  ", (counts, "dim")))
    if len(files) > _MAX_FILES:
        lines.append(Content.styled(f"  and {len(files) - _MAX_FILES} more", "dim"))
    return Content("\n").join(lines)
