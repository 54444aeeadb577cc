"""The screens that list what there is: keys and commands, skills, MCP servers. They are imported when opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kodkod_app.tui.commands import COMMANDS
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.opening import Opening

if TYPE_CHECKING:
    from kodkod_app.extras import Extras

_SIGNS = {
    "enter": "send; while something runs, after it",
    "/": "a command",
    "@": "a path of the project",
    "!": "a shell command of your own, in the box",
    "↑ ↓": "what was written before",
}
"""What the prompt understands beside its keys."""


class Lists(Opening):
    """The part of the app that lists."""

    def action_show_help(self) -> None:
        """Keys and commands."""
        if self._is_covered:
            return
        from kodkod_app.tui.screens.help import key_entries
        from kodkod_app.tui.screens.listing import Entry, ListScreen, Section
        from kodkod_app.tui.widgets.prompt import Prompt
        from kodkod_app.tui.widgets.tool_call import Block
        from kodkod_app.tui.widgets.transcript import Transcript

        commands = (Entry(f"/{one.name} {one.argument}".strip(), one.help) for one in COMMANDS)
        signs = (Entry(sign, words) for sign, words in _SIGNS.items())
        sections = [
            Section("Writing", (*signs, *key_entries(self, Prompt.BINDINGS))),
            Section("Commands", tuple(commands)),
            Section("Anywhere", key_entries(self, type(self).BINDINGS)),
            Section("In the conversation", key_entries(self, Transcript.BINDINGS)),
            Section("On a call", key_entries(self, Block.BINDINGS)),
        ]
        self.push_screen(ListScreen("Help", "keys and commands", sections))

    def action_skills(self) -> None:
        """The skills there are."""
        if (extras := self._listable()) is None:
            return
        from kodkod_app.extras import no_skill
        from kodkod_app.tui.extras_lists import GUIDED, skill_sections
        from kodkod_app.tui.screens.listing import ListScreen

        note = f"not told to this model: {GUIDED}" if self.workbench.is_guided else "the model reads what a task needs"
        self.push_screen(ListScreen("Skills", note, skill_sections(extras), empty=inert_line(no_skill())))

    def action_mcp(self, argument: str = "") -> None:
        """The MCP servers there are; or one is started again."""
        word, _, name = argument.partition(" ")
        if not argument:
            self._open_servers()
        elif word != "restart" or not name.strip():
            self.notify("/mcp lists the MCP servers; /mcp restart NAME starts one again", severity="warning")
        elif self.is_free():
            self.begin_work()
            self.workbench.restart_server(name.strip())

    def _open_servers(self) -> None:
        if (extras := self._listable()) is None:
            return
        from kodkod_app.extras import no_server
        from kodkod_app.tui.extras_lists import server_sections
        from kodkod_app.tui.screens.listing import ListScreen

        settings = self.workbench.settings
        sections = server_sections(extras, settings.mcp_servers if settings is not None else {})
        self.push_screen(ListScreen("MCP servers", "programs outside the box", sections, empty=inert_line(no_server())))

    def _listable(self) -> Extras | None:
        """What is added to the session; None, and the person is told, where none is open."""
        extras = None if self._is_covered else self.workbench.extras
        if extras is None and not self._is_covered:
            self.notify(self.without_session)
        return extras
