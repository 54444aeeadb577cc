"""What a person and a project that is trusted add to a session: the tools of MCP servers.

    person's settings ──┐
                        ├──► servers, started side by side ──► `SessionSetup.more`
    .mcp.json, trusted ─┘

A project's file counts in a trusted folder alone; else one line says what was not started, and how to trust it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from kodkod_app.settings import Settings
from kodkod_app.trust import Standing, standing
from kodkod_tools.base import ForeignTool
from kodkod_tools.mcp.config import PROJECT_FILE, McpServer, NamedServers, read_project_file


@dataclass(frozen=True, slots=True)
class Extras:
    """See the module."""

    more: Mapping[str, ForeignTool] = field(default_factory=dict)
    news: Callable[[], Sequence[str]] = tuple


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to add to sessions in a folder."""

    servers: Mapping[str, McpServer]
    notes: tuple[str, ...]
    """What the person should know, a line each: what is left out, and why."""


def find_extras(work_tree: Path, settings: Settings, *, trusted: bool = False) -> Found:
    """Look, and start nothing.

    Args:
        work_tree: the project.
        settings: whose servers are the person's own.
        trusted: the person said so for this once.

    Raises:
        SettingsFault: the list of trusted folders cannot be read.
    """
    named = read_project_file(work_tree)
    stands = Standing.TRUSTED if trusted else standing(work_tree)
    if stands is not Standing.TRUSTED:
        is_named = bool(named.servers or named.faults)
        return Found(settings.mcp_servers, (_untrusted(work_tree, named, stands),) if is_named else ())
    twice = [name for name in named.servers if name in settings.mcp_servers]
    notes = (*named.faults, *(f"{PROJECT_FILE}: MCP server {name}: yours of that name is taken" for name in twice))
    return Found({**named.servers, **settings.mcp_servers}, notes)


def _untrusted(work_tree: Path, named: NamedServers, stands: Standing) -> str:
    names = ", ".join(named.servers) or "none that can be read"
    why = (
        "has changed since you trusted the folder" if stands is Standing.CHANGED else "is of a folder you do not trust"
    )
    return (
        f"{PROJECT_FILE} {why}: its MCP servers ({names}) are not started; see and trust them: kodkod trust {work_tree}"
    )


@asynccontextmanager
async def open_extras(found: Found, work_tree: Path, *, guided: bool = False) -> AsyncIterator[Extras]:
    """Start what was found, wait until it stands, and end it afterwards.

    Args:
        found: by `find_extras`.
        work_tree: where programs are started.
        guided: the model is offered its own calls alone; nothing is started for it.
    """
    notes = list(found.notes)
    if not found.servers or guided:
        if found.servers:
            notes.append("this model calls its own few tools alone: no MCP server is started for it")
        yield Extras(news=lambda: _taken(notes))
        return
    from kodkod_tools.mcp.servers import McpServers  # loads the library: a third of a second

    with TemporaryDirectory(prefix="kodkod-mcp-") as logs:
        async with McpServers(found.servers, work_tree, Path(logs), os.environ) as servers:
            await servers.settled()
            yield Extras(servers, lambda: [*_taken(notes), *servers.notes()])


def _taken(notes: list[str]) -> list[str]:
    """All of them, once."""
    taken, notes[:] = list(notes), []
    return taken
