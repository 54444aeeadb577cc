"""The mixture: proportions, phases, lengths, and going on where it stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from kodkod_engine.training.batches import Mixture, Source, parse_source


def mixture(*sources: Source, seed: int = 0, batch_tokens: int = 256) -> Mixture:
    return Mixture(sources, vocab_size=64, batch_tokens=batch_tokens, max_document_tokens=100, seed=seed)


def same(one, other) -> bool:
    return one.token_ids.equal(other.token_ids) and one.weights.equal(other.weights)


def test_every_document_comes_once_an_epoch(make_shard):
    mix = mixture(Source(make_shard("a", 40)))
    pieces = sorted(map(tuple, mix._pieces[0].tolist()))
    first, second = ([mix._draw(0) for _ in pieces] for _ in range(2))
    assert sorted(first) == sorted(second) == pieces
    assert first != second


def test_batches_fit_and_their_first_token_is_never_predicted(make_shard):
    mix = mixture(Source(make_shard("a")))
    for _ in range(50):
        batch = mix.next_batch(0.0)
        assert batch.token_ids.numel() <= 256
        assert not batch.weights[:, 0].any()
        assert not batch.weights[~batch.is_token].any()
        assert batch.token_ids.shape[1] - int(batch.is_token.sum(1).max()) < 16


def test_sources_keep_their_proportions_and_phases(make_shard):
    first, second = make_shard("a", seed=1), make_shard("b", seed=2)
    mix = mixture(Source(first, 3), Source(second, 1), batch_tokens=512)
    drawn = Counter()
    for source, start, stop in (piece for _ in range(20) for piece in mix._draw_pool(0.0)):
        drawn[source] += stop - start
    assert drawn[0] / drawn[1] == pytest.approx(3, rel=0.02)
    phased = mixture(Source(first, 1, 0.0, 0.5), Source(second, 1, 0.5, 1.0))
    assert {source for source, _, _ in phased._draw_pool(0.2)} == {0}
    assert {source for source, _, _ in phased._draw_pool(0.7)} == {1}
    assert {source for source, _, _ in phased._draw_pool(1.0)} == {1}


@pytest.mark.parametrize("before", [0, 1, 31, 77])
def test_it_goes_on_with_the_very_next_batch(make_shard, before):
    sources = (Source(make_shard("a", seed=1), 2), Source(make_shard("b", seed=2), 1, 0.3, 1.0))
    whole, resumed = mixture(*sources), mixture(*sources)
    for step in range(before):
        whole.next_batch(step / 100)
    resumed.load_state_dict(whole.state_dict())
    for step in range(before, before + 60):
        assert same(whole.next_batch(step / 100), resumed.next_batch(step / 100))


def test_seeds_differ(make_shard):
    path = make_shard("a")
    assert not same(mixture(Source(path), seed=1).next_batch(0.0), mixture(Source(path), seed=2).next_batch(0.0))


def test_other_sources_cannot_go_on(make_shard):
    path = make_shard("a")
    with pytest.raises(ValueError, match="same ones"):
        mixture(Source(path)).load_state_dict(mixture(Source(path), Source(path)).state_dict())


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("a/b.safetensors", Source(Path("a/b.safetensors"))),
        ("b:3", Source(Path("b"), 3)),
        ("b:0.5@0.2-0.7", Source(Path("b"), 0.5, 0.2, 0.7)),
        ("b:2@0.5-", Source(Path("b"), 2, 0.5, 1.0)),
    ],
)
def test_sources_on_the_command_line(text, source):
    assert parse_source(text) == source


@pytest.mark.parametrize("text", ["b:x", "b:0", "b:1@0.5-0.2", "b:1@x-1", "b:-1"])
def test_bad_sources_are_refused(text):
    with pytest.raises(ValueError):
        parse_source(text)


def test_a_gap_in_the_schedule_is_refused(make_shard):
    with pytest.raises(ValueError, match="no data from 40%"):
        mixture(Source(make_shard("a"), 1, 0.0, 0.4), Source(make_shard("b"), 1, 0.5, 1.0))


def test_light_weights_are_thinned_out_and_made_up_for():
    from kodkod_engine.training.losses import sampled_weights

    percents = torch.tensor([0, 5, 10, 100], dtype=torch.uint8).repeat(30_000, 1)
    weights = sampled_weights(percents, torch.Generator().manual_seed(0))
    assert weights[:, 2:].unique().tolist() == pytest.approx([0.1, 1.0])
    assert weights[:, 1].unique().tolist() == pytest.approx([0.0, 0.15])
    assert weights.mean(0).tolist() == pytest.approx([0, 0.05, 0.1, 1], rel=0.02)
