"""Progress of long work, on standard error so that standard output stays the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

SECONDS_PER_LINE = 60.0
"""Between two lines where no bar can be drawn: in a log, in a pipe."""


@contextmanager
def bytes_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes done and to do, with rate and time left; hands out the function that moves it.

    Without a terminal it is a line a minute, and work that takes less says nothing.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title)
        return
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str) -> Callable[[int, int], None]:
    told_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= SECONDS_PER_LINE:
            told_at = time.monotonic()
            click.echo(f"{title}: {decimal(done)} of {decimal(total)}", err=True)

    return tell
