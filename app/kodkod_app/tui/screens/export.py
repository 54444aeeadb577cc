"""A session written down for others: as Markdown to read, or as ATIF to work with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from kodkod_agent.errors import AgentError
from kodkod_app import paths
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.screens.parts import Line

FORMATS = {"markdown": ("Markdown, to read", ".md"), "atif": ("ATIF, to work with", ".json")}
"""Name -> words for it, ending of its files."""
Write = Callable[[str, Path], Sequence[Path]]
"""Writes a session in a format; returns the files it made. Called from a thread."""


class ExportScreen(ModalScreen[tuple[Path, ...]], Once[tuple[Path, ...]]):
    """See the module. Dismisses the files that were written; none when nothing was."""

    DEFAULT_CSS = """
    ExportScreen { align: center middle; background: $background 40%; }
    ExportScreen Vertical {
        width: 76; max-width: 95%; height: auto; padding: 0 1; background: $surface; border: round $primary;
        border-title-style: bold;
    }
    ExportScreen OptionList, ExportScreen OptionList:focus {
        height: auto; margin-bottom: 1; border: none; padding: 0; background: transparent;
    }
    ExportScreen #note { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "other", show=False, priority=True),
        Binding("down", "other", "Format", key_display="↑ ↓", priority=True),
        Binding("escape", "leave", "Leave"),
    ]

    def __init__(self, session_id: str, folder: Path, write: Write) -> None:
        """Ask for format and file.

        Args:
            session_id: names the file.
            folder: where it goes unless another is typed.
            write: does it.
        """
        super().__init__()
        self._session_id = session_id
        self._folder = folder
        self._write = write
        self._agreed: Path | None = None
        """A file that is there and may be written over."""

    def compose(self) -> ComposeResult:
        """The formats and the path."""
        with Vertical() as box:
            box.border_title = "Export this session"
            yield OptionList(*(Option(Content(f" {words}"), id=name) for name, (words, _) in FORMATS.items()))
            yield Line(self._path("markdown"), enter="Write")
            yield Static(id="note", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The path has the keys."""
        self.query_one(OptionList).highlighted = 0
        self.query_one(Input).focus()

    def _path(self, form: str) -> str:
        return str(self._folder / f"{self._session_id}{FORMATS[form][1]}")

    @property
    def _form(self) -> str:
        return list(FORMATS)[self.query_one(OptionList).highlighted or 0]

    def action_other(self) -> None:
        """The other format; the path's ending follows."""
        formats, entry = self.query_one(OptionList), self.query_one(Input)
        formats.highlighted = 1 - (formats.highlighted or 0)
        path = Path(entry.value)
        if path.suffix in {ending for _, ending in FORMATS.values()}:
            entry.value = str(path.with_suffix(FORMATS[self._form][1]))
            entry.action_end()

    @on(Input.Changed)
    def _forget(self) -> None:
        self._agreed = None

    @on(Input.Submitted)
    @work(exclusive=True)
    async def action_write(self) -> None:
        """Write it, after a second enter where a file is there."""
        text = self.query_one(Input).value.strip()
        path = self._folder / paths.expanded(text)
        try:
            if not text or path.is_dir():
                self._say("this is a folder; add the name of a file" if text else "type the path of a file")
            elif path.exists() and path != self._agreed:
                self._agreed = path
                self._say("this file is there already; enter once more writes over it")
            else:
                self.dismiss(tuple(await asyncio.to_thread(self._write, self._form, path)))
        except OSError as fault:
            self._say(f"cannot be written ({fault.strerror or fault}); type another path")
        except AgentError as fault:
            self._say(str(fault))

    def _say(self, text: str) -> None:
        self.query_one("#note", Static).update(Content.styled(inert_line(text, 300), "$text-warning"))

    def action_leave(self) -> None:
        """Write nothing."""
        self.dismiss(())
