"""`kodkod bench`: how fast a model is on this machine, and how much of what the machine allows that is."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from kodkod_app.progress import bytes_progress
from kodkod_engine.config import EngineConfig

if TYPE_CHECKING:
    from kodkod_engine.benchmark.ceilings import Ceilings
    from kodkod_engine.benchmark.points import Bench, Plan, Point


def _known_peer(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    if name is None:
        return None
    from kodkod_engine.benchmark.peers import is_peer

    if not is_peer(name):
        raise click.BadParameter(f"{name} is none; there are transformers, vllm and vllm:http://host:8000/v1")
    return name


def _writable(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """Looked at now: what is found out behind the measuring costs all of it."""
    if file is None:
        return None
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {file.parent}; make it first")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise click.BadParameter(f"{file} cannot be written; name another file")
    return file


def _drawable(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    if _writable(context, option, file) is None or file is None:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        raise click.BadParameter("it needs matplotlib; install it, or leave the option out")
    from matplotlib.figure import Figure

    if file.suffix.lower().lstrip(".") not in Figure().canvas.get_supported_filetypes():
        raise click.BadParameter(f"{file} is no kind of picture that can be drawn; name it .png or .svg")
    return file


@click.command(name="bench")
@click.option("-m", "--model", type=click.Path(path_type=Path), help="Folder of a checkpoint; else the bundled model.")
@click.option("--precision", type=click.Choice(["bf16", "fp8", "int8", "int4"]), help="Pack the weights on the way in.")
@click.option("--weights", type=click.Choice(["auto", "resident", "mapped"]), default="auto", show_default=True)
@click.option(
    "--tables", type=click.Choice(["auto", "resident", "pinned", "mapped"]), default="auto", show_default=True
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--batch", "batches", type=click.IntRange(1, 256), multiple=True, default=(1, 4, 16, 32), show_default=True
)
@click.option("--prompt", "prompts", type=click.IntRange(1), multiple=True, default=(512, 2048), show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--peer",
    metavar="NAME",
    callback=_known_peer,
    help="Measure it beside, on the same weights: transformers, vllm, or a server as vllm:http://host:8000/v1.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), callback=_writable, help="Write the record here.")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path),
    callback=_drawable,
    help="Draw achieved against limit here (PNG, SVG).",
)
def command(
    model: Path | None,
    precision: str | None,
    weights: str,
    tables: str,
    device: str,
    batches: tuple[int, ...],
    prompts: tuple[int, ...],
    repeats: int,
    peer: str | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure this machine's ceilings, then loading, decoding, prefill, a cached turn, speculation and memory.

    Each figure stands beside what the ceilings of the same run allow, and beside a peer where one is named.
    """
    from kodkod_app.bootstrap import require_folder, settled_and_told, tell_on_stderr
    from kodkod_engine.benchmark.peers import open_peer
    from kodkod_engine.benchmark.points import Bench, Plan, timed_load

    folder = require_folder(str(model) if model else None, "kodkod bench")
    plan = Plan(batches=batches, prompts=prompts, repeats=repeats)
    _require_context(folder, plan)
    cached_tokens = max(plan.cached_tokens, EngineConfig().cached_tokens)
    said: dict[str, Any] = {"weights": weights, "ngram_tables": tables, "precision": precision}
    config = EngineConfig(device=device, max_running=max(batches), max_cached_tokens=cached_tokens, **said)
    config = settled_and_told(folder, config, tell_on_stderr)
    with bytes_progress("loading weights") as progress:
        engine, load_s = timed_load(folder, config, progress)
    try:
        other = open_peer(peer, engine, folder) if peer else None
        _measure(Bench(engine, plan, folder, load_s, other), json_file, plot_file)
        if other is not None:
            other.close()
    finally:
        engine.close()


