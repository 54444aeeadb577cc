"""What a prompt costs a new process: computed, or read back from what an earlier process kept on disk.

    python engine/bench/kept_prefixes.py [--layers 14] [--tokens 2048] [--folder DIR]

The published model's shape in 4 bits with random weights, as `full_size.py` writes it. The same prompt three times, by
an engine that was just loaded and has answered a short prompt: nothing kept; kept and still in the system's page cache;
kept and read from the disk. The limit is reading the same files at the rate of this run, and computing the few tokens
behind them at the rate of the whole prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size import CONFIG, MAX_CACHED_TOKENS, complete, write_model
from measure import keep, seconds
from scratch import scratch

from kodkod_engine import load_engine
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.passing import in_passing

WARM_UP_TOKENS = (32, 512)
"""Of prompts before the one that is timed: kernels are compiled, and all experts are in memory."""


def prompt(num_tokens: int, seed: int) -> tuple[int, ...]:
    """Random ids: what is read is the same for any."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, CONFIG["vocab_size"], (num_tokens,), generator=generator).tolist())


def opened(model: Path, kept: Path, number: int) -> NativeEngine:
    """A new engine that has answered, and so has its weights in memory and its kernels compiled."""
    homes = {"device": "cpu", "weights": "mapped", "ngram_tables": "mapped"}
    engine = load_engine(model, **homes, max_cached_tokens=MAX_CACHED_TOKENS, kv_folder=str(kept))
    for num_tokens in WARM_UP_TOKENS:
        complete(engine, prompt(num_tokens, 100 + number), 2)
    return engine


def asked(model: Path, kept: Path, ids: tuple[int, ...], number: int) -> dict[str, Any]:
    """One answer of a new engine, the `number`th."""
    engine = opened(model, kept, number)
    before = engine.stats().restored_tokens
    done = complete(engine, ids, 2)
    restored, each = engine.stats().restored_tokens - before, engine.runner.layout.bytes_per_token
    engine.close()
    told = {"restored_tokens": restored, "restored_bytes": restored * each, "ids": list(done.token_ids)}
    return {"first_token_s": done.usage.prefill_s, **told}


def files_of(kept: Path) -> list[Path]:
    return [path for path in kept.rglob("*") if path.is_file()]


def out_of_memory(files: list[Path]) -> None:
    """The next read comes from the disk."""
    os.sync()
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read_all(files: list[Path]) -> int:
    return sum(int(np.fromfile(path, np.uint8).sum(dtype=np.uint64)) for path in files)


def rate_of(files: list[Path], before: Callable[[list[Path]], None] = lambda _: None) -> float:
    """Bytes a second at which files are read, the median of three."""
    num_bytes, times = sum(path.stat().st_size for path in files), []
    for _ in range(3):
        before(files)
        times.append(seconds(lambda: read_all(files)))
    return num_bytes / statistics.median(times)


def measure(model: Path, kept: Path, num_tokens: int) -> dict[str, Any]:
    ids = prompt(num_tokens, 7)
    computed = asked(model, kept, ids, 0)
    in_memory = asked(model, kept, ids, 1)
    out_of_memory(files_of(kept))
    from_disk = asked(model, kept, ids, 2)
    # The computed one may differ: the best tokens of random weights are nearly tied, and a short step rounds otherwise.
    assert in_memory["ids"] == from_disk["ids"], "what was read says something else"
    files = files_of(kept)
    record: dict[str, Any] = {"computed": computed, "page cache": in_memory, "disk": from_disk}
    rates = {"page cache": rate_of(files), "disk": rate_of(files, out_of_memory)}
    for name, rate in rates.items():
        own = record[name]
        own["ratio"] = computed["first_token_s"] / own["first_token_s"]
        rest_s = (num_tokens - own["restored_tokens"]) / num_tokens * computed["first_token_s"]
        own["limit_s"] = own["restored_bytes"] / rate + rest_s
        own["fraction_of_limit"] = own["limit_s"] / own["first_token_s"]
    return {**record, "read_bytes_per_s": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--tokens", type=int, default=2048, help="of the prompt")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/kodkod-kept-prefixes"))
    options = parser.parse_args()
    what = f"published shape, {options.layers} of 14 layers, int4 mapped, a prompt of {options.tokens} tokens"
    with scratch(options.folder, what) as folder:
        model = folder / "model"
        in_passing(partial(write_model, model, options.layers, "int4"))
        os.sync()
        record = {"what": what, "tokens": options.tokens, **measure(model, folder / "kv", options.tokens)}
    print(json.dumps(record, indent=1))
    print(f"kept in {keep(f'kept-prefixes-{options.layers}', record).name}")


if __name__ == "__main__":
    main()
