"""A tiny model to train, and small synthetic shards."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kodkod_engine.models.random_checkpoint import TINY
from kodkod_engine.training.shards import write_shard

CONFIG: Mapping[str, Any] = {
    **TINY,
    "num_layers": 1,
    "ngram_vocab_size_ratio": 2.3,
    "emb_split_num": 2,
    "vocab_size": 64,
}
"""Small enough to learn something in a second."""


def synthetic_documents(count: int, *, seed: int, low: int = 8, high: int = 60) -> list[tuple[list[int], list[int]]]:
    """Documents that count upwards by a step of their own: the third token is sure once two are known."""
    rng = random.Random(seed)
    documents = []
    for _ in range(count):
        first, stride, length = rng.randrange(3, 64), rng.randrange(1, 6), rng.randrange(low, high)
        tokens = [3 + (first + place * stride) % 61 for place in range(length)]
        weights = [0, *(rng.choice([100, 100, 10, 5, 0]) for _ in tokens[1:])]
        documents.append((tokens, weights))
    return documents


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(CONFIG)


@pytest.fixture
def make_shard(tmp_path) -> Callable[..., Path]:
    """Writes a synthetic shard: `make_shard("name", count, seed=...)`."""

    def make(name: str, count: int = 60, *, seed: int = 0, **sizes: int) -> Path:
        return write_shard(tmp_path / f"{name}.safetensors", synthetic_documents(count, seed=seed, **sizes))

    return make
