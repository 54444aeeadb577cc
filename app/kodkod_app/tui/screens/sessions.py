"""The sessions there are: found by typing, resumed, forked, deleted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from kodkod_agent.errors import AgentError
from kodkod_app.session_shelf import ShelvedSession
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.screens.parts import STATUS_COLOURS, ConfirmScreen, Heading, Line


class Shelf(Protocol):
    """Where sessions are kept. Called from a thread."""

    def sessions(self) -> list[ShelvedSession]:
        """The latest first."""
        ...

    def delete(self, session_id: str) -> None:
        """For good.

        Raises:
            AgentError: it cannot be.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionChoice:
    """What a person wants of a session."""

    session_id: str
    work_tree: Path
    fork: bool = False
    """A new session from its last step, instead of going on in it."""
    branches: bool = False
    """To see the tree of its steps first."""


class SessionsScreen(Once[SessionChoice | None]):
    """See the module. Dismisses a choice, or None."""

    DEFAULT_CSS = """
    SessionsScreen Input { margin: 0 1; }
    SessionsScreen OptionList, SessionsScreen OptionList:focus {
        width: 3fr; height: 1fr; border: none; padding: 0; background: transparent; scrollbar-size-vertical: 1;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    SessionsScreen Horizontal { height: 1fr; margin: 1 1 0 1; }
    SessionsScreen #detail-pane { width: 2fr; padding: 0 2; border-left: solid $rule; display: none; }
    SessionsScreen.-wide #detail-pane { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+f", "fork", "Fork", priority=True),
        Binding("ctrl+b", "branches", "Branches", priority=True),
        Binding("ctrl+x", "delete", "Delete", priority=True),
        Binding("ctrl+t", "everywhere", "All folders", priority=True),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("escape", "close", "Close"),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - no class variable to Textual

    def __init__(self, shelf: Shelf, work_tree: Path, *, current: str = "") -> None:
        """List them.

        Args:
            shelf: where they are.
            work_tree: whose sessions are shown first.
            current: id of the session that is open; it cannot be deleted.
        """
        super().__init__()
        self._shelf = shelf
        self._work_tree = work_tree
        self._current = current
        self._all: list[ShelvedSession] = []
        self._everywhere = False

    def compose(self) -> ComposeResult:
        """A line to type in, the list, and what is known of the one under the cursor."""
        yield Heading("Sessions", "looking", id="heading")
        yield Line(placeholder="search", enter="Resume")
        with Horizontal():
            yield OptionList()
            with VerticalScroll(id="detail-pane", can_focus=False):
                yield Static(id="detail")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Read them behind the screen."""
        self.query_one(Input).focus()
        self._read()

    @work(exclusive=True)
    async def _read(self) -> None:
        self._all = await asyncio.to_thread(self._shelf.sessions)
        if self.query(OptionList):  # not left meanwhile
            self._list()

    @on(Input.Changed)
    def _list(self) -> None:
        """Those that are wanted, the cursor on the first."""
        words = self.query_one(Input).value.casefold().split()
        here = [one for one in self._all if self._everywhere or one.info.work_tree == self._work_tree]
        shown = [one for one in here if all(word in _searched(one) for word in words)]
        entries = self.query_one(OptionList)
        entries.clear_options()
        entries.add_options([Option(self._row(one), id=one.info.id) for one in shown])
        entries.highlighted = 0 if shown else None
        place = "of every folder" if self._everywhere else f"of {self._work_tree}"
        self.query_one("#heading", Heading).say(
            f"{len(shown)} of {len(here)} {place}" if words else f"{len(here)} {place}"
        )
        self._tell()

    def _row(self, session: ShelvedSession) -> Content:
        info, ending = session.info, session.ending
        sign = "●" if info.id == self._current else "↳" if info.forked_from else " "
        title = inert_line(info.title, 200) or "nothing was said"
        return Content.assemble(
            (f"{sign} ", "$text-accent"),
            (f"{info.created_at.astimezone():%Y-%m-%d %H:%M}  {ending.num_steps:>4}  ", "dim"),
            (f"{inert_line(ending.status, 11):<11}  ", STATUS_COLOURS.get(ending.status, "dim")),
            title,
        )

    @property
    def _chosen(self) -> ShelvedSession | None:
        entries = self.query_one(OptionList)
        if entries.highlighted is None:
            return None
        wanted = entries.get_option_at_index(entries.highlighted).id
        return next((one for one in self._all if one.info.id == wanted), None)

    @on(OptionList.OptionHighlighted)
    def _tell(self) -> None:
        chosen = self._chosen
        nothing = Content.styled("no session; type less, or ctrl+t for those of every folder", "dim")
        self.query_one("#detail", Static).update(_detail(chosen) if chosen else nothing)

    # What the person does

    @on(OptionList.OptionSelected)
    @on(Input.Submitted)
    def action_resume(self) -> None:
        """Go on in it."""
        self._choose()

    def action_fork(self) -> None:
        """Go on beside it."""
        self._choose(fork=True)

    def action_branches(self) -> None:
        """See its steps."""
        self._choose(branches=True)

    def _choose(self, *, fork: bool = False, branches: bool = False) -> None:
        if (chosen := self._chosen) is not None:
            self.dismiss(SessionChoice(chosen.info.id, chosen.info.work_tree, fork=fork, branches=branches))

    def action_everywhere(self) -> None:
        """Those of every folder, or of this one."""
        self._everywhere = not self._everywhere
        self._list()

    def action_move(self, by: int) -> None:
        """The cursor, while the line keeps the keys."""
        entries = self.query_one(OptionList)
        if entries.option_count:
            entries.highlighted = max(0, min(entries.option_count - 1, (entries.highlighted or 0) + by))

    @work
    async def action_delete(self) -> None:
        """Ask, then remove it."""
        chosen = self._chosen
        if chosen is None:
            return
        if chosen.info.id == self._current:
            self.notify("this session is open; go to another one first", severity="warning")
            return
        title = inert_line(chosen.info.title, 60) or chosen.info.id
        detail = f"{chosen.ending.num_steps} steps and their snapshots; the files of the project stay as they are"
        if await self.app.push_screen_wait(ConfirmScreen(f"Delete “{title}” for good?", detail)):
            await self._delete(chosen.info.id)

    async def _delete(self, session_id: str) -> None:
        try:
            await asyncio.to_thread(self._shelf.delete, session_id)
        except (AgentError, OSError) as fault:
            self.notify(inert_line(str(fault), 300), severity="error", markup=False)
            return
        self._all = [one for one in self._all if one.info.id != session_id]
        self._list()

    def action_close(self) -> None:
        """Nothing is wanted."""
        self.dismiss(None)


def _searched(session: ShelvedSession) -> str:
    info, ending = session.info, session.ending
    return f"{info.title} {info.id} {info.work_tree} {ending.status} {ending.reason}".casefold()


def _detail(session: ShelvedSession) -> Content:
    info, ending = session.info, session.ending
    lines = [
        Content.styled(inert_line(info.title, 300) or "nothing was said", "bold"),
        Content(),
        _fact("id", info.id),
        _fact("folder", str(info.work_tree)),
        _fact("ended", f"{ending.status}{f': {ending.reason}' if ending.reason else ''}"),
    ]
    for when, facts in (("before", ending.tests_before), ("after", ending.tests_after)):
        if facts:
            lines.append(_fact(f"tests {when}", f"{facts.get('passed', 0)} passed, {facts.get('failed', 0)} failed"))
    if info.forked_from:
        lines.append(_fact("forked from", f"{info.forked_from.session_id}, step {info.forked_from.step}"))
    return Content("\n").join(lines)


def _fact(name: str, value: str) -> Content:
    return Content.assemble((f"{name:<12}  ", "dim"), inert_line(value, 300))
