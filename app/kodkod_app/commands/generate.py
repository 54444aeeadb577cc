"""`kodkod generate`: continue a prompt with the engine and print what it says."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from kodkod_app.bootstrap import (
    demonstration_checkpoint,
    open_engine,
    require_tokenizer,
    settled_and_told,
    tell_on_stderr,
)
from kodkod_app.render import for_terminal
from kodkod_engine.api import Engine, FinishReason, GenerationRequest, SamplingParams, TokenChunk, Usage
from kodkod_engine.backends.looped import LoopedEngine
from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import EngineError

NO_MODEL_NOTE = (
    "no model given (-m DIR): this is a tiny checkpoint with random weights, so what follows is noise; "
    "it shows that the engine runs"
)


@click.command(name="generate")
@click.argument("prompt", default="-")
@click.option(
    "-m", "--model", type=click.Path(path_type=Path), help="Folder of a checkpoint. [default: a tiny random one]"
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--ngram-tables",
    type=click.Choice(["auto", "resident", "pinned", "mapped"]),
    default="auto",
    show_default=True,
    help="Keep the N-gram tables in memory, in host memory that a GPU reads, or read rows from the checkpoint's files.",
)
@click.option("--precision", type=click.Choice(["bf16", "fp8", "int8", "int4"]), help="Pack the weights on the way in.")
@click.option(
    "--weights",
    type=click.Choice(["auto", "resident", "mapped"]),
    default="auto",
    show_default=True,
    help="Keep all else in memory, or leave it in the files of a converted checkpoint.",
)
def command(
    prompt: str,
    model: Path | None,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    output_format: str,
    device: str,
    ngram_tables: str,
    precision: str | None,
    weights: str,
) -> None:
    """Continue PROMPT (standard input when it is - or missing) and print the continuation."""
    text = sys.stdin.read() if prompt == "-" else prompt
    try:
        sampling = SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
    except ValueError as fault:  # a range has no ends for what is no number
        raise click.UsageError(str(fault)) from fault
    if model is None:
        click.echo(f"kodkod: {NO_MODEL_NOTE}", err=True)
    folder = model or demonstration_checkpoint()
    said: dict[str, Any] = {"ngram_tables": ngram_tables, "weights": weights, "precision": precision}
    config = settled_and_told(folder, EngineConfig(device=device, **said), tell_on_stderr)
    require_tokenizer(folder)
    engine = open_engine(folder, config)
    try:
        _generate(engine, text, sampling, as_json=output_format == "json")
    finally:
        engine.close()


def _generate(engine: LoopedEngine, text: str, sampling: SamplingParams, *, as_json: bool) -> None:
    assert engine.tokenizer is not None
    request = GenerationRequest(tuple(engine.tokenizer.encode_text(text)), sampling)
    said, last = asyncio.run(_stream(engine, request, echo=not as_json))
    if last.finish_reason is FinishReason.ERROR:
        raise EngineError(last.error or "the engine failed")
    assert last.usage is not None
    if as_json:
        click.echo(json.dumps({"text": said, "finish_reason": last.finish_reason, "usage": asdict(last.usage)}))
    else:
        click.echo()
        click.echo(_summary(last.usage), err=True)


async def _stream(engine: Engine, request: GenerationRequest, *, echo: bool) -> tuple[str, TokenChunk]:
    said: list[str] = []
    last = TokenChunk()
    async for last in engine.generate(request):
        said.append(last.text)
        if echo:
            click.echo(for_terminal(last.text) if sys.stdout.isatty() else last.text, nl=False)
    return "".join(said), last


def _summary(usage: Usage) -> str:
    rate = usage.generated_tokens / usage.decode_s if usage.decode_s else 0.0
    return (
        f"{usage.prompt_tokens} prompt tokens ({usage.reused_tokens} reused) in {usage.prefill_s:.2f} s, "
        f"{usage.generated_tokens} generated at {rate:.0f} tokens/s"
    )
