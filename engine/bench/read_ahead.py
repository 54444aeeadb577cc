"""What asking for a prompt's table rows in advance is worth, on tables that are on the disk and not in memory.

    python engine/bench/read_ahead.py [--table-gb 4] [--tokens 2048]

Twelve tables of random bytes are written to the disk, and put out of the page cache before every run. A random prompt
goes through the loop of the engine in steps of 512 tokens, on two 4-bit layers of published width: with rows of later
steps asked for while a step computes, with each step asking for its own, and with all rows in memory. Counted:
seconds to the first token, and how long the steps waited for rows. Runs alternate; the medians count. The folder is
deleted afterwards.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from full_size import CONFIG, complete
from measure import keep, seconds, summary
from scratch import scratch

from kodkod_engine import load_engine
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.layers.mapped_rows import MappedRows, NgramRowCache
from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher
from kodkod_engine.models.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {**CONFIG, "num_layers": 2, "n_routed_experts": 16, "zero_expert_num": 8, "vocab_size": 32_768}
STEP_TOKENS, REPEATS = 512, 3
ADVANCE, EACH, MEMORY = "asked for in advance", "asked for by each step", "in the page cache already"
WAYS = (ADVANCE, EACH, MEMORY)
BYTES_PER_RATIO = 12 * SHAPE["vocab_size"] * SHAPE["hidden_size"] // 12 * 2


class Waits:
    """Seconds that steps spent in getting rows."""

    def __init__(self, rows: MappedRows) -> None:
        self.seconds = 0.0
        self.rows, plain = rows, rows.rows

        def timed(windows: torch.Tensor, hasher: NgramHasher) -> torch.Tensor:
            started = time.perf_counter()
            try:
                return plain(windows, hasher)
            finally:
                self.seconds += time.perf_counter() - started

        rows.rows = timed  # type: ignore[method-assign]  # this one object alone


def forget(folder: Path, rows: MappedRows) -> None:
    """Put files out of the page cache, and n-grams out of the row cache."""
    rows.cache = NgramRowCache(rows.cache.capacity)
    for path in folder.glob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read(rows: MappedRows, prompt: tuple[int, ...]) -> None:
    """Have all rows of a prompt in the page cache and none in the row cache."""
    hasher, absent = NgramHasher(rows.spec), rows.spec.context_tokens
    flat = torch.tensor([ABSENT] * absent + list(prompt))
    rows.rows(hasher.windows(flat, torch.arange(len(prompt)) + absent), hasher)
    rows.cache = NgramRowCache(rows.cache.capacity)


def measure(engine: NativeEngine, folder: Path, num_tokens: int) -> dict[str, Any]:
    embedding = engine.runner.loaded.model.embedding
    assert embedding is not None
    rows = embedding.row_source
    assert isinstance(rows, MappedRows)
    waits, expect = Waits(rows), rows.expect
    found: dict[str, dict[str, list[float]]] = {name: {"first_token_s": [], "waited_s": []} for name in WAYS}
    generator = torch.Generator().manual_seed(5)
    for repeat in range(REPEATS + 1):
        for name in WAYS:
            rows.expect = expect if name == ADVANCE else lambda _windows: None  # type: ignore[method-assign]  # this one object alone
            prompt = tuple(torch.randint(3, SHAPE["vocab_size"], (num_tokens,), generator=generator).tolist())
            forget(folder, rows)
            if name == MEMORY:
                read(rows, prompt)
            waits.seconds = 0.0
            usage = complete(engine, prompt, 1).usage
            rows.read_ahead.settle()
            if repeat:  # the first run compiles
                found[name]["first_token_s"].append(usage.prefill_s)
                found[name]["waited_s"].append(waits.seconds)
    return {name: {key: summary(samples) for key, samples in of.items()} for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table-gb", type=float, default=4.0)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/kodkod-read-ahead"))
    options = parser.parse_args()
    ratio = options.table_gb * 1e9 / BYTES_PER_RATIO
    with scratch(options.folder, "reading ahead"):
        config = {**SHAPE, "ngram_vocab_size_ratio": round(ratio, 2)}
        written_s = seconds(
            lambda: write_random_checkpoint(options.folder, config, dtype=torch.bfloat16, with_mtp=False)
        )
        print(f"written in {written_s:.0f} s", flush=True)
        engine = load_engine(
            options.folder,
            device="cpu",
            precision="int4",
            ngram_tables="mapped",
            max_step_tokens=STEP_TOKENS,
            max_cached_tokens=4 * options.tokens,
            speculation="none",
        )
        record = measure(engine, options.folder, options.tokens)
        engine.close()
    waited = {name: record[name]["waited_s"]["median"] for name in WAYS}
    print(record)
    print(f"{(waited[EACH] - waited[ADVANCE]) * 1e3:.0f} ms less waiting for rows of {options.tokens} tokens")
    name = keep("read-ahead", {"table_gb": options.table_gb, "tokens": options.tokens, **record}).name
    print(f"kept in {name}")


if __name__ == "__main__":
    main()
