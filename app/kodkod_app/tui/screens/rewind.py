"""Going back in this session: choose a step, see which files change, and be there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from kodkod_agent.errors import AgentError
from kodkod_app.report_text import FileStat
from kodkod_app.session_branches import START, Step
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.screens.parts import Options, bind_enter, files_content, put_late


class RewindScreen(ModalScreen[int | None], Once[int | None]):
    """See the module. Dismisses the number of a step, or None."""

    DEFAULT_CSS = """
    RewindScreen { align: center bottom; background: $background 40%; }
    RewindScreen Vertical {
        height: auto; max-height: 100%; padding: 0 1; background: $surface; border: round $primary;
        border-title-style: bold;
    }
    RewindScreen OptionList, RewindScreen OptionList:focus {
        height: auto; max-height: 50vh; border: none; padding: 0; background: transparent; scrollbar-size-vertical: 1;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    RewindScreen #cost { height: auto; max-height: 30vh; margin: 1 1 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Stay"),
    ]

    def __init__(self, steps: Sequence[Step], *, changed_files: Callable[[int], Sequence[FileStat]]) -> None:
        """Ask where to.

        Args:
            steps: of the session, in order.
            changed_files: what going back to a step would change; called from a thread.
        """
        super().__init__()
        self._steps = tuple(steps)
        self._changed_files = changed_files

    def compose(self) -> ComposeResult:
        """The steps, and the price of going there."""
        with Vertical() as sheet:
            sheet.border_title = "Back to …"
            steps = Options(*self._options())
            bind_enter(steps, "select", "Go back there")
            yield steps
            yield Static(id="cost")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The step before the last is where one most likely wants to be."""
        steps = self.query_one(OptionList)
        choices = [at for at, option in enumerate(steps.options) if not option.disabled]
        steps.highlighted = choices[-2] if len(choices) > 1 else choices[-1]
        steps.focus()

    def _options(self) -> list[Option]:
        options = [Option(_row(START, "before everything"), id=str(START))]
        for step in self._steps:
            options += [
                Option(Content.styled(f"› {inert_line(said, 200)}", "bold"), disabled=True) for said in step.said
            ]
            words = "; ".join(step.calls) or step.text or "nothing"
            options.append(Option(_row(step.number, words), id=str(step.number), disabled=not step.can_return))
        return options

    @on(OptionList.OptionHighlighted)
    def _tell(self, event: OptionList.OptionHighlighted) -> None:
        if event.option.id is not None:
            self._look(int(event.option.id))

    @work(exclusive=True)
    async def _look(self, step: int) -> None:
        try:
            files = files_content(await asyncio.to_thread(self._changed_files, step))
        except (AgentError, OSError) as fault:
            files = Content.styled(inert_line(str(fault), 300), "$text-error")
        put_late(self, "#cost", self._cost(step, files))

    def _cost(self, step: int, files: Content) -> Content:
        dropped = [one.number for one in self._steps if one.number > step]
        return Content("\n").join([Content.styled(_told(dropped), "bold"), files])

    @on(OptionList.OptionSelected)
    def _go(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id is not None:
            self.dismiss(int(event.option.id))

    def action_close(self) -> None:
        """Stay."""
        self.dismiss(None)


def _told(dropped: list[int]) -> str:
    if not dropped:
        return "the conversation stays as it is"
    return f"step {dropped[0]} is dropped" if len(dropped) == 1 else f"steps {dropped[0]} to {dropped[-1]} are dropped"


def _row(number: int, words: str) -> Content:
    return Content.assemble((f"{number:>4}  ", "dim"), inert_line(words, 200))
