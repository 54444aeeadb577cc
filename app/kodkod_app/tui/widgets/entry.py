"""What every entry's widget has in common: one column of marks, one of content."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from kodkod_app.tui.store import Entry


class EntryView(Widget):
    """Shows one entry of the store; asked to look again when it changed."""

    DEFAULT_CSS = """
    EntryView {
        height: auto;
        width: 1fr;
        margin: 0 0 1 0;
        padding: 0 1 0 2;
    }
    """

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.entry = entry

    async def look_again(self) -> None:
        """The entry is not what it was."""


class PlainText(Static):
    """Text that is shown as it stands: nothing in it is markup."""

    def __init__(self, text: str | Content = "", *, classes: str | None = None, id: str | None = None) -> None:  # noqa: A002
        super().__init__(Content(text) if isinstance(text, str) else text, markup=False, classes=classes, id=id)

    def show(self, text: str | Content) -> None:
        """Show another text."""
        self.update(Content(text) if isinstance(text, str) else text)
