"""`kodkod mcp`: which MCP servers there are, and what they offer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kodkod_app.extras import Found
    from kodkod_tools.mcp.servers import McpServers

_MAX_DESCRIPTION_CHARS = 100


@click.group(name="mcp")
def command() -> None:
    """Look at MCP servers: yours (mcp_servers in the settings) and those of a trusted project (.mcp.json)."""


@command.command(name="list")
@click.option("-C", "folder", type=click.Path(path_type=Path), default=Path(), help="The project.")
@click.option("--trust", "trusted", is_flag=True, help="Start the project's servers for this once.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_command(folder: Path, trusted: bool, output_format: str) -> int:
    """Start the servers, show their tools, and end them. Exit code 1 when one does not stand."""
    from kodkod_app.extras import find_extras
    from kodkod_app.settings import load_settings

    if not folder.is_dir():
        raise click.UsageError(f"{folder} is not a folder; name the project with -C DIR")
    work_tree = folder.resolve()
    settings = load_settings(work_tree, trusted=True, environment=os.environ)
    found = find_extras(work_tree, settings, trusted=trusted)
    entries, notes = asyncio.run(_look(found, work_tree))
    if output_format == "json":
        click.echo(json.dumps({"servers": entries, "notes": notes}, indent=2))
    else:
        _print(entries, notes)
    return 0 if all(entry["fault"] == "" for entry in entries) else 1


async def _look(found: Found, work_tree: Path) -> tuple[list[dict[str, Any]], list[str]]:
    from kodkod_tools.mcp.servers import McpServers

    with TemporaryDirectory(prefix="kodkod-mcp-") as logs:
        async with McpServers(found.servers, work_tree, Path(logs), os.environ) as servers:
            await servers.settled()
            return [_entry(name, servers) for name in found.servers], [*found.notes, *servers.notes()]


def _entry(name: str, servers: McpServers) -> dict[str, Any]:
    connection = servers.connections.get(name)
    return {
        "name": name,
        "fault": "is not started" if connection is None else connection.fault,
        "tools": [
            {
                "name": tool.spec.name,
                "description": tool.spec.description,
                "parameters": tool.spec.parameters,
                "fingerprint": tool.fingerprint,
            }
            for tool in servers.values()
            if tool.server == name
        ],
    }


def _print(entries: list[dict[str, Any]], notes: list[str]) -> None:
    from kodkod_app.extras import no_server
    from kodkod_app.tui.inert import inert_line

    for entry in entries:
        num_tools = len(entry["tools"])
        click.echo(inert_line(f"{entry['name']}  {entry['fault'] or f'{num_tools} tools'}"))
        for tool in entry["tools"]:
            click.echo(f"  {tool['name']}({', '.join(_arguments(tool['parameters']))})  {tool['fingerprint']}")
            first = tool["description"].partition("\n")[0]
            if first:
                click.echo(f"      {inert_line(first, _MAX_DESCRIPTION_CHARS)}")
    for note in notes:
        click.echo(inert_line(note), err=True)
    if not entries:
        click.echo(inert_line(no_server()))


def _arguments(parameters: Mapping[str, Any]) -> list[str]:
    required = parameters.get("required", ())
    return [name if name in required else f"{name}?" for name in parameters.get("properties", {})]
