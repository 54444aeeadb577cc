"""A tiny model in the published layout, made once for all engine tests.

With KODKOD_TEST_DEVICE=cuda in the environment models go to that device where a test does not say where
(`make test-gpu`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.models.loading import LoadedModel, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

DEVICE = os.environ.get("KODKOD_TEST_DEVICE", "cpu")

if DEVICE != "cpu":
    load_model.__kwdefaults__["device"] = DEVICE
    before, cpu = EngineConfig.__init__.__defaults__, "cpu"
    EngineConfig.__init__.__defaults__ = tuple(DEVICE if value == cpu else value for value in before)
    TINY["qk_rope_head_dim"] = 16  # kernels' tiles have sides of 16 and more

LITE_CONFIG = Path(__file__).parent / "data" / "longcat_flash_lite_config.json"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny products lose by being shared, and threads of busy neighbours wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _one_seed_for_what_modules_share():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_seed():
    """The same random values in every run, in any order: what fails once fails again."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A random checkpoint with n-gram tables, identity experts, MTP block and byte tokenizer. Read only."""
    folder = write_random_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, seed=1)
    assert write_byte_tokenizer(folder) <= TINY["vocab_size"]
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder) -> LoadedModel:
    """The tiny checkpoint in fp32. Read only: a test that changes weights loads its own."""
    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def tokenizer(tiny_folder) -> Tokenizer:
    return Tokenizer.from_folder(tiny_folder)


@pytest.fixture
def lite_folder(tmp_path) -> Path:
    """A folder with the config.json of LongCat-Flash-Lite and nothing else."""
    (tmp_path / "config.json").write_bytes(LITE_CONFIG.read_bytes())
    return tmp_path


@pytest.fixture
def lite_values() -> dict[str, object]:
    """The published config.json as a dictionary; a fresh one per test."""
    return json.loads(LITE_CONFIG.read_text(encoding="utf-8"))
