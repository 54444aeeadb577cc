"""What a person and a project add to a session, as lists for the screen: what there is, whose, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kodkod_agent.skills import Skill
from kodkod_app import paths
from kodkod_app.extras import Extras
from kodkod_app.tui.screens.listing import Entry, Section
from kodkod_tools.mcp.config import PROJECT_FILE, McpServer
from kodkod_tools.mcp.servers import McpServers

GUIDED = "this model calls its own few tools alone"
_UNUSED = "Not used"


def skill_sections(extras: Extras) -> list[Section]:
    """The skills the model is told of, the person's own first, and what is not used and why."""
    skills = extras.found.skills if extras.found is not None else ()
    mine = paths.user_skills()
    yours = tuple(_skill(skill) for skill in skills if skill.file.is_relative_to(mine))
    others = tuple(_skill(skill) for skill in skills if not skill.file.is_relative_to(mine))
    return [
        Section(f"Yours, in {_short(mine)}", yours),
        Section("The project's, in .agents/skills", others),
        _unused(extras),
    ]


def _skill(skill: Skill) -> Entry:
    return Entry(skill.name, skill.description, (str(skill.file),))


def server_sections(extras: Extras, mine: Mapping[str, McpServer]) -> list[Section]:
    """The MCP servers, the person's own first: how each stands, what it is, and what it offers.

    Args:
        extras: of the session.
        mine: servers that the person's settings name.
    """
    named = extras.found.servers if extras.found is not None else {}
    yours = tuple(_server(name, server, extras.servers) for name, server in named.items() if name in mine)
    others = tuple(_server(name, server, extras.servers) for name, server in named.items() if name not in mine)
    return [
        Section("Yours, in the settings (mcp_servers)", yours),
        Section(f"The project's, in {PROJECT_FILE}", others),
        _unused(extras),
    ]


def _server(name: str, server: McpServer, servers: McpServers | None) -> Entry:
    if servers is None:
        return Entry(name, f"not started: {GUIDED}", (server.shown(),))
    offered = [tool.spec.name for tool in servers.values() if tool.server == name]
    tools = (", ".join(offered),) if offered else ()
    return Entry(
        name, _state(name, servers, len(offered)), (server.shown(), *tools, *servers.definitions(name).refused)
    )


def _state(name: str, servers: McpServers, num_tools: int) -> str:
    if (connection := servers.connections.get(name)) is None:
        return f"not started: {servers.unstarted.get(name, '')}"
    if connection.fault:
        return f"{connection.fault}; /mcp restart {name} starts it again"
    return f"ready, {num_tools} {'tool' if num_tools == 1 else 'tools'}" if connection.is_ready else "starting"


def _unused(extras: Extras) -> Section:
    notes = extras.found.notes if extras.found is not None else ()
    return Section(_UNUSED, tuple(Entry("", note) for note in notes))


def _short(folder: Path) -> str:
    return f"~/{folder.relative_to(Path.home())}" if folder.is_relative_to(Path.home()) else str(folder)
