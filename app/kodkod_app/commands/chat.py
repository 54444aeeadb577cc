"""`kodkod` alone: the terminal app."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from kodkod_app.commands.fix import MODEL_HELP, PERMISSION_MODES, find_place
from kodkod_app.wish import Wish
from kodkod_sandbox.base import SandboxKind


class _Alone(click.Command):
    """A command without a name: in what is told of its usage it is `kodkod` itself."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As every command, but of no group."""
        del info_name
        names = ["--help"] if parent is None else parent.help_option_names
        return super().make_context("kodkod", args, None, help_option_names=names, **extra)


@click.command(name="kodkod", cls=_Alone)
@click.option(
    "-C", "folder", metavar="DIR", type=click.Path(path_type=Path), help="The project. [default: the current folder]"
)
@click.option("-m", "--model", metavar="DIR", help=MODEL_HELP)
@click.option("--sandbox", type=click.Choice([kind.value for kind in SandboxKind]), help="[default: auto]")
@click.option("--env", metavar="DIR", type=click.Path(path_type=Path), help="Python environment the tests run in.")
@click.option(
    "--permission-mode", type=click.Choice(PERMISSION_MODES), help="How much is done without asking. [default: default]"
)
@click.option("-c", "--continue", "goes_on", is_flag=True, help="Go on with the project's latest session.")
@click.option("-r", "--resume", metavar="ID", is_flag=False, flag_value="", help="Go on with this session.")
@click.option(
    "--fork", metavar="[ID[:STEP]]", is_flag=False, flag_value="", help="Go on in a new session, from ID, -c or -r ID."
)
@click.option("--trust", is_flag=True, help="Use what needs trust (see kodkod trust) for this once.")
@click.option("--allow-build-network", is_flag=True, help="A missing Docker image may be built over the network.")
def command(fork: str | None, **flags: Any) -> int:
    """Open the terminal app. The same options as `kodkod fix`; `kodkod --help` lists the commands."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise click.UsageError("the terminal app needs a terminal; ask with kodkod -p PROMPT, or see kodkod --help")
    if os.environ.get("TERM") == "dumb":
        raise click.UsageError("TERM=dumb names a terminal that draws nothing; set TERM, or ask with kodkod -p PROMPT")
    return open_app(_wish(fork, flags))


def _wish(fork: str | None, flags: Mapping[str, Any]) -> Wish:
    if flags["resume"] == "":
        raise click.UsageError(
            "-r names a session: `kodkod sessions` lists their IDs, F2 in the terminal app shows them; "
            "-c goes on with the latest"
        )
    parent, step = _fork_point(fork)
    if parent and flags["resume"] not in (None, parent):
        raise click.UsageError("-r and --fork name two sessions; give one")
    place = find_place({**flags, "resume": parent or flags["resume"], "fork": fork is not None})
    if place.session_id is not None and fork is None:
        _look_whether_free(place.session_id)
    return Wish(
        place.work_tree,
        _said(flags),
        place.session_id,
        fork=fork is not None,
        fork_step=step,
        allow_build_network=flags["allow_build_network"],
        trusts=flags["trust"],
    )


def _look_whether_free(session_id: str) -> None:
    """Before a screen is painted, that would have nothing to show.

    Raises:
        SessionBusy: it is open in another process.
    """
    from kodkod_agent.session_folder import SessionFolder
    from kodkod_app import paths

    with SessionFolder.find(paths.sessions_folder(), session_id).locked():
        pass


def _fork_point(fork: str | None) -> tuple[str | None, int | None]:
    session_id, _, step = (fork or "").partition(":")
    if step and not step.isdecimal():
        raise click.UsageError(f"--fork {fork}: the step must be a number, as in --fork ID:4")
    return session_id or None, int(step) if step else None


def _said(flags: Mapping[str, Any]) -> dict[str, Any]:
    from kodkod_app import paths

    model = flags["model"]
    if model is not None:
        from kodkod_app.bootstrap import absolute_name

        model = absolute_name(model)
    said = {
        "model": model,
        "sandbox": flags["sandbox"],
        "env": flags["env"] and str(paths.expanded(flags["env"]).absolute()),
        "permission_mode": flags["permission_mode"],
    }
    return {key: value for key, value in said.items() if value is not None}


def open_app(wish: Wish) -> int:
    """Run the app to its end; returns the exit code."""
    from kodkod_app import paths
    from kodkod_app.tui.app import KodkodApp

    if isinstance(sys.__stderr__, io.TextIOWrapper):
        # The screen is drawn there, and keys are read as UTF-8 whatever the locale says of the terminal.
        sys.__stderr__.reconfigure(encoding="utf-8", errors="replace")
    app = KodkodApp(wish, is_first_start=paths.is_first_start())
    app.run()
    _tell_way_back(app.session_id)
    if not app.workbench.close():
        # It still loads, or is in a long step: a thread that the interpreter stops inside a kernel aborts the process.
        sys.stdout.flush()
        os._exit(app.return_code or 0)
    return app.return_code or 0


def _tell_way_back(session_id: str) -> None:
    """How to go on, once the screen that told of the session is gone; one in which nothing was said is gone too."""
    from kodkod_app import paths

    if session_id and (paths.sessions_folder() / session_id).is_dir():
        with suppress(OSError):  # a terminal that was closed
            click.echo(f"kodkod -r {session_id} goes on with this session", err=True)
