"""`kodkod fix`: mend what an issue or failing tests tell of, with nobody watching."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from kodkod_app import paths
from kodkod_app.repair_prompt import failing_prompt, issue_prompt
from kodkod_sandbox.base import SandboxKind

if TYPE_CHECKING:
    from kodkod_app.headless import Renderer

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])

PERMISSION_MODES = ("default", "plan", "acceptEdits", "auto", "dontAsk", "bypassPermissions")
"""The names of `PermissionMode`, which help would wait for the policy to read."""

MODEL_HELP = (
    "Folder of a checkpoint; vllm:URL or vllm:DIR, a model that vLLM runs (a server at http://host:8000/v1, or in this "
    "process); or script:FILE, a recorded model: a file with one JSON object a line, each a turn as "
    '{"text": ..., "calls": [{"name": ..., "arguments": {...}}]}, said one after another.'
)

_SESSION_OPTIONS = (
    click.option(
        "-C", "folder", metavar="DIR", type=click.Path(path_type=Path),
        help="The project. [default: the current folder]",
    ),
    click.option("-m", "--model", metavar="DIR", help=MODEL_HELP),
    click.option("--sandbox", type=click.Choice([kind.value for kind in SandboxKind]), help="[default: auto]"),
    click.option(
        "--env", metavar="DIR", type=click.Path(path_type=Path),
        help="Python environment the tests run in. [default: $VIRTUAL_ENV, .venv or venv of the project, kodkod's own; "
        "in Docker the image's]",
    ),
    click.option(
        "--output-format", type=click.Choice(["text", "json", "stream-json"]), default="text", show_default=True,
        help="The answer, on standard output; progress goes to standard error.",
    ),
    click.option(
        "--candidates", type=int, metavar="K",
        help="Ways to go on that are tried where the first does not pass, itself among them. [default: 1]",
    ),
    click.option("--max-turns", type=int, help="Turns of the model."),
    click.option("--max-tokens", type=int, help="Tokens the model may write."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Time for the whole run."),
    click.option(
        "--permission-mode", type=click.Choice(PERMISSION_MODES),
        help="How much is done without asking; what would be asked is refused here. [default: acceptEdits]",
    ),
    click.option("-c", "--continue", "goes_on", is_flag=True, help="Go on with the project's latest session."),
    click.option("-r", "--resume", metavar="ID", help="Go on with this session."),
    click.option("--fork", is_flag=True, help="With -c or -r: leave that session as it is, go on in a new one."),
    click.option("--trust", is_flag=True, help="Use what needs trust (see kodkod trust) for this once."),
    click.option("--allow-build-network", is_flag=True, help="A missing Docker image may be built over the network."),
    click.option("--seed", type=int, help="Of the draws, when the temperature is not 0."),
    click.option("--temperature", type=float, help="0 is greedy. [default: 0]"),
)  # fmt: skip


def session_options(command: _CommandT) -> _CommandT:
    """Give a command the options of every run that nobody watches."""
    for option in reversed(_SESSION_OPTIONS):
        command = option(command)
    return command


@click.command(name="fix")
@click.option("--issue", metavar="TEXT", help="What is wrong.")
@click.option(
    "--issue-file", metavar="FILE", type=click.File(encoding="utf-8"), help="The same, from a file; - reads it."
)
@click.option("--failing-test", "failing_tests", metavar="ID", multiple=True, help="A test that must pass; repeatable.")
@session_options
def command(issue: str | None, issue_file: Any, failing_tests: tuple[str, ...], **flags: Any) -> int:
    """Mend a project: from an issue, from failing tests, or both. Nobody is asked; what would be is refused.

    The project is worked on where it is: files change, your branch, index and stash do not. Naming it with -C, or
    standing in it, says that you trust it: its settings (.kodkod/config.toml) count, and its code is run in the box.

    Exit codes: 0 mended and verified, 1 fault, 2 usage, 3 finished but not verified, 4 no model, 5 sandbox unavailable,
    124 limit reached, 130 interrupted. Sessions are kept, whatever the end: -r ID goes on, with the same options but
    for those that are given anew.
    """
    if issue is not None and issue_file is not None:
        raise click.UsageError("--issue and --issue-file exclude each other; give one")
    text = read_text(issue_file, f"--issue-file {issue_file.name}") if issue_file is not None else issue
    prompt = _prompt(text, failing_tests)
    # Without a word of its own it goes on with what was asked for, be it an answer.
    attended = None if prompt is None else False
    return run_session(prompt, flags, {"test_targets": list(failing_tests) or None, "attended": attended})


def read_text(file: IO[str], name: str) -> str:
    """All of a file.

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        return file.read()
    except UnicodeDecodeError as fault:
        raise click.UsageError(f"{name} is no UTF-8 text (byte {fault.start}); write it in UTF-8") from fault


def _prompt(issue: str | None, failing_tests: tuple[str, ...]) -> str | None:
    if issue is not None and not issue.strip():
        raise click.UsageError("the issue is empty; say what is wrong")
    parts = [issue_prompt(issue)] if issue else []
    parts += [failing_prompt(failing_tests)] if failing_tests else []
    return "\n\n".join(parts) or None


