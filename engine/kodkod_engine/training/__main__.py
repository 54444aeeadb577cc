"""`python -m kodkod_engine.training train | export | evaluate`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from kodkod_engine.errors import EngineError

NANO_CONFIG = Path(__file__).with_name("nano.json")

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(16 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(1 << 30),
}
"""Keeps freed memory with the process: a step's large temporaries otherwise cost a page fault each time."""


class _Command(click.Command):
    """A command whose known faults are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EngineError as fault:
            click.echo(f"error: {fault}", err=True)
            ctx.exit(fault.exit_code)
        except ValueError as fault:
            click.echo(f"error: {fault}", err=True)
            ctx.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train a small model of the LongCat-Flash-Lite architecture, write it as a checkpoint, measure it."""


@main.command(cls=_Command)
@click.option(
    "--data",
    "sources",
    multiple=True,
    required=True,
    metavar="PATH[:PROPORTION[@BEGIN-END]]",
    help="A shard, its share of the tokens, and from which to which part of the run (0 to 1). Repeat it to mix.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the run; goes on if begun."
)
@click.option("--config", type=click.Path(path_type=Path), default=NANO_CONFIG, help="A config.json. [default: nano's]")
@click.option("--minutes", type=float, help="Training time; the learning rate falls to zero with it.")
@click.option("--steps", type=int, help="Instead of --minutes: the same weights every time.")
@click.option("--init", type=click.Path(path_type=Path), help="Begin from this checkpoint's weights.")
@click.option("--batch-tokens", type=int, help="Tokens of a step. [default: 8192]")
@click.option("--max-document-tokens", type=int, help="Longer documents are cut. [default: 2048]")
@click.option("--learning-rate", type=float, help="Of matrices and words.")
@click.option("--table-learning-rate", type=float, help="Of the N-gram rows.")
@click.option("--weight-decay", type=float, help="Of the matrices.")
@click.option("--warmup-steps", type=int, help="Over which the learning rate rises.")
@click.option("--muon/--adamw", default=None, help="Optimizer of the matrices. [default: muon]")
@click.option("--amplification", type=float, help="Factor on the input embedding; 1 is plain.")
@click.option("--draft-factor", type=float, help="Weight of the draft block's loss. [default: 0.1]")
@click.option("--draft-share", type=float, help="Part of the documents it learns from. [default: 0.25]")
@click.option("--mtp/--no-mtp", default=None, help="Whether there is a draft block. [default: yes]")
@click.option("--seed", type=int, help="Of weights, order and samples. [default: 0]")
@click.option("--device", type=str, help="cpu or cuda. [default: cpu]")
@click.option("--bf16/--fp32", default=None, help="Products in bf16, with fp32 weights. [default: on cuda]")
@click.option("--threads", type=int, help="Processor threads.")
@click.option("--compile/--no-compile", "compile_", default=None, help="Fuse element-wise work; needs a C++ compiler.")
@click.option("--static/--dynamic", default=None, help="Steps that never wait for a GPU. [default: on cuda]")
@click.option(
    "--validation",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Held-out shard, predicted now and then; repeatable.",
)
@click.option("--validate-every-s", type=float, help="Seconds between predictions of held-out shards. [default: 30]")
@click.option("--save-every-s", type=float, help="Seconds between saves. [default: 180]")
def train(sources: tuple[str, ...], config: Path, compile_: bool | None, **given: Any) -> None:
    """Train until the time or the steps are used up.

    SIGINT or SIGTERM saves and ends with exit code 130; the same command goes on from there.
    """
    from kodkod_engine.training.batches import parse_source
    from kodkod_engine.training.options import TrainOptions
    from kodkod_engine.training.trainer import train as run

    known = {option.name for option in fields(TrainOptions)}
    chosen = {name: value for name, value in {**given, "compile": compile_}.items() if value is not None}
    options = TrainOptions(**{name: value for name, value in chosen.items() if name in known})
    metrics = run(_read_config(config), [parse_source(source) for source in sources], options)
    click.echo(
        f"{metrics.steps} steps, {metrics.tokens:,} tokens, {metrics.elapsed_s / 60:.1f} min, "
        f"loss {metrics.loss:.4f}, draft {metrics.draft_loss:.4f}"
    )
    if not metrics.is_finished:
        click.echo("stopped early; the same command goes on", err=True)
        sys.exit(130)


@main.command(cls=_Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", show_default=True)
def export(run: Path, checkpoint: Path, dtype: str) -> None:
    """Write the RUN's weights to the folder CHECKPOINT in the layout the engine loads."""
    from kodkod_engine.training.export import export as write
    from kodkod_engine.training.trainer import load_run

    model, config = load_run(run)
    folder = write(model, config, checkpoint, dtype=dtype)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    click.echo(f"{folder}: {size / 1e6:.1f} MB of weights")


@main.command(cls=_Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("shard", type=click.Path(path_type=Path))
@click.option("--max-documents", type=int, help="Only the first so many.")
@click.option("--batch-tokens", type=int, default=8192, show_default=True)
def evaluate(checkpoint: Path, shard: Path, max_documents: int | None, batch_tokens: int) -> None:
    """Predict a held-out SHARD with a CHECKPOINT (or a run's folder): loss, accuracy, draft acceptance, as JSON."""
    from kodkod_engine.training.evaluation import evaluate as measure
    from kodkod_engine.training.export import load_trainable
    from kodkod_engine.training.run_state import STATE_NAME
    from kodkod_engine.training.trainer import load_run

    model = load_run(checkpoint)[0] if (checkpoint / STATE_NAME).exists() else load_trainable(checkpoint)
    figures = measure(model, shard, max_documents=max_documents, batch_tokens=batch_tokens)
    click.echo(json.dumps(figures.told(), indent=1))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise ValueError(f"{path}: {fault}; give a config.json") from fault
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not a JSON object; give a config.json")  # noqa: TRY004  # a bad file, not a bad call
    return values


def _with_kept_memory() -> None:
    """Start over with `MALLOC` in the environment, which the C library reads once."""
    if sys.platform == "linux" and not all(name in os.environ for name in MALLOC):
        command = [sys.executable, "-m", "kodkod_engine.training", *sys.argv[1:]]
        os.execve(sys.executable, command, {**MALLOC, **os.environ})


if __name__ == "__main__":
    _with_kept_memory()
    main(prog_name="python -m kodkod_engine.training")
