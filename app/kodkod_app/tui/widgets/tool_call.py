"""A call of a tool as a block: one line that tells what and how, and what came of it below, when unfolded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget

from kodkod_app.render import counted
from kodkod_app.tui.store import Call, CallState, ShellRun
from kodkod_app.tui.widgets.diff import DiffView
from kodkod_app.tui.widgets.entry import EntryView, PlainText

_LIVE_LINES = 10
"""Shown of an output while it comes, and of one that tells of a failure: its end."""
_MAX_LINES = 500
"""Shown of an unfolded output: its end."""
_MAX_SUBJECT_CHARS = 300
_MARKS = {
    CallState.WRITING: ("…", "$muted"),
    CallState.ASKED: ("?", "$warning"),
    CallState.RUNNING: ("●", "$text-primary"),
    CallState.DONE: ("✓", "$success"),
    CallState.FAILED: ("✗", "$error"),
    CallState.REFUSED: ("⊘", "$warning"),
    CallState.CUT: ("■", "$warning"),
}


class Block(EntryView, can_focus=True):
    """A line that unfolds."""

    DEFAULT_CSS = """
    Block {
        layout: vertical;
        margin: 0 0 1 0;
        padding: 0 1 0 2;
        & > .head { height: 1; text-overflow: ellipsis; text-wrap: nowrap; }
        & > .body { margin: 0 0 0 2; color: $muted; border-left: solid $rule; padding: 0 0 0 1; }
        & > DiffView { margin: 0 0 0 2; }
        &:focus > .head { background: $panel; }
        &.folded > .body, &.folded > DiffView { display: none; }
        & > .body.empty { display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "fold", "Fold or unfold", show=False),
        Binding("y", "copy", "Copy its text", show=False),
    ]

    def __init__(self, entry: Call | ShellRun) -> None:
        super().__init__(entry)
        self._foldable = entry

    def compose(self) -> ComposeResult:
        """The line, and what is below it where that is to be seen: most calls of a session are folded."""
        yield PlainText(self._head(), classes="head")
        if not self._is_folded():
            yield from self._missing()
        self.set_class(self._is_folded(), "folded")

    async def look_again(self) -> None:
        """It was written further, said something, or ended."""
        self.query_one(".head", PlainText).show(self._head())
        self._show_body()
        self._refold()

    def on_click(self, event: events.Click) -> None:
        """The line is a button."""
        if event.widget is not None and event.widget.has_class("head"):
            self.action_fold()

    def action_fold(self) -> None:
        """Fold or unfold; one of which the end alone is shown is unfolded first."""
        self.set_unfolded(self.has_class("folded") or self._shows_less())

    def set_unfolded(self, is_unfolded: bool) -> None:
        """As the reader wishes."""
        self._foldable.is_unfolded = is_unfolded
        self._show_body()
        self._refold()

    def action_copy(self) -> None:
        """Put what it says on the clipboard."""
        self.app.copy_to_clipboard(self._whole_text())
        self.notify("copied")

    def _body(self) -> str:
        raise NotImplementedError

    def _shows_less(self) -> bool:
        """There is more than is shown."""
        return False

    def _show_body(self) -> None:
        for body in self.query(".body").results(PlainText):
            text = self._body()
            body.show(text)
            body.set_class(not text, "empty")

    def _missing(self) -> Iterator[Widget]:
        """What belongs below the line and is not mounted."""
        if not self.query(".body"):
            text = self._body()
            yield PlainText(text, classes="body").set_class(not text, "empty")

    def _head(self) -> Content:
        raise NotImplementedError

    def _whole_text(self) -> str:
        raise NotImplementedError

    def _is_folded(self) -> bool:
        raise NotImplementedError

    def _refold(self) -> None:
        is_folded = self._is_folded()
        if not is_folded and (missing := list(self._missing())):
            self.mount(*missing)
        self.set_class(is_folded, "folded")


def tail(text: str, lines: int, dropped_chars: int = 0) -> str:
    """The last lines of a text, and how much is before them, what was dropped of it counted in."""
    parts = text.rstrip("\n").split("\n")
    hidden, shown = parts[:-lines], parts[-lines:]
    if dropped_chars:
        return "\n".join([f"… {dropped_chars + sum(len(line) + 1 for line in hidden):,} characters before", *shown])
    return "\n".join([f"… {counted(len(hidden), 'line')} before", *shown] if hidden else shown)


class ToolCallView(Block):
    """One call of the model."""

    def __init__(self, entry: Call) -> None:
        super().__init__(entry)
        self.call = entry

    def _missing(self) -> Iterator[Widget]:
        yield from super()._missing()
        if self.call.diff is not None and not self.query(DiffView):
            yield DiffView(self.call.diff.unified, self.call.diff.path)

    def _head(self) -> Content:
        call = self.call
        mark, color = _MARKS[call.state]
        subject = call.subject.replace("\n", " ⏎ ")[:_MAX_SUBJECT_CHARS]
        parts = [(f"{mark} ", color), (call.name, "bold"), (f" {subject}", "$foreground")]
        told = call.outcome if call.state.is_over else "waits for you" if call.state is CallState.ASKED else ""
        if told:
            parts.append((f"  {told}", "$muted"))
        if call.duration_s >= 1:
            parts.append((f"  {call.duration_s:.0f} s", "$muted"))
        return Content.assemble(*parts)

    def _body(self) -> str:
        call = self.call
        if call.diff is not None:
            return ""
        if call.state is CallState.WRITING:
            return tail(self._written(), _LIVE_LINES)
        lines = _MAX_LINES if call.is_unfolded else _LIVE_LINES
        return tail(call.output, lines, call.dropped_chars) if call.output else ""

    def _shows_less(self) -> bool:
        return not self.call.is_unfolded and self.call.diff is None and self.call.output.count("\n") > _LIVE_LINES

    def _written(self) -> str:
        return "\n".join(f"{key}: {value}" for key, value in self.call.arguments.items() if value != self.call.subject)

    def _whole_text(self) -> str:
        return self.call.diff.unified if self.call.diff is not None else self.call.output

    def _is_folded(self) -> bool:
        is_over = self.call.state.is_over
        shows = not is_over or self.call.diff is not None or self.call.state is CallState.FAILED
        return not (shows if self.call.is_unfolded is None else self.call.is_unfolded)


class ShellRunView(Block):
    """A command of the person's own."""

    def __init__(self, entry: ShellRun) -> None:
        super().__init__(entry)
        self.run = entry

    def _head(self) -> Content:
        code = self.run.exit_code
        mark, color = ("●", "$text-primary") if code is None else ("✓", "$success") if not code else ("✗", "$error")
        told = "" if not code else f"  exit {code}"
        return Content.assemble((f"{mark} ", color), ("! ", "bold $secondary"), self.run.command, (told, "$muted"))

    def _body(self) -> str:
        return (
            tail(self.run.output, _MAX_LINES, self.run.dropped_chars)
            if self.run.output
            else "(no output)"
            if self.run.exit_code is not None
            else ""
        )

    def _whole_text(self) -> str:
        return self.run.output

    def _is_folded(self) -> bool:
        return self.run.is_unfolded is False


def make_block(entry: Call | ShellRun) -> Block:
    """The block for a call, or for a command of the person's."""
    return ToolCallView(entry) if isinstance(entry, Call) else ShellRunView(entry)
