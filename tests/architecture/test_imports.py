"""Light imports and public names of the engine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import kodkod_engine

HEAVY = {"torch", "transformers", "numba", "safetensors", "langgraph", "textual", "docker"}

LIGHT_MODULES = [
    "kodkod_engine",
    "kodkod_engine.messages",
    "kodkod_engine.api",
    "kodkod_engine.errors",
    "kodkod_engine.config",
    "kodkod_engine.chat",
    "kodkod_engine.chat.tokenizer",
    "kodkod_engine.chat.template",
    "kodkod_engine.chat.parser",
    "kodkod_engine.chat.byte_tokenizer",
    "kodkod_engine.core.sequence",
    "kodkod_engine.core.plan",
    "kodkod_engine.core.scheduler",
    "kodkod_engine.core.block_manager",
    "kodkod_engine.core.block_pool",
    "kodkod_engine.core.prefix_tree",
    "kodkod_engine.backends.scripted",
]


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh process after a statement."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_light_modules_load_nothing_heavy():
    """All in one process; when it fails, the next test says which."""
    assert not loaded_by("\n".join(f"import {module}" for module in LIGHT_MODULES)) & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "kodkod_engine",
        "kodkod_engine.messages",
        "kodkod_engine.api",
        "kodkod_engine.chat.tokenizer",
        "kodkod_engine.backends.scripted",
    ],
)
def test_no_torch_in(module):
    assert "torch" not in loaded_by(f"import {module}")


def test_the_measure_sees_torch():
    assert "torch" in loaded_by("import kodkod_engine.layers.linear")


def test_public_names():
    assert kodkod_engine.__all__ == ["load_config", "load_engine", "ngram_row_ids"]
    for name in kodkod_engine.__all__:
        assert callable(getattr(kodkod_engine, name))
        assert getattr(kodkod_engine, name).__doc__


def test_ngram_row_ids_are_64_bit_by_token_and_table(tmp_path):
    import torch

    from kodkod_engine.models.random_checkpoint import TINY

    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    config = kodkod_engine.load_config(tmp_path)
    for ids in ([5, 9, 300], torch.tensor([5, 9, 300])):
        rows = kodkod_engine.ngram_row_ids(ids, config)
        assert rows.dtype == torch.int64
        assert rows.shape == (3, 12)
        assert rows[0].tolist() == [5] * 12
