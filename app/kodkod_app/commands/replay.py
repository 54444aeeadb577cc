"""`kodkod replay`: do a session's recorded decisions again on a copy, and say where it parts."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from kodkod_agent.session_folder import SessionFolder
from kodkod_app import paths
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.copies import copy_work_tree
from kodkod_app.offline import model_of, open_tokenizer
from kodkod_app.python_environment import find_environment
from kodkod_app.recorded_session import Recording, read_recording
from kodkod_app.render import for_terminal
from kodkod_app.replay_differences import Difference
from kodkod_app.replaying import Replayed, Stage, replay
from kodkod_app.session_opening import what_was_asked
from kodkod_app.settings import Settings
from kodkod_app.trust import session_settings
from kodkod_sandbox.choose import SandboxKind

PARTED = 3
"""Exit code of a replay that is not its recording."""


@click.command(name="replay")
@click.argument("session_id", metavar="ID")
@click.option(
    "--work-tree",
    "target",
    type=click.Path(path_type=Path),
    help="Where to put the copy, which stays then; new or empty. [default: a temporary folder]",
)
@click.option(
    "--sandbox",
    type=click.Choice([kind.value for kind in SandboxKind]),
    help="Box the commands run in; with none they run as you. [default: from the settings, else auto]",
)
@click.option("-m", "--model", default=None, help="Folder of the session's checkpoint. [default: as recorded]")
@click.option(
    "--context-tokens",
    type=click.IntRange(min=1024),
    help="Context of the recorded model. [default: as recorded]",
)
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    session_id: str,
    target: Path | None,
    sandbox: str | None,
    model: str | None,
    context_tokens: int | None,
    output_format: str,
) -> int:
    """Do again what the model decided in session ID, on a copy of the files as they were, and compare.

    Your work tree and the session stay as they are. A conversation is followed through its compactions, to
    the first run that was ended by a limit or by you before another began.
    Exit codes: 0 identical as far as it is followed, 3 parted.
    """
    folder = SessionFolder.find(paths.sessions_folder(), session_id)
    settings = _settings(folder, sandbox)
    tokenizer = open_tokenizer(model_of(folder, model))
    recording = read_recording(folder, tokenizer, settings.agent)
    with tempfile.TemporaryDirectory(prefix="kodkod-replay-") as name:
        root = Path(name).resolve()
        work_tree = copy_work_tree(folder, _require_empty(target) or root / "copy", root / "placing")
        with _interruptible():
            stage = Stage(root, work_tree, tokenizer, settings.tools, context_tokens)
            replayed = asyncio.run(_replay(recording, stage, settings))
    _tell(replayed, as_json=output_format == "json")
    return 0 if replayed.difference is None else PARTED


def _settings(folder: SessionFolder, sandbox: str | None) -> Settings:
    """As they were for the session, as far as that was kept; the box is chosen anew."""
    asked = {**what_was_asked(folder.path.name), "sandbox": sandbox}
    return session_settings(folder.info.work_tree, trusted=False, environment=os.environ, flags=asked)


def _require_empty(target: Path | None) -> Path | None:
    if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise click.UsageError(f"{target} is not empty; give a new folder for the copy")
    return target


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _replay(recording: Recording, stage: Stage, settings: Settings) -> Replayed:
    environment = find_environment(recording.folder.info.work_tree, settings.env, os.environ)
    plan = BoxPlan(stage.work_tree, settings.sandbox, environment, environment_for_docker=settings.env is not None)
    async with open_box(plan) as box:
        return await replay(recording, stage, box)


def _tell(replayed: Replayed, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"identical": replayed.difference is None, **asdict(replayed)}, indent=2))
        return
    if replayed.difference is None:
        click.echo(f"identical: {replayed.num_turns} of {replayed.recorded_turns} turns and what came of them")
    else:
        click.echo("\n".join(_difference_lines(replayed.difference)))
    if replayed.note:
        click.echo(f"kodkod: {for_terminal(replayed.note)}", err=True)


def _difference_lines(difference: Difference) -> list[str]:
    lines = [f"parted before turn {difference.turn}, at token {difference.token} ({difference.what})"]
    for title, text in (("recorded", difference.recorded), ("replayed", difference.replayed)):
        lines += [f"{title}:", *(f"  {for_terminal(line)}" for line in text.split("\n"))]
    return lines
