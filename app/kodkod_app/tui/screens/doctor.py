"""What this machine has, what is missing and how to get it, with sizes and the speed to expect: the first start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from kodkod_app.machine_facts import Fact
from kodkod_app.tui.inert import cut_lines, inert, inert_line
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.screens.parts import Heading

Look = Callable[[], AsyncIterator[Fact]]
"""Looks at the machine; facts come as they are found."""


class DoctorScreen(Once[None]):
    """See the module."""

    DEFAULT_CSS = """
    DoctorScreen VerticalScroll { padding: 0 1; scrollbar-size-vertical: 1; }
    DoctorScreen Horizontal { height: auto; }
    DoctorScreen .name { width: 22; text-style: bold; }
    DoctorScreen .detail { width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "again", "Look again"),
        Binding("escape,enter,q", "close", "Go on", key_display="esc"),
    ]

    def __init__(self, look: Look, *, welcome: str = "") -> None:
        """Look, and show.

        Args:
            look: see `Look`.
            welcome: a first word, at the first start.
        """
        super().__init__()
        self._look = look
        self._welcome = welcome

    def compose(self) -> ComposeResult:
        """The facts, one under another."""
        yield Heading("Doctor", self._welcome or "what this machine has", id="heading")
        yield VerticalScroll(id="facts")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin."""
        self.query_one("#facts").focus()
        self.action_again()

    @work(exclusive=True)
    async def action_again(self) -> None:
        """Look at everything."""
        place, heading = self.query_one("#facts", VerticalScroll), self.query_one("#heading", Heading)
        await place.remove_children()
        heading.say("looking")
        missing = 0
        async for fact in self._look():
            if not self.query("#facts"):
                return  # it was left meanwhile
            missing += not fact.is_good
            name, detail = Static(_name(fact), classes="name"), Static(inert(cut_lines(fact.detail)), markup=False)
            await place.mount(Horizontal(name, detail.add_class("detail")))
        told = {0: "all is well", 1: "one thing is missing"}.get(missing, f"{missing} things are missing")
        heading.say(f"{self._welcome}  {told}".strip())

    def action_close(self) -> None:
        """Go on."""
        self.dismiss(None)


def _name(fact: Fact) -> Content:
    sign, colour = ("✓", "$text-success") if fact.is_good else ("–", "$text-warning")
    return Content.assemble((f"{sign} ", colour), inert_line(fact.name, 40))
