"""Where the person writes: several lines, history, completion, folded pastes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from kodkod_app.tui.commands import matching
from kodkod_app.tui.inert import visible
from kodkod_app.tui.prompt_history import PromptHistory
from kodkod_app.tui.widgets.completion import Choice, Completion

FOLD_LINES = 8
"""A paste of more lines is shown as one mark."""
FOLD_CHARS = 1_000
_MAX_WRITTEN_CHARS = 20_000
"""What is brought back and is longer is one mark too: a text area takes seconds to lay it out."""
_AT_WORD = re.compile(r"(?:^|(?<=\s))@([^\s@]*)$")
_FOLDED = re.compile(r"\[pasted #(\d+): [\d,]+ lines?, [\d,]+ characters\]")
_FOLDED_LAST = re.compile(rf"{_FOLDED.pattern}$")


class Prompt(TextArea):
    """Enter submits; Shift+Enter, Ctrl+J or a backslash before Enter begin a line."""

    DEFAULT_CSS = """
    Prompt {
        height: auto;
        min-height: 3;
        max-height: 50vh;
        margin: 0 1;
        padding: 0 1;
        border: round $rule;
        background: $background;
        scrollbar-size-vertical: 1;
        &:focus { border: round $primary; background: $background; }
        &.shell, &.shell:focus { border: round $secondary; }
        &.plan:focus { border: round $success; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("shift+enter,ctrl+j,alt+enter", "new_line", "New line", show=False),
        Binding("alt+d", "delete_word_right", "Delete the word", show=False),
        # A text area, and the screen, have other uses for these.
        Binding("shift+tab", "app.cycle_mode", "Next permission mode", show=False),
        Binding("pageup", "app.scroll_page(-1)", "Scroll up", show=False),
        Binding("pagedown", "app.scroll_page(1)", "Scroll down", show=False),
        Binding("ctrl+end", "app.scroll_end", "To the last message", show=False),
        Binding("ctrl+d", "app.leave_or_delete", "Leave, when nothing is written", show=False),
    ]

    @dataclass
    class Submitted(Message):
        """The person is done writing."""

        text: str
        """Pastes unfolded."""

    @dataclass
    class PathsWanted(Message):
        """Paths are to be offered for what stands behind an `@`."""

        fragment: str

    class Emptied(Message):
        """Up was pressed in an empty prompt: the last queued message may be taken back."""

    def __init__(self, history: PromptHistory, completion: Completion, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(
            id=id, soft_wrap=True, tab_behavior="focus", show_line_numbers=False, highlight_cursor_line=False
        )
        self._history = history
        self._completion = completion
        self._pastes: dict[int, str] = {}
        self._offered_for = ""
        """What was written when the choices were made."""
        self.take_back: Callable[[], str | None] = lambda: None
        """The last queued message, which is not queued any more; None where there is none."""

    @property
    def whole_text(self) -> str:
        """What was written, pastes unfolded."""
        return self._unfolded(self.text)

    def _unfolded(self, text: str) -> str:
        return _FOLDED.sub(lambda found: self._pastes.get(int(found[1]), found[0]), text)

    def _fold(self, text: str) -> str:
        """A mark that stands for it."""
        number, lines = len(self._pastes) + 1, text.count("\n") + 1
        self._pastes[number] = text
        return f"[pasted #{number}: {lines:,} line{'s' if lines > 1 else ''}, {len(text):,} characters]"

    def put_before(self, text: str) -> None:
        """Give back what was not said, before what is written now."""
        shown = self._fold(text) if len(text) > _MAX_WRITTEN_CHARS else text
        self.put(f"{shown}\n\n{self.text}" if self.text else shown)

    def put(self, text: str) -> None:
        """Replace what is written; the cursor goes to its end."""
        self.text = self._fold(self._unfolded(text)) if len(text) > _MAX_WRITTEN_CHARS else text
        self.move_cursor(self.document.end)
        self.refresh(layout=True)  # a text area that shrank keeps its height otherwise

    def lay_aside(self) -> str:
        """Empty it into the history, from where Up brings it back; what was written, nothing of blanks alone."""
        text = self.whole_text.strip()
        if text:
            self._history.add(text)
        self._pastes.clear()
        self.put("")
        self.close_completion()
        return text

    def action_new_line(self) -> None:
        """Begin a line."""
        self.insert("\n")

    async def on_key(self, event: events.Key) -> None:
        """Keys that mean something else here than in a plain text area, and its own, in the order they come.

        A binding is looked up when the event has risen to the app, and letters typed meanwhile would come before it:
        so what concerns the text alone is done here.
        """
        action = self._meaning(event.key)
        binding = next(iter(self._bindings.key_to_bindings.get(event.key, ())), None)
        if action is not None:
            action()
        elif binding is not None and "." not in binding.action:
            await self.run_action(binding.action)
        elif event.key.startswith("alt+"):
            event.prevent_default()  # a text area takes it for the letter alone
            return
        else:
            return
        event.stop()
        event.prevent_default()

    def _meaning(self, key: str) -> Callable[[], object] | None:
        if self._completion.is_open and (moved := self._in_completion(key)):
            return moved
        if key == "enter":
            return self._submit
        if key == "up" and self.cursor_location[0] == 0:
            return self._back
        if key == "down" and self.cursor_location[0] == self.document.line_count - 1:
            return self._forth
        return None

    def _in_completion(self, key: str) -> Callable[[], object] | None:
        meaning = {
            "up": lambda: self._completion.move(-1),
            "down": lambda: self._completion.move(1),
            "tab": self._complete,
            "enter": self._complete_or_submit,
            "escape": self.close_completion,
        }.get(key)
        if meaning is None or self._offered_for == self.text:
            return meaning
        # Of keys that came at once, the last is here before the first has been told as a change of the text.
        self.on_text_area_changed()
        if self._offered_for != self.text:
            self.close_completion()  # paths of a fragment that is no longer there
        return meaning if self._completion.is_open else None

    def close_completion(self) -> None:
        """Offer nothing."""
        self._completion.choices = ()

    def _submit(self) -> None:
        if self.text.endswith("\\"):
            self.put(f"{self.text[:-1]}\n")
            return
        if self.whole_text.strip():
            self.post_message(self.Submitted(self.lay_aside()))

    # History

    def _back(self) -> None:
        if not self.text and (queued := self.take_back()) is not None:
            self.put(queued)
            return
        if (text := self._history.back(self.text)) is not None:
            self.put(text)
            self.move_cursor((0, 0))

    def _forth(self) -> None:
        if (text := self._history.forth()) is not None:
            self.put(text)

    # Completion

    def on_text_area_changed(self) -> None:
        """Offer what could be meant."""
        self.set_class(self.text.startswith("!"), "shell")
        if self.text.startswith("/") and "\n" not in self.text and " " not in self.text:
            self._completion.choices = tuple(
                Choice(f"/{command.name}", f"/{command.name} {command.argument}".rstrip(), command.help)
                for command in matching(self.text[1:])
            )
            self._offered_for = self.text
        elif (found := self._at_word()) is not None:
            self.post_message(self.PathsWanted(found))
        else:
            self.close_completion()

    def _at_word(self) -> str | None:
        row, column = self.cursor_location
        found = _AT_WORD.search(self.document.get_line(row)[:column])
        return None if found is None else found[1]

    def offer_paths(self, fragment: str, paths: list[str]) -> None:
        """What was found for a fragment; passed over when something else stands there by now."""
        if self._at_word() == fragment:
            self._completion.choices = tuple(Choice(f"@{path}", path) for path in paths)
            self._offered_for = self.text

    def _complete(self) -> None:
        chosen = self._completion.chosen
        if chosen is None:
            return
        self.close_completion()
        row, column = self.cursor_location
        if chosen.text.startswith("/"):
            self.put(f"{chosen.text} ")
            return
        start = column - len(self._at_word() or "") - 1
        self.replace(f"{chosen.text} ", (row, start), (row, column))

    def _complete_or_submit(self) -> None:
        chosen = self._completion.chosen
        if chosen is None:
            return
        is_command, is_written = chosen.text.startswith("/"), chosen.text == f"@{self._at_word()}"
        if not is_written:
            self._complete()
        if is_command:
            self.put(self.text.strip())
        if is_command or is_written:
            self._submit()

    # Paste

    def on_paste(self, event: events.Paste) -> None:
        """A long one becomes a mark; what it stands for is sent."""
        text = visible(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        event.stop()
        event.prevent_default()
        is_long = text.count("\n") >= FOLD_LINES or len(text) > FOLD_CHARS
        self.replace(self._fold(text) if is_long else text, *self.selection)

    def action_delete_left(self) -> None:
        """A mark goes as a whole: a part of it would stand for nothing."""
        row, column = self.cursor_location
        mark = _FOLDED_LAST.search(self.document.get_line(row)[:column])
        if mark is not None and int(mark[1]) in self._pastes and self.selection.is_empty:
            self.delete((row, mark.start()), (row, column))
        else:
            super().action_delete_left()
