"""`kodkod sessions`: what was done here before; show, go back, export, delete."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kodkod_agent.errors import SessionDamaged, SessionNotFound
from kodkod_agent.session_folder import SessionFolder, SessionInfo
from kodkod_app import paths
from kodkod_app.commands.asking import confirmed
from kodkod_app.interrupts import INTERRUPTED
from kodkod_app.render import for_terminal, one_line
from kodkod_app.report_text import diff_stat, told_shortening, told_tests
from kodkod_app.session_export import as_atif, as_jsonl, as_markdown
from kodkod_app.session_shelf import delete_session, ending_or_damage, patch_back
from kodkod_app.session_story import Ending, Story, StoryStep, read_story, sessions_in
from kodkod_engine.api import Usage
from kodkod_engine.messages import ToolCall

_MAX_LINE_CHARS = 120
_MAX_FILES_NAMED = 20
_PIPED_WIDTH = 1_000
_NARROW = 72
"""Columns below which the title needs the room of the date and of the number of steps."""


class ListByDefault(click.Group):
    """Without the name of a command it is `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` where it was left out."""
        is_named = bool(args) and (
            args[0] in self.commands or not args[0].startswith("-") or args[0] in ("-h", "--help")
        )
        return super().parse_args(ctx, args if is_named else ["list", *args])


@click.group(name="sessions", cls=ListByDefault)
def command() -> None:
    """List the sessions (the default), or show, rewind, export or delete one."""


_output_format = click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@command.command(name="list")
@click.option("--all", "is_all", is_flag=True, help="Of every work tree, not of this one alone.")
@click.option("-C", "work_tree", type=click.Path(path_type=Path), default=".", help="The work tree. [default: here]")
@_output_format
def list_command(is_all: bool, work_tree: Path, output_format: str) -> None:
    """The sessions, the latest first."""
    wanted = None if is_all else work_tree.resolve()
    rows: list[tuple[SessionInfo, Ending]] = []
    for folder in sessions_in(paths.sessions_folder()):
        try:
            info = folder.info
            if wanted is None or info.work_tree == wanted:
                rows.append((info, ending_or_damage(folder)))
        except SessionDamaged as fault:
            click.echo(for_terminal(f"kodkod: {fault}"), err=True)
    if output_format == "json":
        click.echo(json.dumps([_listed(info, ending) for info, ending in rows], indent=2))
    elif rows:
        # In a pipe there is no width to fit: what reads it wants a line for each, whole.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
        console = Console(width=width)
        is_narrow = console.width < _NARROW
        console.print(_table(rows, with_work_tree=is_all, expand=width is None, is_narrow=is_narrow))
    else:
        click.echo("no sessions" if is_all else for_terminal(f"no sessions of {wanted}; --all lists those of others"))


def _listed(info: SessionInfo, ending: Ending) -> dict[str, Any]:
    return {
        **info.model_dump(mode="json", exclude={"work_tree"}),
        "work_tree": str(info.work_tree),
        "steps": ending.num_steps,
        "status": ending.status,
        "reason": ending.reason,
    }


def _table(rows: list[tuple[SessionInfo, Ending]], *, with_work_tree: bool, expand: bool, is_narrow: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=expand)
    facts = {"id": 22, "ended": 11} if is_narrow else {"id": 22, "when": 16, "steps": 5, "ended": 11}
    for name, width in facts.items():
        table.add_column(name, min_width=width, justify="right" if name == "steps" else "left", no_wrap=True)
    table.add_column("title", overflow="ellipsis", no_wrap=True, ratio=2)
    if with_work_tree:
        table.add_column("folder", overflow="fold", ratio=2)
    for info, ending in rows:
        title = info.title
        if info.forked_from is not None:
            title += f" (forked from {info.forked_from.session_id}, step {info.forked_from.step})"
        when = f"{info.created_at.astimezone():%Y-%m-%d %H:%M}"
        known = {"id": info.id, "when": when, "steps": str(ending.num_steps), "ended": ending.status}
        cells = (*(known[name] for name in facts), title, str(info.work_tree))
        table.add_row(*(Text(_line(cell)) for cell in cells[: len(table.columns)]))
    return table


@command.command()
@click.argument("session_id", metavar="ID")
@_output_format
def show(session_id: str, output_format: str) -> None:
    """The steps of a session: calls and what came of them, tokens, tests."""
    story = read_story(SessionFolder.find(paths.sessions_folder(), session_id))
    if output_format == "json":
        click.echo(json.dumps(_shown(story), indent=2))
    else:
        click.echo("\n".join(_lines(story)))


def _shown(story: Story) -> dict[str, Any]:
    return {
        **_listed(story.info, story.ending),
        "model": story.model,
        "tests_before": story.ending.tests_before,
        "tests_after": story.ending.tests_after,
        "turns": [_shown_step(step) for step in story.steps],
    }


def _shown_step(step: StoryStep) -> dict[str, Any]:
    usage = step.turn.usage or Usage()
    return {
        "step": step.number,
        "time": step.time.isoformat(),
        "user": step.said,
        "text": step.turn.text,
        "calls": [_shown_call(step, call) for call in step.turn.calls],
        "new_tokens": usage.computed_tokens + usage.generated_tokens,
        "reused_tokens": usage.reused_tokens,
        "shortened": [rebuilt.model_dump(mode="json", exclude={"kind"}) for rebuilt in step.shortened],
    }


def _shown_call(step: StoryStep, call: ToolCall) -> dict[str, Any]:
    finished = step.outcomes.get(call.id)
    return {
        "name": call.name,
        "arguments": dict(call.arguments),
        "outcome": step.outcome(call),
        "result": None if finished is None else finished.for_model,
        "duration_s": None if finished is None else round(finished.duration_s, 3),
    }


def _lines(story: Story) -> list[str]:
    info, ending = story.info, story.ending
    lines = [
        _line(f"{info.id}  {info.title}"),
        _line(f"work tree {info.work_tree}"),
        _line(f"{ending.status}{f': {ending.reason}' if ending.reason else ''}"),
    ]
    if info.forked_from is not None:
        lines.insert(1, f"forked from {info.forked_from.session_id}, step {info.forked_from.step}")
    for when, facts in (("before", ending.tests_before), ("after", ending.tests_after)):
        if facts:
            lines.append(_line(f"tests {when}: {_told_counts(facts)}"))
    for step in story.steps:
        lines += ["", *_step_lines(step)]
    return lines


def _told_counts(facts: Mapping[str, Any]) -> str:
    """Both counts where there are some, a zero too."""
    if facts.get("not_run") or "passed" not in facts:
        return told_tests(facts)
    return f"{facts['passed']} passed, {facts.get('failed', 0)} failed"


def _step_lines(step: StoryStep) -> list[str]:
    usage = step.turn.usage or Usage()
    new = usage.computed_tokens + usage.generated_tokens
    lines = [_line(f"> {_one_line(text)}") for text in step.said]
    lines.append(f"step {step.number}  {new:,} new tokens, {usage.reused_tokens:,} reused")
    if step.turn.text.strip():
        lines.append(_line(f"  {_one_line(step.turn.text)}"))
    for call in step.turn.calls:
        given = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in call.arguments.items())
        lines.append(f"  {_line(f'{call.name}({given})', _MAX_LINE_CHARS - 20)}  [{step.outcome(call)}]")
    for rebuilt in step.shortened:
        told = told_shortening(rebuilt.tokens_before, rebuilt.tokens_after)
        lines.append(_line(f"{told}: {_one_line(rebuilt.summary)}"))
    return lines


@command.command()
@click.argument("session_id", metavar="ID")
@click.argument("step", type=click.IntRange(min=0))
@click.option("-m", "--model", default=None, help="Folder of the session's checkpoint. [default: as recorded]")
@_yes
def rewind(session_id: str, step: int, model: str | None, yes: bool) -> int:
    """Put the files and the conversation back to where they were after STEP turns."""
    return asyncio.run(_rewind(SessionFolder.find(paths.sessions_folder(), session_id), step, model, yes=yes))


async def _rewind(folder: SessionFolder, step: int, model: str | None, *, yes: bool) -> int:
    # The agent's graph takes seconds to import, and the other commands do without it.
    from kodkod_agent.session import Session
    from kodkod_app.offline import idle_setup, model_of, open_tokenizer

    work_tree = _require_work_tree(folder)
    name = model_of(folder, model)
    setup = idle_setup(open_tokenizer(name), work_tree, name)
    try:
        async with await Session.resume(folder.path.parent, folder.path.name, setup) as session:
            _tell_rewind(folder, step, work_tree, session.steps)
            if not yes and not confirmed("go back?"):
                return INTERRUPTED
            await session.rewind(step)
    finally:
        setup.engine.close()
    click.echo(f"session {folder.path.name} is back at step {step}")
    return 0


def _require_work_tree(folder: SessionFolder) -> Path:
    work_tree = folder.info.work_tree
    if not work_tree.is_dir():
        raise click.ClickException(
            f"the work tree {work_tree} of session {folder.path.name} is gone; put it back there first"
        )
    return work_tree


def _tell_rewind(folder: SessionFolder, step: int, work_tree: Path, steps: list[int]) -> None:
    """Say what a rewind would change; the files as they are now are recorded on the way."""
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise SessionNotFound(f"session {folder.path.name} has no step {step}; it has {known}")
    dropped = [one for one in steps if one > step]
    click.echo(f"conversation: {f'steps {dropped[0]} to {dropped[-1]} are dropped' if dropped else 'nothing changes'}")
    files = diff_stat(patch_back(folder, step, work_tree))
    click.echo(for_terminal(f"files in {work_tree}: {f'{len(files)} change' if files else 'nothing changes'}"))
    for file in files[:_MAX_FILES_NAMED]:
        click.echo(f"  {_line(file.path)}")
    if len(files) > _MAX_FILES_NAMED:
        click.echo(f"  ... and {len(files) - _MAX_FILES_NAMED} more")


@command.command()
@click.argument("session_id", metavar="ID")
@click.option(
    "--format", "form", type=click.Choice(["markdown", "atif", "jsonl"]), default="markdown", show_default=True
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: standard output]")
def export(session_id: str, form: str, output: Path | None) -> None:
    """Write a session down for others: to read, or in an exchange format."""
    folder = SessionFolder.find(paths.sessions_folder(), session_id)
    if form == "atif":
        stem = output.stem if output else session_id
        texts = list(as_atif(folder, stem).items())
    else:
        texts = [("", as_markdown(folder) if form == "markdown" else as_jsonl(folder))]
    if output is None and len(texts) > 1:
        raise click.UsageError("the conversation was compacted, so this makes several files; give one with -o FILE")
    for place, (name, text) in enumerate(texts):
        if output is None:
            click.echo(text, nl=False)
        else:
            _write(output if place == 0 else output.with_name(name), text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise click.ClickException(f"{path} cannot be written ({fault.strerror}); give another file with -o") from fault
    click.echo(for_terminal(f"wrote {path}"), err=True)


@command.command()
@click.argument("session_id", metavar="ID")
@_yes
def delete(session_id: str, yes: bool) -> int:
    """Remove a session and its snapshots. The work tree stays as it is."""
    folder = SessionFolder.find(paths.sessions_folder(), session_id)
    if not yes and not confirmed(f"delete session {session_id} for good?"):
        return INTERRUPTED
    if not delete_session(folder):
        click.echo(f"kodkod: the work tree is gone; refs/kodkod/{session_id}/ stays in its repository", err=True)
    click.echo(f"session {session_id} is deleted")
    return 0


def _line(text: str, max_chars: int = _MAX_LINE_CHARS) -> str:
    return one_line(text, max_chars)


def _one_line(text: str) -> str:
    return " ".join(text.split())
