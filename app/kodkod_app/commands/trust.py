"""`kodkod trust`: let a project start programs outside the box."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kodkod_app.commands.asking import confirmed


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

    if lists:
        for path in trust.trusted_folders():
            click.echo(f"{json.dumps(path)[1:-1]}  {trust.standing(Path(path))}")
        if not trust.trusted_folders():
            click.echo("no folder is trusted", err=True)
        return 0
    work_tree = _work_tree(folder)
    if forget:
        click.echo(f"{work_tree} {'is trusted no longer' if trust.forget(work_tree) else 'was not trusted'}")
        return 0
    for line in started_by(work_tree):
        click.echo(line)
    if not yes and not confirmed(f"trust {work_tree}?"):
        return 1
    trust.trust(work_tree)
    click.echo("trusted as it stands; it counts from the next session on")
    return 0


def _work_tree(folder: Path) -> Path:
    if not folder.is_dir():
        raise click.UsageError(f"{folder} is not a folder; name the project")
    return folder.resolve()


def started_by(work_tree: Path) -> list[str]:
    """What a project would start, a line each, made safe to show."""
    from kodkod_app.extras import read_project
    from kodkod_app.tui.inert import inert_line

    brought = read_project(work_tree)
    lines = [f"MCP server {name}: {server.shown()}" for name, server in brought.named.servers.items()]
    lines += [f"hook {hook.event} {', '.join(hook.tools)}: {hook.command}" for hook in brought.hooks]
    lines += [f"skill {skill.name}: {skill.description}" for skill in brought.skills.found]
    lines = [inert_line(line) for line in [*lines, *brought.faults]]
    return lines or ["the project brings nothing that needs trust"]
