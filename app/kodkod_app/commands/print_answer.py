"""`kodkod -p PROMPT`: one prompt, one answer, with nobody watching."""

from __future__ import annotations

from typing import Any

import click

from kodkod_app.commands.fix import read_text, run_session, session_options


@click.command(name="-p")
@click.option("-p", "--print", "prompt", metavar="PROMPT", required=True, help="What to do or to answer; - reads it.")
@session_options
def command(prompt: str, **flags: Any) -> int:
    """Do what PROMPT says in the project, print the answer, and exit.

    Standard output has the answer alone; what was done, what changed and what it cost are told on standard error.
    As in `kodkod fix`, nobody is asked, the project is trusted, and the exit codes are the same; but an answer in words
    is an end too, and exits with 0.
    """
    if prompt == "-":
        prompt = read_text(click.open_file("-", encoding="utf-8"), "standard input")
    if not prompt.strip():
        raise click.UsageError("the prompt is empty; say what to do")
    return run_session(prompt, flags, {"attended": True}, is_answer_alone=True)
