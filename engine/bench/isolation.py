"""What the N-gram branch costs per token on the processor, each way of holding its tables, against no branch at all.

    python engine/bench/isolation.py

One model of a few published-width layers is run with its tables in memory, behind the row cache with tables mapped
from disk (cold: every n-gram new; warm: all seen), and as the same backbone without the branch. Runs alternate, the
ratio of medians counts. Also: hit rates of the row cache on real code, by its size.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import torch
from full_size import CONFIG
from measure import keep, seconds

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.layers.mapped_rows import NgramRowCache
from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.config import BACKBONE_ARCHITECTURE
from kodkod_engine.models.loading import LoadedModel, TableHome, load_model
from kodkod_engine.models.random_checkpoint import write_random_checkpoint
from kodkod_engine.nano import folder as nano_folder

SHAPE: dict[str, Any] = {**CONFIG, "num_layers": 2, "n_routed_experts": 16, "zero_expert_num": 8, "vocab_size": 16_384}
TABLE_RATIO = 7.3
STEPS, REPEATS = 24, 7
CACHE_SIZES = (1 << 10, 1 << 13, 1 << 16)
MAX_FILES = 60


class Walker:
    """One sequence on one model, token by token."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.runner = ModelRunner(loaded, 256, 16)

    def walk(self, ids: list[int]) -> float:
        """Seconds per token."""
        return seconds(lambda: self._steps(ids)) / (len(ids) - 3)

    def _steps(self, ids: list[int]) -> None:
        blocks = tuple(range(len(ids) // 16 + 1))
        for place in range(3, len(ids)):
            self.runner.forward([TokenRun("walk", (ids[place],), tuple(ids[place - 3 : place]), place, blocks, None)])


def branch_alone(loaded: LoadedModel, ids: list[int]) -> float:
    """Seconds of the embedding per token, without the layers."""
    embedding = loaded.model.embedding
    assert embedding is not None
    hasher = embedding.hasher(torch.device("cpu"))
    flat = torch.tensor(ids)

    def work() -> None:
        for place in range(3, len(ids)):
            windows = hasher.windows(flat, torch.tensor([place]))
            embedding(flat[place : place + 1], windows)

    with torch.inference_mode():
        work()
        return seconds(work) / (len(ids) - 3)


def measure(folder: Path) -> dict[str, Any]:
    full = {**SHAPE, "ngram_vocab_size_ratio": TABLE_RATIO}
    checkpoint = write_random_checkpoint(folder / "full", full, dtype=torch.bfloat16, with_mtp=False)
    plain = write_random_checkpoint(
        folder / "plain", {**full, "architectures": [BACKBONE_ARCHITECTURE]}, dtype=torch.bfloat16, with_mtp=False
    )
    packed = Precisions.of("int4")
    models = {
        "no branch": load_model(plain, precisions=packed),
        "tables in memory": load_model(checkpoint, precisions=packed),
        "tables mapped, cache cold": load_model(checkpoint, precisions=packed, ngram_tables=TableHome.MAPPED),
        "tables mapped, cache warm": load_model(checkpoint, precisions=packed, ngram_tables=TableHome.MAPPED),
    }
    walkers = {name: Walker(loaded) for name, loaded in models.items()}
    generator = torch.Generator().manual_seed(1)
    fixed = torch.randint(3, SHAPE["vocab_size"], (STEPS + 3,), generator=generator).tolist()
    for walker in walkers.values():
        walker.walk(fixed)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(REPEATS):
        for name, walker in walkers.items():
            fresh = torch.randint(3, SHAPE["vocab_size"], (STEPS + 3,), generator=generator).tolist()
            times[name].append(walker.walk(fresh if name.endswith("cold") else fixed))
    base = statistics.median(times["no branch"])
    alone = {name: branch_alone(loaded, fixed) for name, loaded in models.items() if name != "no branch"}
    return {
        "what": "2 layers of published width, int4, tables of 1.4 million rows, one token at a time",
        "seconds_per_token": {name: statistics.median(samples) for name, samples in times.items()},
        "spread": {name: [min(samples), max(samples)] for name, samples in times.items()},
        "branch_s_per_token": {name: statistics.median(times[name]) - base for name in times if name != "no branch"},
        "branch_alone_s_per_token": alone,
        "projection_bytes": 2 * SHAPE["hidden_size"] ** 2,
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
    only_hits = parser.parse_args().only_hits
    record: dict[str, Any] = {"row_cache_on_code": hit_rates()}
    print(record["row_cache_on_code"], flush=True)
    if not only_hits:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            record |= measure(Path(folder))
    print(record)
    print(f"kept in {keep('isolation', record).name}")


if __name__ == "__main__":
    main()
