"""`kodkod doctor`: what is there, what is missing, how to get it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kodkod_app.machine_facts import Fact, exit_code_of, look_around
from kodkod_app.render import for_terminal


@click.command(name="doctor")
@click.option("-m", "--model", type=click.Path(path_type=Path), help="Folder of a checkpoint to look at too.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(model: Path | None, output_format: str) -> int:
    """Look at this machine: programs, hardware, sandboxes, model. Changes nothing.

    Exit codes, as a run here would end: 0 it can be done, 4 the model cannot be used, 5 no sandbox can, 1 git is
    missing; of several the first.
    """
    facts = asyncio.run(_all(model))
    if output_format == "json":
        click.echo(json.dumps([asdict(fact) for fact in facts], indent=2))
    else:
        Console().print(_table(facts))
    return exit_code_of(facts)


async def _all(model: Path | None) -> list[Fact]:
    return [fact async for fact in look_around(Path.cwd(), model)]


def _table(facts: list[Fact]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        mark = Text("ok", "green") if fact.is_good else Text("--", "yellow")
        # Text of other programs is no markup, and what of it is not to be seen must not reach the terminal.
        table.add_row(fact.name, mark, Text(for_terminal(fact.detail)))
    return table
