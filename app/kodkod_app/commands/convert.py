"""`kodkod convert`: a checkpoint in the precision that fits this machine, made once."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click
from rich.filesize import decimal

from kodkod_app.progress import bytes_progress
from kodkod_app.render import for_terminal


@click.command(name="convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["int4", "int8", "fp8", "bf16"]),
    default="int4",
    show_default=True,
    help="Of experts, attention, dense networks and head (which int4 leaves at int8, fp8 at bf16).",
)
@click.option("--verify", is_flag=True, help="Afterwards read every file again and compare its hash.")
def command(source: Path, target: Path, precision: str, verify: bool) -> None:
    """Write SOURCE, a published checkpoint (bf16, fp16, fp32 or FP8), in another precision to TARGET.

    Weights stream through, so little memory is needed. Cut off at any moment, the same command goes on where it was;
    with a finished TARGET it does nothing.
    """
    from kodkod_engine.layers.packed import Precisions
    from kodkod_engine.models.convert import convert
    from kodkod_engine.models.converted import require_sound

    with bytes_progress("converting") as progress:
        manifest = convert(source, target, Precisions.of(precision), progress)
    if verify:
        with bytes_progress("verifying") as progress:
            require_sound(target, manifest, progress)
    size = sum(file.num_bytes for file in manifest.files.values())
    told = f"{len(manifest.files)} files, {decimal(size)}, {precision}; use it with -m {quote(str(target))}"
    click.echo(f"{for_terminal(str(target))}: {told}")
