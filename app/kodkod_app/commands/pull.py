"""`kodkod pull`: a checkpoint from a hub, resumed where it was cut off, every file checked."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

import click
from rich.filesize import decimal

from kodkod_app.progress import bytes_progress
from kodkod_app.render import for_terminal


@click.command(name="pull")
@click.argument("repository", default="meituan-longcat/LongCat-Flash-Lite")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option("--endpoint", metavar="URL", help="Of another hub than huggingface.co.")
def command(repository: str, folder: Path | None, revision: str, endpoint: str | None) -> None:
    """Fetch REPOSITORY (OWNER/NAME; without it LongCat-Flash-Lite) to FOLDER; without it, to a folder of its name.

    Cut off at any moment, the same command goes on where it was. Sizes and hashes are compared with what the hub says;
    a file that differs is fetched again. In a folder with files of your own none of them is replaced.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise click.UsageError(f"{repository} is no OWNER/NAME; name a repository of the hub")
    from kodkod_app.hub import Hub, pull

    target = folder or Path(repository.rpartition("/")[2])
    with bytes_progress("fetching") as progress:
        pulled = pull(Hub(repository, revision, endpoint), target, progress)
    told = f"{pulled.num_files} files, {decimal(pulled.num_bytes)} at {pulled.commit[:12]}, all checked"
    click.echo(f"{for_terminal(str(target))}: {told}")
    click.echo(f"make it smaller with: kodkod convert {quote(str(target))} {quote(f'{target}-int4')}")
