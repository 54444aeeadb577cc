"""Keys and values that are kept: what is there is never filled in again, and is always what it would be if it were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.playing import Played, play_scattered, relative_error
from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.expanded_context import ExpandedContext, ExpandedLayer, common_length
from kodkod_engine.models.config import load_config

ids = st.lists(st.integers(0, 2), max_size=200)


@given(ids, ids)
def test_a_common_beginning_is_found(first: list[int], second: list[int]) -> None:
    length = common_length(first, second)
    assert first[:length] == second[:length]
    assert length == min(len(first), len(second)) or first[length] != second[length]


class Filled:
    """A layer's tokens as sums of all ids up to each, and how many were asked for."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0

    def empty(self, num_tokens: int) -> Tensor:
        return torch.full((num_tokens, 3) if self.dim == 0 else (3, num_tokens), float("nan"))

    def whole(self, layer: ExpandedLayer, token_ids: Sequence[int]) -> Tensor:
        sums = torch.tensor(token_ids, dtype=torch.float32).cumsum(0)

        def fill(room: Tensor, first: int) -> None:
            self.count += len(sums) - first
            room.copy_(sums[first:, None].expand(-1, 3) if self.dim == 0 else sums[first:].expand(3, -1))

        got = layer.whole(len(token_ids), self.empty, fill, self.dim)
        assert got.shape[self.dim] == len(token_ids)
        return got.select(1 - self.dim, 0)


@given(st.lists(st.tuples(st.integers(0, 200), st.lists(st.integers(0, 5), min_size=1, max_size=90)), max_size=12),
       st.sampled_from([0, 1, 50, 120, 10_000]), st.sampled_from([0, 1]))  # fmt: skip
def test_what_is_kept_is_what_would_be_filled_in(steps: list[tuple[int, list[int]]], affordable: int, dim: int) -> None:
    """Each step goes on from any point of the one before, in as much room as there is."""
    kept = ExpandedContext(2, 24, lambda: 24.0 * affordable - kept.num_bytes)
    filled, before = Filled(dim), list[int]()
    for at, new in steps:
        token_ids = before[:at] + new
        known = min(kept.num_tokens, common_length(before, token_ids))
        kept.follow(token_ids)
        filled.count = 0
        for layer in (kept.layer(0), kept.layer(1)):
            wanted = torch.tensor(token_ids, dtype=torch.float32).cumsum(0)
            assert torch.equal(filled.whole(layer, token_ids), wanted)
        assert filled.count == 2 * (len(token_ids) - known)
        assert kept.num_tokens <= affordable
        assert kept.num_bytes <= 24 * affordable
        before = token_ids
    if before and affordable >= 10_000:
        assert kept.num_tokens == len(before)


def test_a_layer_that_was_left_out_of_a_step_catches_up() -> None:
    kept, filled = ExpandedContext(2, 24, lambda: 1e6), Filled(0)
    for length in (5, 9):
        kept.follow(list(range(length)))
        filled.whole(kept.layer(0), list(range(length)))
    assert kept.num_tokens == 0
    kept.follow(list(range(12)))
    filled.count = 0
    assert torch.equal(filled.whole(kept.layer(1), list(range(12))), torch.arange(12.0).cumsum(0))
    assert filled.count == 12
    assert kept.num_tokens == 9  # the other has those of the step before


