"""What the N-gram branch costs per token on the processor, each way of holding its tables, against no branch at all.

    python engine/bench/isolation.py [--layers 4] [--folder DIR]

Layers of the published model in 4 bits and all its twelve tables, 63 GB in sparse files that take no room (their rows
are zeros; no disk is waited for, `read_ahead.py` measures that). One set of weights is run with each way of getting
rows, and as the same backbone without the branch:

- plain: rows gathered from one mapping of all tables, nothing between;
- mapped, cache cold: as an engine runs them from the disk, every n-gram new;
- mapped, cache warm: the same with every n-gram in the row cache;
- speculation: the same in steps that verify 4 or 16 drafts, against such steps without the branch.

Runs alternate, differences of medians count. Also: hit rates of the row cache on real code, by its size.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size import CONFIG, write_model
from measure import keep, seconds, summary
from scratch import scratch

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.layers.mapped_rows import MappedRows, NgramRowCache
from kodkod_engine.layers.ngram_embedding import NgramEmbedding, ResidentRows
from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher
from kodkod_engine.models.checkpoint import Checkpoint
from kodkod_engine.models.loading import LoadedModel, TableHome, WeightHome, load_model
from kodkod_engine.models.ngram_spec import NgramSpec
from kodkod_engine.nano import folder as nano_folder

CONTEXT = 3
STEPS, REPEATS = 16, 7
DRAFTS = (0, 4, 16)
CACHE_SIZES = (1 << 10, 1 << 13, 1 << 16)
MAX_FILES = 60
PLAIN, COLD, WARM, NONE = "plain", "mapped, cache cold", "mapped, cache warm", "no branch"


def twin(module: Any) -> Any:
    """The same module, sharing its weights, whose parts can be exchanged."""
    other = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        vars(other)[name] = dict(vars(module)[name])
    return other


def with_branch(loaded: LoadedModel, change: Callable[[NgramEmbedding], None]) -> LoadedModel:
    """The model with another way of getting rows."""
    model, embedding = twin(loaded.model), twin(loaded.model.embedding)
    change(embedding)
    model.embedding = embedding
    return replace(loaded, model=model)


def without_branch(loaded: LoadedModel) -> LoadedModel:
    """The backbone alone: words are looked up in the same matrix."""
    assert loaded.model.embedding is not None
    model = twin(loaded.model)
    model.word_embedding = loaded.model.embedding.word
    model.embedding = None
    return replace(loaded, model=model, config=replace(loaded.config, ngram=None))


def all_tables(spec: NgramSpec, file: Path) -> ResidentRows:
    """Every table in one mapping of holes, for a plain gather."""
    rows = spec.row_offsets[-1]
    with file.open("wb") as handle:
        handle.truncate(rows * spec.table_width * 2)
    bits = np.memmap(file, dtype=np.int16, mode="r+", shape=(rows, spec.table_width))
    with torch.device("meta"):
        resident = ResidentRows(spec)
    resident.weight = torch.nn.Parameter(torch.from_numpy(bits).view(torch.bfloat16), requires_grad=False)
    return resident


class Walker:
    """One sequence on one model, a few tokens per step."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.runner = ModelRunner(loaded, 256, 16)

    def walk(self, ids: list[int], drafts: int) -> float:
        """Seconds per step of one token and its drafts."""
        starts = range(CONTEXT, len(ids) - drafts, 1 + drafts)
        return seconds(lambda: self._steps(ids, starts, 1 + drafts)) / len(starts)

    def _steps(self, ids: list[int], starts: range, size: int) -> None:
        blocks = tuple(range(len(ids) // 16 + 1))
        for first in starts:
            context = tuple(ids[first - CONTEXT : first])
            self.runner.forward([TokenRun("walk", tuple(ids[first : first + size]), context, first, blocks, None)])


def branch_alone(loaded: LoadedModel, ids: list[int]) -> float:
    """Seconds of the embedding per token, without the layers."""
    embedding = loaded.model.embedding
    assert embedding is not None
    hasher = embedding.hasher(torch.device("cpu"))
    flat = torch.tensor(ids)

    def work() -> None:
        for place in range(CONTEXT, len(ids)):
            windows = hasher.windows(flat, torch.tensor([place]))
            embedding(flat[place : place + 1], windows)

    with torch.inference_mode():
        work()
        return seconds(work) / (len(ids) - CONTEXT)


def ways(loaded: LoadedModel, folder: Path) -> dict[str, LoadedModel]:
    """The model with each way of getting rows, and without the branch."""
    spec = loaded.config.ngram
    assert spec is not None
    checkpoint = Checkpoint(folder, [f"table-{index:02d}.safetensors" for index in range(spec.num_tables)])

    def plainly(embedding: NgramEmbedding) -> None:
        embedding._elsewhere, embedding.resident = None, all_tables(spec, folder / "tables.holes")

    def mapped(embedding: NgramEmbedding) -> None:
        embedding.move_tables(MappedRows(spec, checkpoint))

    return {
        NONE: without_branch(loaded),
        PLAIN: with_branch(loaded, plainly),
        COLD: with_branch(loaded, mapped),
        WARM: with_branch(loaded, mapped),
    }


def measure(folder: Path, layers: int) -> dict[str, Any]:
    if not (folder / "converted.json").exists():
        write_model(folder, layers, "int4")
    loaded = load_model(folder, weights=WeightHome.MAPPED, ngram_tables=TableHome.MAPPED)
    models = ways(loaded, folder)
    walkers = {name: Walker(one) for name, one in models.items()}
    generator = torch.Generator().manual_seed(1)

    def fresh(drafts: int) -> list[int]:
        count = CONTEXT + STEPS * (1 + drafts)
        return torch.randint(3, CONFIG["vocab_size"], (count,), generator=generator).tolist()

    by_drafts: dict[str, Any] = {}
    for drafts in DRAFTS:
        fixed = fresh(drafts)
        for walker in walkers.values():
            walker.walk(fixed, drafts)
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(REPEATS):
            for name, walker in walkers.items():
                times[name].append(walker.walk(fresh(drafts) if name == COLD else fixed, drafts))
        by_drafts[f"{drafts} drafts"] = costs(times, 1 + drafts)
        print(json.dumps({drafts: by_drafts[f"{drafts} drafts"]}, indent=1), flush=True)
    alone = {name: branch_alone(one, fresh(0)) for name, one in models.items() if name != NONE}
    return {
        "what": f"{layers} of 14 layers of the published model, int4, mapped; its twelve tables, 63 GB of holes",
        "by_drafts": by_drafts,
        "branch_alone_s_per_token": alone,
        "projection_bytes": 2 * CONFIG["hidden_size"] ** 2,
    }


def costs(times: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    """Steps and what the branch adds to them, each repeat against the backbone of the same repeat."""
    added = {
        name: statistics.median(one - base for one, base in zip(times[name], times[NONE], strict=True))
        for name in times
        if name != NONE
    }
    return {
        "step_s": {name: summary(samples) for name, samples in times.items()},
        "branch_s_per_token": {name: value / tokens for name, value in added.items()},
        "share_of_step": {name: value / statistics.median(times[name]) for name, value in added.items()},
    }


def code_files() -> list[str]:
    """Real code: the standard library's own modules."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [file.read_text(encoding="utf-8", errors="ignore") for file in sorted(root.glob("*.py"))[:MAX_FILES]]


def hit_rates() -> dict[str, Any]:
    """Of the row cache, one module after another, by how many n-grams it holds."""
    tokenizer = Tokenizer.from_folder(nano_folder())
    spec_owner = load_model(nano_folder(), ngram_tables=TableHome.MAPPED)
    spec = spec_owner.config.ngram
    assert spec is not None
    hasher = NgramHasher(spec)
    texts = [tokenizer.encode_text(text) for text in code_files()]
    rates = {}
    for size in CACHE_SIZES:
        cache = NgramRowCache(size)
        by_order = {order: [0, 0] for order in sorted(set(spec.orders))}
        nothing = torch.empty(0)
        for ids in texts:
            flat = torch.tensor([ABSENT] * spec.context_tokens + ids)
            windows = hasher.windows(flat, torch.arange(len(ids)) + spec.context_tokens)
            for ngram in hasher.effective(windows).tolist():
                for order, counts in by_order.items():
                    key = (order, *ngram[:order])
                    is_hit = cache.get(key) is not None
                    counts[0] += is_hit
                    counts[1] += 1
                    if not is_hit:
                        cache.put(key, nothing)
        total = [sum(counts[place] for counts in by_order.values()) for place in (0, 1)]
        rates[size] = {
            "all": total[0] / total[1],
            **{f"order_{order}": counts[0] / counts[1] for order, counts in by_order.items()},
        }
    return {"tokens": sum(map(len, texts)), "files": len(texts), "tokenizer": "nano", "by_cached_ngrams": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-hits", action="store_true", help="hit rates alone")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/kodkod-isolation"))
    parser.add_argument("--keep", action="store_true", help="leave the folder for another run")
    options = parser.parse_args()
    if options.only_hits:
        hits = {"row_cache_on_code": hit_rates()}
        print(hits)
        print(f"kept in {keep('isolation-hits', hits).name}")
        return
    with scratch(options.folder, f"isolation, {options.layers} layers", keep=options.keep):
        record: dict[str, Any] = {"row_cache_on_code": hit_rates()}
        print(record["row_cache_on_code"], flush=True)
        record |= measure(options.folder, options.layers)
    print(f"kept in {keep('isolation', record).name}")


if __name__ == "__main__":
    main()
