"""`kodkod trust`: let a project start programs outside the box."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kodkod_app.commands.asking import confirmed
from kodkod_app.render import for_terminal

if TYPE_CHECKING:
    from kodkod_app.extras import Brought


@click.command(name="trust")
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--forget", is_flag=True, help="Trust the folder no longer.")
@click.option("--list", "lists", is_flag=True, help="The folders that are trusted.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(folder: Path, forget: bool, lists: bool, yes: bool) -> int:
    """Trust a project: its MCP servers (.mcp.json), its hooks (.kodkod/config.toml), its skills (.agents/skills).

    Programs run as you do, outside the box. What there is is shown before you are asked. A folder is trusted as it
    stands: when what it would start has changed, nothing of it is used until you trust it again.
    """
    from kodkod_app import trust
    from kodkod_app.extras import read_project

    if lists:
        for path in trust.trusted_folders():
            click.echo(f"{json.dumps(path)[1:-1]}  {_standing(Path(path))}")
        if not trust.trusted_folders():
            click.echo("no folder is trusted", err=True)
        return 0
    work_tree = _work_tree(folder)
    if forget:
        told = "is trusted no longer" if trust.forget(work_tree) else "was not trusted"
        click.echo(for_terminal(f"{work_tree} {told}"))
        return 0
    brought = read_project(work_tree)
    for line in started_by(brought):
        click.echo(line)
    if not yes and not confirmed(f"trust {work_tree}?"):
        return 1
    trust.trust(work_tree, brought.asked)
    click.echo("trusted as it stands; it counts from the next session on")
    return 0


def _standing(work_tree: Path) -> str:
    from kodkod_app import trust
    from kodkod_app.settings import SettingsFault

    try:
        return trust.standing(work_tree)
    except SettingsFault:  # the others are listed all the same
        return "settings that cannot be read"


def _work_tree(folder: Path) -> Path:
    if not folder.is_dir():
        raise click.UsageError(f"{folder} is not a folder; name the project")
    return folder.resolve()


def started_by(brought: Brought) -> list[str]:
    """What a project would start and open, a line each and whole, made safe to show."""
    from kodkod_app.extras import flat
    from kodkod_app.tui.inert import inert_line

    asked = brought.asked
    lines = [f"MCP server {name}: {server.told()}" for name, server in asked.named.servers.items()]
    lines += [f"hook {hook.event} {', '.join(hook.tools)}: {hook.command}" for hook in asked.hooks]
    lines += [f"skill {skill.name}: {skill.description}" for skill in brought.skills.found]
    lines += [f"setting {name} = {json.dumps(value, default=str)}" for name, value in flat(asked.widening)]
    lines = [inert_line(line, sys.maxsize) for line in [*lines, *brought.faults]]
    return lines or ["the project brings nothing that needs trust"]
