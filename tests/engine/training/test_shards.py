"""Shards: what is written is read, and what is not a shard is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kodkod_engine.training.shards import ShardFault, read_shard, write_shard

DOCUMENTS = [([1, 5, 7], [0, 100, 5]), ([9], [0]), ([4, 4, 4, 4, 4], [0, 10, 10, 0, 100])]


def test_what_is_written_is_read(tmp_path):
    shard = read_shard(write_shard(tmp_path / "a.safetensors", DOCUMENTS, {"seed": "1"}), vocab_size=10)
    for (tokens, weights), start, stop in zip(DOCUMENTS, shard.starts[:-1], shard.starts[1:], strict=True):
        assert shard.tokens[start:stop].tolist() == tokens
        assert shard.weights[start:stop].tolist() == weights


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), limit=st.integers(2, 12))
def test_pieces_are_the_documents_in_order(tmp_path_factory, lengths, limit):
    path = tmp_path_factory.mktemp("pieces") / "a.safetensors"
    shard = read_shard(write_shard(path, [([0] * length, [0] * length) for length in lengths]), vocab_size=1)
    pieces = shard.pieces(limit).tolist()
    assert all(1 < stop - start <= limit for start, stop in pieces)
    wanted = [place for start, stop in pieces for place in range(start, stop)]
    assert wanted == sorted(set(wanted))
    left_out = sum(lengths) - len(wanted)
    assert left_out == sum(length % limit == 1 for length in lengths)


def arrays(**changed):
    plain = {
        "tokens": np.array([1, 2, 3], np.int32),
        "weights": np.array([0, 1, 2], np.uint8),
        "starts": np.array([0, 3], np.int64),
    }
    return plain | changed


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tokens": np.array([1, 2, 3], np.int64)}, "tokens is not a row of int32"),
        ({"weights": np.array([1], np.uint8)}, "do not fit"),
        ({"starts": np.array([0, 2], np.int64)}, "do not fit"),
        ({"starts": np.array([0, 5, 3], np.int64)}, "do not fit"),
        ({"tokens": np.array([1, 2, 10], np.int32)}, "beyond the 10"),
        ({"tokens": np.array([1, -2, 3], np.int32)}, "beyond the 10"),
    ],
)
def test_a_bad_shard_is_refused(tmp_path, changed, told):
    save_file(arrays(**changed), tmp_path / "a.safetensors")
    with pytest.raises(ShardFault, match=told) as caught:
        read_shard(tmp_path / "a.safetensors", vocab_size=10)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ShardFault, match="no such file"):
        read_shard(tmp_path / "none", vocab_size=10)
    (tmp_path / "text").write_text("not a shard at all, but long enough to be looked at")
    with pytest.raises(ShardFault, match="not a shard"):
        read_shard(tmp_path / "text", vocab_size=10)
    save_file({"tokens": np.zeros(3, np.int32)}, tmp_path / "part")
    with pytest.raises(ShardFault, match="not a shard"):
        read_shard(tmp_path / "part", vocab_size=10)