def _require_context(folder: Path, plan: Plan) -> None:
    """That the model takes prompts of that length."""
    from kodkod_engine import load_config

    limit = load_config(folder).max_context_tokens
    if plan.longest_tokens >= limit:
        raise click.UsageError(f"--prompt {max(plan.prompts)}: the model's context has {limit:,} tokens; ask for less")


def _measure(bench: Bench, json_file: Path | None, plot_file: Path | None) -> None:
    """Point by point; what was measured is told and kept however it ends."""
    console, points = Console(stderr=True), []
    try:
        for point in bench.points():
            console.print(f"[dim]{point.name}[/dim]")
            points.append(point)
    finally:
        memory = bench.memory()
        Console().print(_ceilings_table(bench.ceilings), _points_table(points), _memory_line(memory))
        if json_file:
            record = _record(bench.checkpoint, bench.precision, bench.ceilings, points, memory)
            json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if plot_file:
            _plot(points, plot_file)


def _record(
    folder: Path, precision: str, ceilings: Ceilings, points: Sequence[Point], memory: dict[str, float]
) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": str(folder),
        "precision": precision,
        "ceilings": asdict(ceilings),
        "points": [asdict(point) | {"fraction": point.fraction} for point in points],
        "memory": memory,
    }


def _ceilings_table(ceilings: Ceilings) -> Table:
    table = Table("this machine allows", "", box=None, pad_edge=False)
    rows = {
        "reading memory": _scaled(ceilings.read_bytes_per_s, 1e9, "GB/s"),
        "copying memory": _scaled(ceilings.copy_bytes_per_s, 1e9, "GB/s"),
        "products in fp32": _scaled(ceilings.fp32_flop_per_s, 1e9, "GFLOP/s"),
        "products in bf16": _scaled(ceilings.bf16_flop_per_s, 1e9, "GFLOP/s"),
        "reading the disk": _scaled(ceilings.disk_bytes_per_s, 1e9, "GB/s"),
        "gap in a graph": _scaled(ceilings.graph_gap_s, 1e-6, "us"),
        "host to device": _scaled(ceilings.to_device_bytes_per_s, 1e9, "GB/s"),
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def _scaled(value: float | None, unit: float, name: str) -> str:
    return "" if value is None else f"{value / unit:,.1f} {name}"


def _points_table(points: Sequence[Point]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("measured", min_width=12)
    for name in ("ms", "least-most", "tokens/s", "limit", "fraction"):
        table.add_column(name, no_wrap=True)  # a figure cut short is none
    table.add_column("beside it", min_width=12)
    for point in points:
        table.add_row(
            point.name,
            _figure(point.seconds * 1e3),
            f"{_figure(point.fastest_s * 1e3)}-{_figure(point.slowest_s * 1e3)}",
            _figure(point.tokens_per_s),
            _figure(point.limit_tokens_per_s),
            "" if point.fraction is None else f"{point.fraction:.0%}",
            point.note if point.peer_s is None else f"peer {point.peer_s / point.seconds:.2f} times as long",
        )
    return table


def _figure(value: float | None) -> str:
    """Three figures that count, and all those before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _memory_line(memory: dict[str, float]) -> str:
    return "  ".join(
        f"{name.replace('_bytes', '').replace('_', ' ')} {value / 1e9:.2f} GB" for name, value in memory.items()
    )


def _plot(points: Sequence[Point], file: Path) -> None:
    """Bars of achieved tokens/s beside their limits."""
    from matplotlib.figure import Figure

    shown = [point for point in points if point.limit_tokens_per_s]
    figure = Figure(figsize=(8, 0.6 * len(shown) + 1), layout="tight")
    axes = figure.subplots()
    names = [point.name for point in shown]
    axes.barh(names, [point.limit_tokens_per_s or 0 for point in shown], color="lightgray", label="limit")
    axes.barh(names, [point.tokens_per_s or 0 for point in shown], height=0.5, label="achieved")
    axes.set_xscale("log")
    axes.set_xlabel("tokens/s")
    axes.legend()
    figure.savefig(file)
