"""Shards: what is written is what the documents were, in another order."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from kodkod_app.nano.corpus import Module
from kodkod_app.nano.dialogue import Dialogue, Encoder
from kodkod_app.nano.shards import MAX_TOKENS, Batch, pack, simulated_batches, write_shard
from kodkod_app.nano.simulated import dialogues
from kodkod_app.nano.tool_desk import ToolDesk
from kodkod_engine.chat.tokenizer import Tokenizer


@pytest.fixture
def found(module: Module, tmp_path: Path) -> list[Dialogue]:
    with ToolDesk(tmp_path.resolve()) as desk:
        return list(dialogues(module, 0, desk))


def documents(path: Path) -> list[tuple[bytes, bytes]]:
    held = load_file(path)
    assert {name: str(value.dtype) for name, value in held.items()} == {
        "tokens": "int32",
        "weights": "uint8",
        "starts": "int64",
    }
    starts = held["starts"]
    assert (starts[0], starts[-1]) == (0, len(held["tokens"])) == (0, len(held["weights"]))
    bounds = list(pairwise(starts))
    return [(held["tokens"][a:b].tobytes(), held["weights"][a:b].tobytes()) for a, b in bounds]


def test_a_shard_holds_every_document(found: list[Dialogue], tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoder = Encoder(tokenizer)
    path = tmp_path / "shard.safetensors"
    summary = write_shard([pack(found[:5], encoder), pack(found[5:], encoder)], path, 3, tokenizer)
    encoded = [encoder.encode(dialogue) for dialogue in found]
    wanted = [(np.array(d.ids, np.int32).tobytes(), np.array(d.weights, np.uint8).tobytes()) for d in encoded]
    assert sorted(documents(path)) == sorted(wanted)
    assert documents(path) != wanted
    assert summary.documents == len(found)
    with safe_open(path, "numpy") as shard:
        metadata = shard.metadata()
    assert metadata["tokenizer"] == tokenizer.fingerprint
    assert sum(json.loads(metadata["kinds"]).values()) == len(found)


def test_long_documents_are_left_out_and_counted(found: list[Dialogue], tokenizer: Tokenizer) -> None:
    long = Dialogue(("t::" + "x y " * MAX_TOKENS,), found[0].turns, found[0].kind, found[0].origin)
    batch = pack([found[0], long], Encoder(tokenizer))
    assert (batch.lengths.size, batch.too_long) == (1, 1)


def test_nothing_is_no_shard(tokenizer: Tokenizer, tmp_path: Path) -> None:
    empty = Batch(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int64))
    for batches in ([], [empty]):
        with pytest.raises(ValueError, match="no documents"):
            write_shard(batches, tmp_path / "shard.safetensors", 0, tokenizer)


def test_the_number_of_processes_changes_nothing(
    module: Module, tokenizer_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for processes, path in enumerate(paths, 1):
        batches = simulated_batches([module] * 10, tokenizer_folder, 5, processes)
        write_shard(batches, path, 5, tokenizer)
    one, two = map(documents, paths)
    assert one == two
