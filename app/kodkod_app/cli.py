"""The `kodkod` command: arguments and exit codes. Each command's own code is imported when it runs."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TextIO

import click

from kodkod_app.conditions import told_condition
from kodkod_app.kernel_cache import name_kernel_cache

COMMANDS = {
    "fix": ("kodkod_app.commands.fix", "Mend what an issue or failing tests tell of, with nobody watching."),
    "demo": ("kodkod_app.commands.demo", "See it mend a failing test in a copy of an example or of a broken package."),
    "swebench": ("kodkod_app.commands.swebench", "Solve issues of a SWE-bench data set unattended, grade, count."),
    "eval": ("kodkod_app.commands.eval", "Measure how well a model uses tools and repairs."),
    "trust": ("kodkod_app.commands.trust", "Let a project start the programs it names outside the box."),
    "skills": ("kodkod_app.commands.skills", "List the skills: written instructions for certain tasks."),
    "mcp": ("kodkod_app.commands.mcp", "Show the MCP servers and their tools."),
    "serve": ("kodkod_app.commands.serve", "Serve a model to clients of the OpenAI API."),
    "acp": ("kodkod_app.commands.acp", "Work in an editor, over the Agent Client Protocol."),
    "doctor": ("kodkod_app.commands.doctor", "Look at this machine: what is there, what is missing, how to get it."),
    "pull": ("kodkod_app.commands.pull", "Fetch a checkpoint from a hub, resuming and checking."),
    "convert": ("kodkod_app.commands.convert", "Write a checkpoint in 4 or 8 bits, once."),
    "bench": ("kodkod_app.commands.bench", "Measure a model's speed here against what the machine allows."),
    "generate": ("kodkod_app.commands.generate", "Continue a prompt with the engine and print what it says."),
    "sessions": ("kodkod_app.commands.sessions", "List the sessions; show, rewind, export or delete one."),
    "replay": ("kodkod_app.commands.replay", "Do a session's recorded decisions again on a copy and compare."),
}
"""Name -> (module with a `command`, one-line help). Listing them imports none."""

PRINT = "-p"
"""The command of `kodkod -p PROMPT`; not in the table, for it is written as an option."""
_PRINT_FLAGS = (PRINT, "--print")
CHAT = "-"
"""The command of `kodkod` alone, the terminal app; not in the table either."""
_HELP_WORDS = (["-h"], ["--help"], ["--version"])
INTERRUPTED = 130
_UNLISTED = {PRINT: "kodkod_app.commands.print_answer", CHAT: "kodkod_app.commands.chat"}


def _opens_app(args: list[str]) -> bool:
    """Whether the words name no command: none at all on a terminal, or options alone."""
    return args[0].startswith("-") if args else sys.stdin.isatty() and sys.stdout.isatty()


def _meant(word: str) -> str:
    """What someone may want who calls a command that there is not."""
    from difflib import get_close_matches

    close = get_close_matches(word, COMMANDS, 1)
    return f"did you mean {close[0]}?" if close else "to ask something, kodkod -p PROMPT, or kodkod alone and write"


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports a command when it is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As every group; options with no command before them are a command of their own."""
        flags = {word.partition("=")[0] for word in args}
        if flags.intersection(_PRINT_FLAGS) and args[0].startswith("-"):
            args = ["--", PRINT, *args]
        elif _opens_app(args) and args[:1] not in _HELP_WORDS:
            args = ["--", CHAT, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order they are shown."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None when there is none of this name."""
        del ctx
        module = _UNLISTED.get(cmd_name) or COMMANDS.get(cmd_name, ("",))[0]
        return import_module(module).command if module else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As every group; of a word that names none it is told what may have been meant."""
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"there is no command {args[0]!r}; {_meant(args[0])}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"kodkod {version('kodkod')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.option(
    "-p",
    "--print",
    metavar="PROMPT",
    expose_value=False,
    help="Do what PROMPT says (- reads it), print the answer and exit; takes the options of `kodkod fix`.",
)
def kodkod() -> None:
    """A coding assistant that runs entirely on this machine.

    Without a command it opens the terminal app: -c goes on with the folder's latest session, -r ID with that one,
    --fork ID in a new one from there; -C, -m, --sandbox and --permission-mode as of `kodkod fix`.

    Exit codes: 0 done, 1 fault, 2 usage, 3 finished but not verified, 4 no model, 5 sandbox unavailable,
    124 limit reached, 130 interrupted.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise FolderGone("the current folder is gone; change to one that is there first") from None


class FolderGone(Exception):
    """The folder the command was called in was removed: nothing that is meant by a path can be found."""

    exit_code = 2


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code. A known fault is one line on standard error."""
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout, sys.stderr = sys.stdout or _nowhere("w"), sys.stderr or _nowhere("w")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a sign the terminal has not is no reason to say nothing
    sys.exit(_run(arguments))


def _nowhere(mode: Literal["r", "w"]) -> TextIO:
    """In place of a stream that whoever called has closed."""
    return Path(os.devnull).open(mode, encoding="utf-8")


def _name_home() -> None:
    """Say where `~` is for a user of whom nothing says it, where containers have it for theirs."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _run(arguments: list[str] | None) -> int:
    _name_home()
    name_kernel_cache(os.environ)
    try:
        result: Any = kodkod.main(arguments, prog_name="kodkod", standalone_mode=False)
    except click.ClickException as fault:
        _show(fault)
        return fault.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("kodkod: interrupted", err=True)
        return INTERRUPTED
    except Exception as fault:
        if (told := told_condition(fault)) is not None:
            _tell(told)
            return 1
        exit_code = getattr(fault, "exit_code", None)
        if exit_code is None:
            raise
        _tell(str(fault))
        return int(exit_code)
    return result if isinstance(result, int) else 0


def _show(fault: click.ClickException) -> None:
    """As click does, whatever was typed: names of files are in it."""
    from kodkod_app.render import for_terminal

    told = io.StringIO()
    fault.show(told)
    click.echo(for_terminal(told.getvalue()), err=True, nl=False)


def _tell(fault: str) -> None:
    """One line, whatever the names of files and what servers said have in them."""
    from kodkod_app.render import for_terminal

    click.echo(f"kodkod: {for_terminal(' '.join(fault.splitlines()))}", err=True)
