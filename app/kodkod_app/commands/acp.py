"""`kodkod acp`: the agent in an editor, over the Agent Client Protocol on standard input and output."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from kodkod_app.commands.fix import MODEL_HELP, PERMISSION_MODES
from kodkod_sandbox.base import SandboxKind


@click.command(name="acp")
@click.option("-m", "--model", metavar="DIR", help=MODEL_HELP)
@click.option("--sandbox", type=click.Choice([kind.value for kind in SandboxKind]), help="[default: auto]")
@click.option("--env", metavar="DIR", type=click.Path(path_type=Path), help="Python environment the tests run in.")
@click.option(
    "--permission-mode", type=click.Choice(PERMISSION_MODES), help="That sessions begin with. [default: default]"
)
@click.option("--trust", is_flag=True, help="Use what needs trust (see kodkod trust) in every folder.")
def command(**flags: Any) -> int:
    """Work in an editor that speaks the Agent Client Protocol, such as Zed. The editor runs this command itself.

    It speaks on standard input and output, one JSON message a line, and notes what is worth a log on standard error.
    The folder the editor names is trusted, as one that is named with -C. Sessions are kept and found again, by the
    editor and by `kodkod sessions`.

    Exit codes: 0 the editor left, 1 fault, 2 usage, 130 interrupted.
    """
    from kodkod_app import paths
    from kodkod_app.bootstrap import absolute_name
    from kodkod_app.editor.running import run
    from kodkod_app.settings import said_layer

    said = said_layer(
        {
            "model": flags["model"] and absolute_name(flags["model"]),
            "sandbox": flags["sandbox"],
            "env": flags["env"] and str(paths.expanded(flags["env"]).absolute()),
            "permission_mode": flags["permission_mode"],
        }
    )
    if sys.stdin.isatty():
        _note("an editor is to speak here, in JSON, and runs this command itself; Ctrl+C ends it")
    try:
        asyncio.run(run(said, _note, trusts=flags["trust"]))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    return 0


def _note(text: str) -> None:
    click.echo(f"kodkod: {text}", err=True)
