"""`kodkod doctor`: what is there, what is missing, how to get it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from kodkod_app.machine_facts import Fact, hardware_facts, model_fact, program_facts, sandbox_facts
from kodkod_sandbox.choose import find_image
from kodkod_sandbox.errors import SandboxError, SandboxUnavailable


@click.command(name="doctor")
@click.option("-m", "--model", type=click.Path(path_type=Path), help="Folder of a checkpoint to look at too.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(model: Path | None, output_format: str) -> None:
    """Look at this machine: programs, hardware, sandboxes, model. Changes nothing."""
    here = Path.cwd()
    facts = [*program_facts(), *hardware_facts(here), *asyncio.run(sandbox_facts()), *_image_facts(here)]
    facts.append(model_fact(model))
    if output_format == "json":
        click.echo(json.dumps([asdict(fact) for fact in facts], indent=2))
    else:
        Console().print(_table(facts))


def _image_facts(work_tree: Path) -> Iterator[Fact]:
    """The image a Docker box would start from for the project here; nothing where there is no Docker."""
    try:
        image = find_image(work_tree)
    except SandboxUnavailable:
        return
    except SandboxError as fault:
        yield Fact("docker image", False, str(fault))
    else:
        yield Fact("docker image", not image.note, image.note or image.tag)


def _table(facts: list[Fact]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        table.add_row(fact.name, "[green]ok[/green]" if fact.is_good else "[yellow]--[/yellow]", _plain(fact.detail))
    return table


def _plain(text: str) -> str:
    """Text of other programs is not markup."""
    return text.replace("[", r"\[")
