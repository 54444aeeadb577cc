"""What was said while the agent works, waiting for its turn."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from kodkod_app.tui.inert import inert_line

_MAX_SHOWN = 5
_MAX_CHARS = 160


class Queue(Widget):
    """Shows the messages that wait, first come first said. Up in an empty prompt takes the last one back."""

    DEFAULT_CSS = """
    Queue {
        height: auto;
        max-height: 30vh;
        margin: 0 2;
        padding: 0 1;
        color: $muted;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        display: none;
    }
    """
    messages: reactive[tuple[str, ...]] = reactive((), layout=True)

    def watch_messages(self) -> None:
        """It is there while something waits."""
        self.display = bool(self.messages)

    def add(self, text: str) -> None:
        """Let a message wait."""
        self.messages = (*self.messages, text)

    def take_first(self) -> str | None:
        """The one whose turn it is."""
        if not self.messages:
            return None
        first, *rest = self.messages
        self.messages = tuple(rest)
        return first

    def take_last(self) -> str | None:
        """The one that came last, for changing it."""
        if not self.messages:
            return None
        *rest, last = self.messages
        self.messages = tuple(rest)
        return last

    def take_all(self) -> str:
        """All of them as one text."""
        messages, self.messages = self.messages, ()
        return "\n\n".join(messages)

    def render(self) -> RenderResult:
        """A line each."""
        lines = [f"» {inert_line(text, _MAX_CHARS)}" for text in self.messages[:_MAX_SHOWN]]
        if (more := len(self.messages) - _MAX_SHOWN) > 0:
            lines.append(f"  and {more} more")
        lines.append("  sent when the run ends · ↑ changes the last")
        return Content("\n".join(lines))