def run_session(
    prompt: str | None, flags: dict[str, Any], agent: dict[str, Any], *, is_answer_alone: bool = False
) -> int:
    """Begin a session or go on with one; returns the exit code.

    Args:
        prompt: what to say; None goes on where a run was cut short, or stopped short of its goal.
        flags: of `session_options`.
        agent: further settings of the agent.
        is_answer_alone: of text, standard output gets the model's word and not the report.
    """
    place = find_place(flags)
    if prompt is None and place.session_id is None:
        raise click.UsageError(
            "nothing to do; say what is wrong with --issue TEXT, --issue-file FILE or --failing-test ID"
        )
    from kodkod_app.bootstrap import SMALL_MODEL_NOTE, require_model
    from kodkod_app.headless import run_headless
    from kodkod_app.session_opening import Extension, RunOptions, what_was_asked
    from kodkod_app.settings import merge_layers, said_layer
    from kodkod_app.telemetry import require_telemetry
    from kodkod_app.trust import session_settings

    before = what_was_asked(place.session_id) if place.session_id is not None else {}
    asked = merge_layers(before, said_layer(_said(flags, agent)))
    settings = session_settings(place.work_tree, trusted=flags["trust"], environment=os.environ, flags=asked)
    require_model(settings.model)
    require_telemetry(settings.telemetry)
    if settings.model is None and prompt is not None and not agent.get("test_targets"):
        click.echo(f"kodkod: {SMALL_MODEL_NOTE}", err=True)
    options = RunOptions(
        place.work_tree,
        settings,
        prompt,
        session_id=place.session_id,
        goes_on=True,
        fork=flags["fork"],
        allow_build_network=flags["allow_build_network"],
        extras=Extension.TRUSTED if flags["trust"] else Extension.KNOWN,
        asked=asked,
    )
    return _until_the_reader_leaves(lambda: run_headless(options, _renderer(flags["output_format"], is_answer_alone)))


def _until_the_reader_leaves(run: Callable[[], int]) -> int:
    try:
        return run()
    except BrokenPipeError:
        # Whoever read the answer has left; the interpreter's own last flush must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where to work, and which session to open again."""

    work_tree: Path
    session_id: str | None


def find_place(flags: dict[str, Any]) -> Place:
    """Where the flags say to work.

    Raises:
        UsageError: they contradict each other, or name what is not there.
    """
    resume, goes_on = flags["resume"], flags["goes_on"]
    if resume is not None and goes_on:
        raise click.UsageError("-c and -r exclude each other; give one")
    if flags["fork"] and resume is None and not goes_on:
        raise click.UsageError("--fork goes with -c or -r ID; say what to fork")
    if resume is not None:
        return Place(_tree_of_session(resume, flags), resume)
    work_tree = _folder(flags["folder"] or Path.cwd())
    if not goes_on:
        return Place(work_tree, None)
    from kodkod_agent.session_folder import list_sessions

    # One that was opened and closed without a word is nobody's latest.
    sessions = [info for info in list_sessions(paths.sessions_folder(), work_tree) if info.title]
    if not sessions:
        raise click.UsageError(f"no session has worked on {work_tree}; begin one without -c")
    return Place(work_tree, sessions[0].id)


def _tree_of_session(session_id: str, flags: dict[str, Any]) -> Path:
    """Its own, unless a fork is to work elsewhere."""
    from kodkod_agent.session_folder import SessionFolder

    own = SessionFolder.find(paths.sessions_folder(), session_id).info.work_tree
    if flags["folder"] is None:
        if not own.is_dir():
            raise click.UsageError(
                f"{own}, where session {session_id} worked, is gone; put it back, or go on elsewhere with -C DIR --fork"
            )
        return own
    named = _folder(flags["folder"])
    if named != own and not flags["fork"]:
        raise click.UsageError(f"session {session_id} works on {own}; leave -C out, or go on here with --fork")
    return named


def _folder(path: Path) -> Path:
    folder = paths.expanded(path)
    if not folder.is_dir():
        raise click.UsageError(f"{folder} is not a folder; name the project with -C DIR")
    return folder.resolve()


def _said(flags: dict[str, Any], agent: dict[str, Any]) -> dict[str, Any]:
    """The flags as a layer of settings."""
    from kodkod_app.bootstrap import absolute_name

    return {
        "model": flags["model"] and absolute_name(flags["model"]),
        "sandbox": flags["sandbox"],
        "env": flags["env"] and str(paths.expanded(flags["env"]).absolute()),
        "permission_mode": flags["permission_mode"],
        "candidates": {"count": flags["candidates"]},
        "agent": {**agent_flags(flags), **agent},
    }


def agent_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that limit a run and steer its draws, by the names that the agent's settings have for them."""
    same = {name: flags[name] for name in ("max_turns", "max_tokens", "seed", "temperature")}
    return {**same, "timeout_s": flags["timeout"]}


def _renderer(output_format: str, is_answer_alone: bool) -> Renderer:
    from kodkod_app.report_text import ASK_FURTHER, WAY_FURTHER, WAY_ON, TextRenderer
    from kodkod_app.stream_json import JsonRenderer, StreamJsonRenderer

    match output_format:
        case "json":
            return JsonRenderer()
        case "stream-json":
            return StreamJsonRenderer()
        case _:
            way_further = ASK_FURTHER if is_answer_alone else WAY_FURTHER
            return TextRenderer(WAY_ON, way_further, is_answer_alone=is_answer_alone)
