"""`kodkod skills`: which skills there are."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command(name="skills")
@click.option("-C", "folder", type=click.Path(path_type=Path), default=Path(), help="The project.")
@click.option("--trust", "trusted", is_flag=True, help="The project's too, for this once.")
def command(folder: Path, trusted: bool) -> None:
    """List the skills the model is told of: yours, and those of a trusted project (.agents/skills)."""
    from kodkod_app.extras import find_extras, no_skill
    from kodkod_app.settings import load_settings
    from kodkod_app.tui.inert import inert_line

    if not folder.is_dir():
        raise click.UsageError(f"{folder} is not a folder; name the project with -C DIR")
    work_tree = folder.resolve()
    settings = load_settings(work_tree, trusted=True, environment=os.environ)
    found = find_extras(work_tree, settings, trusted=trusted)
    for skill in found.skills:
        click.echo(inert_line(f"{skill.name}  {skill.description}"))
        click.echo(inert_line(f"    {skill.file}"))
    for note in found.notes:
        click.echo(inert_line(note), err=True)
    if not found.skills:
        click.echo(inert_line(no_skill()))
