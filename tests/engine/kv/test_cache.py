"""The paged cache as tensors, and its sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.kv.cache import KvCache
from kodkod_engine.kv.layout import KvLayout
from kodkod_engine.models.config import load_config


def cache_of(num_blocks: int = 3, block_size: int = 4, layers: int = 2, dtype: torch.dtype = torch.float32) -> KvCache:
    return KvCache(KvLayout(layers, 5, dtype.itemsize, num_blocks, block_size), dtype, "cpu")


def test_sizes_at_the_published_model(lite_folder):
    config = load_config(lite_folder)
    layout = KvLayout(config.num_attention_blocks, config.latent_dim, 2, num_blocks=16_384)
    assert layout.bytes_per_token == 28 * 576 * 2 == 32_256
    assert layout.num_slots == 262_144
    assert layout.total_bytes == pytest.approx(7.875 * 2**30)


def test_a_cache_takes_what_its_layout_says():
    cache = cache_of(dtype=torch.bfloat16)
    assert cache._latents.nbytes == cache.layout.total_bytes == 2 * 5 * 2 * 12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.sets(st.integers(0, 11), min_size=1)), max_size=12))
def test_reads_give_what_was_written_last(writes):
    cache, held = cache_of(), {}
    for number, (layer, slots) in enumerate(writes):
        order = sorted(slots, key=lambda slot: (slot * 7) % 11)
        rows = torch.arange(len(order) * 5, dtype=torch.float32).view(-1, 5) + 1000 * number
        cache.write(layer, torch.tensor(order), rows)
        held |= {(layer, slot): row for slot, row in zip(order, rows, strict=True)}
    for (layer, slot), row in held.items():
        assert torch.equal(cache.read(layer, torch.tensor([slot]))[0], row)
        assert torch.equal(cache.read(layer, slice(slot, slot + 1))[0], row)


def test_reads_keep_the_shape_of_the_slots():
    cache = cache_of()
    cache.write(0, torch.arange(12), torch.arange(60, dtype=torch.float32).view(12, 5))
    slots = torch.tensor([[0, 1, 2], [11, 11, 4]])
    got = cache.read(0, slots)
    assert got.shape == (2, 3, 5)
    assert got[:, :, 0].tolist() == [[0, 5, 10], [55, 55, 20]]


def test_writes_are_converted_to_the_cache_dtype():
    cache = cache_of(dtype=torch.bfloat16)
    cache.write(1, torch.tensor([3]), torch.full((1, 5), 1.0001))
    assert cache.read(1, slice(3, 4)).dtype == torch.bfloat16
    assert torch.equal(cache.read(1, slice(3, 4)), torch.ones(1, 5, dtype=torch.bfloat16))


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 4])
def test_copying_a_block_copies_its_first_rows_in_all_layers_and_no_other(num_tokens):
    cache = cache_of()
    for layer in range(2):
        cache.write(layer, torch.arange(12), torch.arange(60, dtype=torch.float32).view(12, 5) + 100 * layer)
    before = cache._latents.clone()
    cache.copy_block(0, 2, num_tokens)
    assert torch.equal(cache._latents[:, 8 : 8 + num_tokens], before[:, :num_tokens])
    assert torch.equal(cache._latents[:, 8 + num_tokens :], before[:, 8 + num_tokens :])
    assert torch.equal(cache._latents[:, :8], before[:, :8])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_never_written_is_finite(dtype):
    layout = KvLayout(num_cache_layers=2, latent_dim=24, value_bytes=dtype.itemsize, num_blocks=5, block_size=16)
    cache = KvCache(layout, dtype, "cpu")
    assert cache.layer(1).dtype == dtype
    assert cache.layer(1).shape == (80, 24)
    assert not cache.layer(0).any()
