"""Questions to the person before something is done that cannot be taken back."""

from __future__ import annotations

import sys

import click

from kodkod_app.render import for_terminal


class NobodyThere(Exception):
    """There is nobody to ask."""

    exit_code = 1


def confirmed(question: str) -> bool:
    """Whether the person says yes; that nothing is changed is said where they do not.

    Raises:
        NobodyThere: standard input has no answer.
        Abort: they interrupt it.
    """
    try:
        says_yes = click.confirm(for_terminal(question))
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo()
        raise NobodyThere("nobody is there to ask; say --yes") from None
    if not says_yes:
        click.echo("nothing was changed")
    return says_yes
