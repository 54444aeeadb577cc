"""What a step of the published width costs, by its number of tokens: decoding, drafts verified, answers side by side.

    python engine/bench/steps.py [--precision fp8] [--layers 1] [--tokens 1 2 3 4 5 6 8 12 16] [--folder DIR --keep]

Milliseconds in turns, one of every size after another, median: a chunk of so many tokens behind a context, through all
layers and the head, every token's logits included. Beside them what reading the step's weights takes at the best rate
of the same run, the experts that it really hits among them. Weights are random. A step must not cost more than one of
more tokens does, but for the machine's own swing.
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from full_size import random_prompts, step_bytes, write_model
from measure import keep, read_bandwidth, seconds
from routing import experts_of_steps
from scratch import scratch

from kodkod_engine import load_engine
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.benchmark.completions import on_engine_thread
from kodkod_engine.core.step import NOBODY, TokenRun
from kodkod_engine.passing import in_passing

TOKENS = [1, 2, 3, 4, 5, 6, 8, 12, 16]
CONTEXT_TOKENS = 256
TURNS = 9
BLOCK_SIZE = 16


def run_of(tokens: int, context: int) -> TokenRun:
    """Random tokens behind a context that nobody computed: values do not change the time."""
    ids = random_prompts()(tokens)
    blocks = tuple(range(-(-(context + tokens) // BLOCK_SIZE)))
    return TokenRun(NOBODY, ids, (5, 6, 7), context, blocks)


def turns(engine: NativeEngine, sizes: list[int], context: int, num_turns: int) -> tuple[list[dict[int, float]], float]:
    """Seconds by size, turn by turn, and the best read rate before, between and behind them."""
    runs = {tokens: run_of(tokens, context) for tokens in sizes}
    for run in runs.values():
        engine.runner.logits([run])
    rates, found = [read_bandwidth(1 << 29, 3)], []
    for _ in range(num_turns):
        found.append({tokens: seconds(partial(engine.runner.logits, [run])) for tokens, run in runs.items()})
        rates.append(read_bandwidth(1 << 29, 2))
    return found, max(rates)


def experts_hit(engine: NativeEngine, tokens: int, context: int) -> float:
    """Different real experts of a layer."""
    with experts_of_steps(engine, lambda owner, chosen: int((chosen.unique() < owner.num_experts).sum())) as counts:
        engine.runner.logits([run_of(tokens, context)])
    return statistics.mean(counts)


def measured(engine: NativeEngine, options: argparse.Namespace) -> dict[str, Any]:
    for layer in range(engine.runner.layout.num_cache_layers):
        engine.runner.cache.layer(
            layer
        ).normal_()  # memory that was never written is one page, in the first level cache
    found, rate = turns(engine, options.tokens, options.context, options.turns)
    steps: dict[int, dict[str, float]] = {}
    for tokens in options.tokens:
        hit = experts_hit(engine, tokens, options.context)
        reading = sum(step_bytes(engine, hit, options.context).values()) / rate
        own = [turn[tokens] for turn in found]
        steps[tokens] = {"ms": 1e3 * statistics.median(own), "least_ms": 1e3 * min(own), "reading_ms": 1e3 * reading}
        print(tokens, {name: round(value, 1) for name, value in steps[tokens].items()}, flush=True)
    return {"read_bytes_per_s": rate, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp8", choices=["bf16", "fp8", "int8", "int4"])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--context", type=int, default=CONTEXT_TOKENS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/kodkod-steps"))
    parser.add_argument("--keep", action="store_true", help="leave the folder for another run, and keep no record")
    options = parser.parse_args()
    what = f"steps of {options.layers} layers, {options.precision}"
    with scratch(options.folder, what, keep=options.keep):
        if not (options.folder / "converted.json").exists():
            in_passing(partial(write_model, options.folder, options.layers, options.precision))
            os.sync()  # what is still on its way to the disk takes memory's time from what is measured
        room = options.context + max(options.tokens) + BLOCK_SIZE
        engine = load_engine(options.folder, ngram_tables="mapped", max_cached_tokens=2 * room, block_size=BLOCK_SIZE)
        try:
            record = {"what": what, "threads": torch.get_num_threads(), "context": options.context}
            record |= on_engine_thread(engine, partial(measured, engine, options))
        finally:
            engine.close()
        if not options.keep:
            print(f"kept in {keep(f'steps-{options.precision}', record).name}")


if __name__ == "__main__":
    main()
