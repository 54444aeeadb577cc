"""What is trained is what the engine computes: logits of both, through the files."""

from __future__ import annotations

import random

import pytest
import torch

from engine.oracle import Oracle
from engine.playing import play, relative_error
from kodkod_engine.models.loading import load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.training.export import export, load_trainable

TIED = {**TINY, "tie_word_embeddings": True}


def documents(vocab_size: int) -> list[list[int]]:
    rng = random.Random(4)
    # Token 2 ends an n-gram segment.
    return [[rng.choice([2, *range(3, vocab_size)]) for _ in range(length)] for length in (1, 7, 40, 300)]


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]


@pytest.fixture(params=[TINY, TIED], ids=["head", "tied"])
def pair(request, tmp_path):
    """A model with random weights and the engine's after one trip through our own export."""
    first = write_random_checkpoint(tmp_path / "first", request.param, seed=3)
    trainable = load_trainable(first)
    return trainable, load_model(export(trainable, request.param, tmp_path / "second", dtype="float32"))


def test_logits_of_documents_side_by_side_equal_the_engines(pair):
    trainable, loaded = pair
    rows = documents(TINY["vocab_size"])
    with torch.inference_mode():
        logits = trainable(*padded(rows)).normed @ trainable.head.T
        for row, ours in zip(rows, logits, strict=True):
            assert relative_error(ours[: len(row)], play(loaded)[0].feed(row)) < 1e-4


def test_draft_logits_equal_the_formulas(tmp_path):
    folder = write_random_checkpoint(tmp_path, TINY, seed=5)
    trainable, oracle = load_trainable(folder), Oracle(folder)
    row = documents(TINY["vocab_size"])[2]
    with torch.inference_mode():
        normed = trainable(*padded([row])).normed
        draft = trainable.draft(normed[:, :-1], torch.tensor([row[1:]]))[0] @ trainable.head.T
    wanted = oracle.head(oracle.mtp(normed[0, :-1].double(), row[1:]))
    assert relative_error(draft, wanted) < 1e-4


def test_every_tensor_comes_back(tmp_path):
    first = write_random_checkpoint(tmp_path / "first", TINY, seed=6)
    before = load_trainable(first)
    after = load_trainable(export(before, TINY, tmp_path / "second", dtype="float32"))
    slots = after.checkpoint_slots()
    for name, slot in before.checkpoint_slots().items():
        assert torch.equal(slot, slots[name]), name


def test_the_router_stays_in_fp32(tmp_path):
    trainable = load_trainable(write_random_checkpoint(tmp_path / "first", TINY, seed=7))
    loaded = load_model(export(trainable, TINY, tmp_path / "second"))
    router = loaded.model.dual_layers[0].experts.router
    assert torch.equal(router.weight, trainable.main.dual_layers[0].experts.router.weight)
    assert loaded.dtype == torch.bfloat16
