"""What a turn behind a long conversation costs, with its keys and values kept and with all of them rebuilt.

    python engine/bench/cached_turns.py [--precision int4] [--layers 1] [--context 8192] [--new 50 100 300 512]

Seconds of a step of new tokens behind a context that was computed, at the published width, least and median of turns
that alternate between the two; and of the whole context as a cold prompt. Weights are random. The layers of the whole
model are all alike: times 14 it is nearly its time.
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from full_size import random_prompts, write_model
from measure import keep, matmul_rate, seconds
from scratch import scratch

from kodkod_engine import load_engine
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.benchmark.completions import on_engine_thread
from kodkod_engine.core.step import NOBODY, TokenRun
from kodkod_engine.passing import in_passing

BLOCK_SIZE, CHUNK_TOKENS = 16, 512
WAYS = "kept", "rebuilt"


class Conversation:
    """Random tokens in the engine's blocks, computed by the runner as its loop would."""

    def __init__(self, engine: NativeEngine, num_tokens: int) -> None:
        self.runner, self.ids = engine.runner, list(random_prompts()(num_tokens))
        self.kept = engine.runner.expanded
        self.blocks = tuple(range(-(-num_tokens // BLOCK_SIZE)))

    def step_s(self, start: int, new: int, way: str) -> float:
        """Seconds of one step; what is kept of the tokens that it computes is forgotten before."""
        self.runner.expanded = self.kept if way == "kept" else None
        if self.kept is not None:
            self.kept.follow(self.ids[:start])
        run = TokenRun(
            NOBODY, self.ids[start : start + new], self.ids[max(0, start - 3) : start], start, self.blocks, (), self.ids
        )
        return seconds(lambda: self.runner.forward([run]))

    def prompt_s(self, num_tokens: int, way: str) -> float:
        """Seconds of the first tokens as a cold prompt."""
        starts = range(0, num_tokens, CHUNK_TOKENS)
        return sum(self.step_s(start, min(CHUNK_TOKENS, num_tokens - start), way) for start in starts)


def measured(engine: NativeEngine, options: argparse.Namespace) -> dict[str, Any]:
    conversation = Conversation(engine, options.context + max(options.new))
    conversation.prompt_s(min(options.context, 2 * CHUNK_TOKENS), "kept")  # compiles
    prompt = {way: conversation.prompt_s(options.context, way) for way in reversed(WAYS)}
    print("prompt", {way: round(spent, 2) for way, spent in prompt.items()}, flush=True)
    return {"prompt_s": prompt, "turns": [_turn(conversation, options, new) for new in options.new]}


def _turn(conversation: Conversation, options: argparse.Namespace, new: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(options.turns):
        for way in WAYS if turn % 2 else reversed(WAYS):
            found[way].append(conversation.step_s(options.context, new, way))
    figures = {f"{way}_s": statistics.median(spent) for way, spent in found.items()}
    figures |= {f"{way}_least_s": min(spent) for way, spent in found.items()}
    print(new, {name: round(value, 4) for name, value in figures.items()}, flush=True)
    return {"new": new, **figures, "share": figures["kept_s"] / figures["rebuilt_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="int4", choices=["bf16", "fp8", "int8", "int4"])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--new", type=int, nargs="+", default=[50, 100, 300, 512])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/kodkod-cached-turns"))
    parser.add_argument("--keep", action="store_true", help="leave the folder for another run, and keep no record")
    options = parser.parse_args()
    what = f"turns behind {options.context} tokens, {options.layers} layers, {options.precision}"
    with scratch(options.folder, what, keep=options.keep):
        if not (options.folder / "converted.json").exists():
            in_passing(partial(write_model, options.folder, options.layers, options.precision))
            os.sync()  # what is still on its way to the disk takes memory's time from what is measured
        room = options.context + max(options.new) + BLOCK_SIZE
        engine = load_engine(options.folder, ngram_tables="mapped", max_cached_tokens=room, block_size=BLOCK_SIZE)
        try:
            record = {"what": what, "threads": torch.get_num_threads(), "flop_per_s": matmul_rate(torch.bfloat16)}
            record |= on_engine_thread(engine, partial(measured, engine, options))
        finally:
            engine.close()
        if not options.keep:
            print(f"kept in {keep(f'cached-turns-{options.precision}', record).name}")


if __name__ == "__main__":
    main()
