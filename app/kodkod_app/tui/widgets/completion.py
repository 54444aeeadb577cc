"""What could be meant: a short list over the prompt, walked with the arrows."""

from __future__ import annotations

from dataclasses import dataclass

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from kodkod_app.tui.inert import inert_line

_MAX_SHOWN, _MIN_SHOWN = 8, 2


@dataclass(frozen=True, slots=True)
class Choice:
    """One line."""

    text: str
    """What it stands for."""
    shown: str
    hint: str = ""


class Completion(Widget):
    """Shows choices; the prompt, which has the focus, moves in it."""

    DEFAULT_CSS = """
    Completion {
        height: auto;
        margin: 0 2;
        padding: 0 1;
        background: $panel;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        display: none;
    }
    """
    choices: reactive[tuple[Choice, ...]] = reactive((), layout=True)
    place: reactive[int] = reactive(0)

    @property
    def is_open(self) -> bool:
        """Something is offered."""
        return bool(self.choices)

    @property
    def chosen(self) -> Choice | None:
        """The one that is marked."""
        return self.choices[self.place] if self.choices else None

    def watch_choices(self) -> None:
        """It is there while there is something to choose."""
        self.place = 0
        self.display = self.is_open

    def move(self, by: int) -> None:
        """Mark another, round and round."""
        if self.choices:
            self.place = (self.place + by) % len(self.choices)

    def render(self) -> RenderResult:
        """A line each around the marked one, as many as leave room; it stands out without colour too."""
        width = max((len(choice.shown) for choice in self.choices), default=0)
        count = max(_MIN_SHOWN, min(_MAX_SHOWN, self.app.size.height // 2 - 2))
        first = max(0, min(self.place - count // 2, len(self.choices) - count))
        shown = list(enumerate(self.choices))[first : first + count]
        lines = [self._line(index, choice, width) for index, choice in shown]
        if (more := len(self.choices) - count) > 0:
            lines.append(Content.styled(f"  … {more} more", "$muted"))
        return Content("\n").join(lines)

    def _line(self, index: int, choice: Choice, width: int) -> Content:
        is_marked = index == self.place
        mark = ("› ", "$primary") if is_marked else ("  ", "")
        shown = inert_line(choice.shown)
        gap = " " * (width - len(shown) + 2)
        return Content.assemble(mark, (shown, "bold $primary" if is_marked else ""), gap, (choice.hint, "$muted"))
