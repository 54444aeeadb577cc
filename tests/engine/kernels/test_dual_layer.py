"""A whole layer in one call against the module it stands for: chunks, several sequences, drafts, a long context."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.kernels.dual_layer import dual_layer
from kodkod_engine.layers import linear
from kodkod_engine.models import longcat_flash
from kodkod_engine.models.loading import load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

_BLOCK_SIZE = 16


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRunner:
    """As on a processor without bf16 arithmetic, wherever the tests run."""
    monkeypatch.setattr(linear, "_CPU_HAS_NATIVE_BF16", False)
    return ModelRunner(load_model(write_random_checkpoint(tmp_path, TINY, dtype=torch.bfloat16)), 64, _BLOCK_SIZE)


def _run(first_block: int, start: int, ids: list[int], before: list[int]) -> TokenRun:
    blocks = tuple(range(first_block, first_block + (start + len(ids)) // _BLOCK_SIZE + 1))
    return TokenRun(str(first_block), tuple(ids), tuple(before[-3:]), start, blocks)


def _logits(runner: ModelRunner) -> list[torch.Tensor]:
    """Three prompts together, then a chunk, a single token and a draft of four side by side."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 320, (length,), generator=generator).tolist() for length in (40, 1, 19)]
    runs = [_run(20 * place, 0, prompt, []) for place, prompt in enumerate(prompts)]
    further = [[5] * 17, [9], [7, 8, 9, 10]]
    later = [
        _run(20 * place, len(prompt), ids, prompt)
        for place, (prompt, ids) in enumerate(zip(prompts, further, strict=True))
    ]
    return [row for step in (runs, later) for row in runner.logits(step)]


def test_equals_the_module(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = dual_layer
    monkeypatch.setattr(longcat_flash, "dual_layer", lambda *args: calls.append(1) or whole(*args))  # type: ignore[func-returns-value]  # append as a count
    ours = _logits(runner)
    assert len(calls) == 2 * TINY["num_layers"]
    monkeypatch.setattr(longcat_flash, "step_arrays", lambda *_args: None)
    plain = _logits(runner)
    assert len(calls) == 2 * TINY["num_layers"]
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_leaves_long_steps_and_graphs_to_the_module(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("the kernel was called")

    monkeypatch.setattr(longcat_flash, "dual_layer", refuse)
    runner.logits([_run(0, 0, [5] * (linear.MAX_THIN_ROWS + 1), [])])
