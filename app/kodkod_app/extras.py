"""What a person and a project that is trusted add to a session: the tools of MCP servers, skills, and hooks.

    the person's settings and skills ─────────┐
                                              ├──► `Found` ──► servers are started ──► `Extras`, part of a
    .mcp.json, .agents/skills, hooks, trusted ┘                                        `SessionSetup`

What a project brings counts in a trusted folder alone; else one line says what is not used, and how to trust it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kodkod_agent.hooks import CommandHooks, Hook, Hooks, NoHooks
from kodkod_agent.skills import Skill, Skills, read_skills
from kodkod_agent.spans import NoSpans, Spans
from kodkod_app import paths
from kodkod_app.settings import Layer, Settings
from kodkod_app.trust import Asked, Standing, read_asked, standing
from kodkod_tools.base import ForeignTool
from kodkod_tools.mcp.config import McpServer

if TYPE_CHECKING:
    from kodkod_tools.mcp.servers import McpServers


@dataclass(frozen=True, slots=True)
class Extras:
    """See the module."""

    more: Mapping[str, ForeignTool] = field(default_factory=dict)
    news: Callable[[], Sequence[str]] = tuple
    skills: tuple[Skill, ...] = ()
    hooks: Hooks = field(default_factory=NoHooks)
    spans: Spans = field(default_factory=NoSpans)
    found: Found | None = None
    """What it was made of."""
    servers: McpServers | None = None
    """Those that were started."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to add to sessions in a folder."""

    servers: Mapping[str, McpServer]
    skills: tuple[Skill, ...]
    hooks: tuple[Hook, ...]
    """The person's first."""
    notes: tuple[str, ...]
    """What the person should know, a line each: what is left out, and why."""


def no_skill() -> str:
    """Told where there is none: where one would be."""
    return f"no skill is there; write one as {paths.user_skills()}/NAME/SKILL.md, or .agents/skills/NAME/SKILL.md here"


def no_server() -> str:
    """Told where there is none: where one would be named."""
    return f"no MCP server is named; name one as [mcp_servers.NAME] in {paths.user_settings()}, or in .mcp.json here"


def find_extras(work_tree: Path, settings: Settings, *, trusted: bool = False) -> Found:
    """Look, and start nothing.

    Args:
        work_tree: the project.
        settings: whose servers are the person's own.
        trusted: the person said so for this once.

    Raises:
        SettingsFault: the list of trusted folders, or the project's settings, cannot be read.
    """
    mine = read_skills(paths.user_skills(), paths.user_skills())
    brought = read_project(work_tree)
    stands = Standing.TRUSTED if trusted else standing(work_tree, brought.asked)
    if stands is not Standing.TRUSTED:
        return Found(
            settings.mcp_servers, mine.found, settings.hooks, (*mine.faults, *_untrusted(work_tree, brought, stands))
        )
    skills = {skill.name: skill for skill in (*brought.skills.found, *mine.found)}
    asked = brought.asked
    twice = [f"MCP server {name}" for name in asked.named.servers if name in settings.mcp_servers]
    twice += [f"skill {one.name}" for one in brought.skills.found if skills[one.name] is not one]
    notes = (
        *brought.faults,
        *mine.faults,
        *(f"the project's {what} is not used: yours has its name" for what in twice),
    )
    hooks = (*settings.hooks, *asked.hooks)
    return Found({**asked.named.servers, **settings.mcp_servers}, tuple(skills.values()), hooks, notes)


@dataclass(frozen=True, slots=True)
class Brought:
    """What a project brings along."""

    asked: Asked
    skills: Skills

    @property
    def faults(self) -> tuple[str, ...]:
        """What of it cannot be used, a line each."""
        return (*self.asked.named.faults, *self.skills.faults)

    @property
    def parts(self) -> list[str]:
        """What there is, in a few words each."""
        servers, skills = ", ".join(self.asked.named.servers), ", ".join(skill.name for skill in self.skills.found)
        parts = [f"MCP servers ({servers})"] if servers else []
        parts += [f"skills ({skills})"] if skills else []
        parts += [f"hooks ({len(self.asked.hooks)})"] if self.asked.hooks else []
        settings = ", ".join(name for name, _ in flat(self.asked.widening))
        return parts + ([f"settings ({settings})"] if settings else [])


def flat(layer: Layer, section: str = "") -> Iterator[tuple[str, Any]]:
    """Settings one by one, by their whole names."""
    for key, value in layer.items():
        if isinstance(value, dict):
            yield from flat(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value


def read_project(work_tree: Path) -> Brought:
    """Look, trusted or not.

    Raises:
        SettingsFault: the project's settings cannot be read.
    """
    skills = read_skills(paths.project_skills(work_tree), work_tree)
    return Brought(read_asked(work_tree), skills)


def _untrusted(work_tree: Path, brought: Brought, stands: Standing) -> tuple[str, ...]:
    what = ", ".join(brought.parts) or ("files that cannot be read" if brought.faults else "")
    if not what:
        return ()
    why = "has changed since you trusted it" if stands is Standing.CHANGED else "is not trusted"
    return (f"this project {why}: its {what} are not used; see and trust them: kodkod trust {work_tree}",)


@asynccontextmanager
async def open_extras(
    found: Found, work_tree: Path, *, guided: bool = False, way_back: str = ""
) -> AsyncIterator[Extras]:
    """Start what was found, wait until it stands, and end it afterwards.

    Args:
        found: by `find_extras`.
        work_tree: where programs are started.
        guided: the model is offered its own calls alone; nothing is started for it.
        way_back: what a person may do where a server has ended; `{name}` is its name.
    """
    notes = list(found.notes)
    hooks = CommandHooks(found.hooks) if found.hooks else NoHooks()
    if not found.servers or guided:
        if found.servers and guided:
            notes.append("this model calls its own few tools alone: no MCP server is started for it")
        yield Extras(news=lambda: _taken(notes), skills=found.skills, hooks=hooks, found=found)
        return
    from kodkod_tools.mcp.servers import McpServers  # loads the library: a third of a second

    with TemporaryDirectory(prefix="kodkod-mcp-") as logs:
        async with McpServers(found.servers, work_tree, Path(logs), os.environ, way_back) as servers:
            await servers.settled()

            def news() -> list[str]:
                return [*_taken(notes), *servers.notes()]

            yield Extras(servers, news, found.skills, hooks, found=found, servers=servers)


def _taken(notes: list[str]) -> list[str]:
    """All of them, once."""
    taken, notes[:] = list(notes), []
    return taken