def test_a_step_that_breaks_off_leaves_what_was_there() -> None:
    kept, filled = ExpandedContext(1, 12, lambda: 1e6), Filled(0)
    kept.follow([1, 2, 3])
    filled.whole(kept.layer(0), [1, 2, 3])
    kept.follow([1, 2, 4, 5])

    def broken(room: Tensor, first: int) -> None:
        room.fill_(9.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.layer(0).whole(4, filled.empty, broken, 0)
    kept.follow([1, 2, 3])
    assert torch.equal(filled.whole(kept.layer(0), [1, 2, 3]), torch.tensor([1.0, 3.0, 6.0]))


def test_more_than_was_allowed_is_never_taken() -> None:
    kept, filled = ExpandedContext(1, 12, lambda: 1e6, most_bytes=12 * 70), Filled(0)
    for length in range(10, 200, 10):
        kept.follow(list(range(length)))
        filled.whole(kept.layer(0), list(range(length)))
        assert kept.num_bytes <= 12 * 70
    assert kept.num_tokens == 70


# --- in the model ---------------------------------------------------------------------------------------------------


def _keep(played: Sequence[Played], most_bytes: float = 1e9) -> ExpandedContext:
    runner = played[0].runner
    attention: LatentAttention = runner.loaded.model.dual_layers[0].first.attention
    num_layers = runner.loaded.config.num_attention_blocks
    token_bytes = num_layers * attention.expanded_bytes(runner.loaded.device, runner.loaded.activation_dtype)
    runner.expanded = ExpandedContext(num_layers, token_bytes, lambda: 1e9, most_bytes)
    return runner.expanded


@st.composite
def _conversations(draw: st.DrawFn) -> list[tuple[int, int, list[int]]]:
    """Which of two sequences, how many of its last tokens are taken back, and what it then goes on with."""
    lengths = st.sampled_from([1, 5, 17, 20, 40, 90])
    return [
        (draw(st.integers(0, 1)), draw(st.integers(0, 30)), draw(st.lists(st.integers(3, 60), min_size=n, max_size=n)))
        for n in draw(st.lists(lengths, min_size=1, max_size=8))
    ]


@pytest.mark.parametrize("most_bytes", [1e9, 60_000.0], ids=["room for all", "room for some"])
def test_a_conversation_with_its_keys_kept_reads_as_one_without(tiny: Any, most_bytes: float) -> None:
    """Two sequences with a beginning in common take turns on one runner, take tokens back and go on."""

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(_conversations())
    def check(conversations: list[tuple[int, int, list[int]]]) -> None:
        pair, plain = play_scattered(tiny, 2, tokens=1024), play_scattered(tiny, 2, tokens=1024)
        kept = _keep(pair, most_bytes)
        beginning = [7, 8, 9, 2, 11] * 8
        for played in (*pair, *plain):
            played.feed(beginning)
        for which, back, new in conversations:
            both = pair[which], plain[which]
            for played in both:
                played.reject(min(back, len(played.ids) - 1))
            got, wanted = (played.feed(new) for played in both)
            assert relative_error(got, wanted) < 1e-5
        pair[0].feed([5, 6] * 40)
        assert kept.num_tokens == len(pair[0].ids) if most_bytes == 1e9 else 0 < kept.num_tokens < 40

    check()


def test_a_token_takes_its_rope_keys_per_head_where_no_kernel_of_a_device_reads_them(
    lite_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kodkod_engine.layers.on_device._has_triton", lambda: True)
    with torch.device("meta"):
        attention = LatentAttention(load_config(lite_folder), 0)
    cpu, cuda, narrow = torch.device("cpu"), torch.device("cuda"), torch.bfloat16
    assert attention.expanded_bytes(cuda, narrow) == 32 * (128 + 128) * 2
    assert attention.expanded_bytes(cpu, narrow) == 32 * (128 + 64 + 128) * 2
    assert attention.expanded_bytes(cuda, torch.float32) == 32 * (128 + 64 + 128) * 4
    monkeypatch.setattr("kodkod_engine.layers.on_device._has_triton", lambda: False)
    assert attention.expanded_bytes(cuda, narrow) == 32 * (128 + 64 + 128) * 2


def test_only_new_tokens_are_rebuilt(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (played,) = play_scattered(tiny, tokens=1024)
    _keep([played])
    rebuilt: list[int] = []
    parts = LatentAttention._parts

    def counted(self: LatentAttention, latents: Tensor) -> Any:
        rebuilt.append(len(latents))
        return parts(self, latents)

    monkeypatch.setattr(LatentAttention, "_parts", counted)
    num_blocks = played.runner.loaded.config.num_attention_blocks
    for size, wanted in ((200, 200), (70, 70), (3, 0), (70, 73)):
        rebuilt.clear()
        played.feed([5 + place % 7 for place in range(size)])
        assert sum(rebuilt) == num_blocks * wanted
