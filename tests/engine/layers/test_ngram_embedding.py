"""The input embedding against a loop, and tables in files against tables in memory."""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.oracle import plain_row_ids, tensors_of
from engine.playing import relative_error
from kodkod_engine.layers.mapped_rows import MappedRows, NgramRowCache
from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher
from kodkod_engine.models.checkpoint import Checkpoint
from kodkod_engine.models.ngram_spec import Combiner, polynomial_spec

VOCAB, HIDDEN = 40, 24


def windows_of(ids, spec):
    flat = torch.tensor([ABSENT] * spec.context_tokens + list(ids))
    return NgramHasher(spec).windows(flat, torch.arange(spec.context_tokens, len(flat)))


@pytest.mark.parametrize(("order_limit", "splits"), [(2, 1), (2, 3), (3, 2), (4, 4), (5, 2)])
@pytest.mark.parametrize("scales", [None, (1.0, 1 / 13)])
def test_equals_a_loop_in_float64(order_limit, splits, scales):
    tables = (order_limit - 1) * splits
    width = HIDDEN // tables
    spec = polynomial_spec(
        vocab_size=VOCAB,
        ratio=3.7,
        order_limit=order_limit,
        splits=splits,
        table_width=width,
        border_ids=frozenset({2}),
    )
    if scales:
        spec = replace(spec, combiner=Combiner(*scales))
    word_scale, ngram_scale = scales or (1 / (1 + tables), 1 / (1 + tables))
    embedding = NgramEmbedding(spec, VOCAB, HIDDEN)
    generator = torch.Generator().manual_seed(0)
    for parameter in embedding.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    ids = [5, 7, 2, 7, 7, 39, 0, 2, 2, 1, 30, 31, 32, 33]
    got = embedding(torch.tensor(ids), windows_of(ids, spec))
    sizes = list(zip(spec.orders, spec.moduli, strict=True))
    offsets = [sum(rows for _, rows in sizes[:index]) for index in range(tables)]
    for t, row_ids in enumerate(plain_row_ids(ids, sizes, vocab_size=VOCAB)):
        wanted = embedding.word[ids[t]].double() * word_scale
        for index, row in enumerate(row_ids):
            vector = embedding.resident.weight[offsets[index] + row].double()
            for place in range(width):
                wanted = wanted + embedding.projection.weight[:, index * width + place] * vector[place] * ngram_scale
        assert relative_error(got[t], wanted) < 1e-6


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16, torch.float16])
def stored(request, tmp_path_factory):
    """Tables of one dtype as a checkpoint, and the same resident."""
    spec = polynomial_spec(
        vocab_size=VOCAB, ratio=2.5, order_limit=4, splits=2, table_width=4, border_ids=frozenset({2})
    )
    embedding = NgramEmbedding(spec, VOCAB, HIDDEN).to(request.param)
    torch.nn.init.normal_(embedding.resident.weight, generator=torch.Generator().manual_seed(3))
    folder = tmp_path_factory.mktemp("tables")
    tables = {
        f"model.ngram_embeddings.embedders.{index}.weight": embedding.resident.table(index).clone()
        for index in range(spec.num_tables)
    }
    # A tensor of odd size in front, so that tables do not start at round addresses.
    save_file({"a": torch.zeros(3, dtype=request.param), **tables}, folder / "model.safetensors")
    return spec, embedding.resident, Checkpoint(folder)


@settings(max_examples=40, deadline=None)
@given(
    capacity=st.sampled_from([0, 1, 2, 7, 1000]),
    steps=st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 38, 39]), min_size=1, max_size=12), min_size=1, max_size=5),
)
def test_mapped_rows_equal_resident_rows_bit_for_bit(stored, capacity, steps):
    spec, resident, checkpoint = stored
    mapped, hasher = MappedRows(spec, checkpoint, capacity), NgramHasher(spec)
    for ids in steps:
        windows = windows_of(ids, spec)
        assert torch.equal(mapped.rows(windows, hasher), resident.rows(windows, hasher))
        assert len(mapped.cache) <= capacity


def test_one_look_up_per_order_and_token(stored):
    spec, _, checkpoint = stored
    mapped, hasher = MappedRows(spec, checkpoint), NgramHasher(spec)
    windows = windows_of([5, 6, 7, 8], spec)
    mapped.rows(windows, hasher)
    assert (mapped.cache.hits, mapped.cache.misses, len(mapped.cache)) == (0, 12, 12)
    mapped.rows(windows, hasher)
    assert (mapped.cache.hits, mapped.cache.misses) == (12, 12)


def test_the_disk_is_asked_for_exactly_the_rows_that_are_missing(stored, monkeypatch):
    spec, _, checkpoint = stored
    asked: list[bytes] = []
    monkeypatch.setattr(
        "kodkod_engine.layers.mapped_rows.os.posix_fadvise",
        lambda file, place, size, _advice: asked.append(os.pread(file, size, place)),
    )
    mapped, hasher = MappedRows(spec, checkpoint), NgramHasher(spec)
    windows = windows_of([5, 6, 7], spec)
    rows = mapped.rows(windows, hasher).unflatten(1, (spec.num_tables, -1)).contiguous()
    wanted = [
        rows[token, table].view(torch.uint8).numpy().tobytes() for table in range(spec.num_tables) for token in range(3)
    ]
    assert sorted(asked) == sorted(wanted)
    mapped.rows(windows, hasher)
    assert len(asked) == len(wanted)


def test_what_is_to_come_is_asked_for_in_advance(stored, monkeypatch):
    spec, resident, checkpoint = stored
    asked: list[tuple[str, bytes]] = []
    monkeypatch.setattr(
        "kodkod_engine.layers.read_ahead.os.posix_fadvise",
        lambda file, place, size, _advice: asked.append((threading.current_thread().name, os.pread(file, size, place))),
    )
    mapped, hasher = MappedRows(spec, checkpoint), NgramHasher(spec)
    windows = windows_of([5, 6, 7, 8, 9] * 300, spec)  # several pieces
    mapped.expect(windows)
    mapped.read_ahead.settle()
    assert all(thread.startswith("kodkod-rows") for thread, _ in asked)
    rows = resident.rows(windows, hasher).unflatten(1, (spec.num_tables, -1)).contiguous()
    wanted = {
        rows[token, table].view(torch.uint8).numpy().tobytes()
        for table in range(spec.num_tables)
        for token in range(len(rows))
    }
    assert {data for _, data in asked} == wanted
    assert len(asked) < len(windows)  # what comes twice in a piece is asked for once
    assert (mapped.cache.hits, mapped.cache.misses) == (0, 0)
    assert torch.equal(mapped.rows(windows, hasher), resident.rows(windows, hasher))


def test_files_are_closed_behind_what_was_expected(stored):
    spec, _, checkpoint = stored
    mapped = MappedRows(spec, checkpoint)
    files = {place.file for place in mapped.read_ahead.places}
    thread = mapped.read_ahead._thread
    mapped.expect(windows_of([5, 6, 7], spec))
    del mapped
    gc.collect()
    thread.shutdown()
    for file in files:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)


def test_an_n_gram_after_a_border_is_the_same_key_as_at_the_start(stored):
    spec, _, checkpoint = stored
    mapped, hasher = MappedRows(spec, checkpoint), NgramHasher(spec)
    mapped.rows(windows_of([5, 6], spec), hasher)
    misses = mapped.cache.misses
    mapped.rows(windows_of([30, 2, 5, 6], spec)[2:], hasher)
    assert mapped.cache.misses == misses


def test_a_cached_row_is_not_shared_with_the_caller(stored):
    spec, resident, checkpoint = stored
    mapped, hasher = MappedRows(spec, checkpoint), NgramHasher(spec)
    windows = windows_of([5, 6], spec)
    mapped.rows(windows, hasher).zero_()
    assert torch.equal(mapped.rows(windows, hasher), resident.rows(windows, hasher))


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 4), keys=st.lists(st.integers(0, 6), max_size=40))
def test_the_cache_drops_the_least_recently_used(capacity, keys):
    cache, model = NgramRowCache(capacity), OrderedDict()
    for key in keys:
        found = cache.get((key,))
        assert (found is not None) == (key in model)
        if found is not None:
            assert int(found) == key
            model.move_to_end(key)
            continue
        cache.put((key,), torch.tensor(key))
        model[key] = None
        if len(model) > capacity:
            model.popitem(last=False)
    assert len(cache) == len(model)
    assert cache.hits + cache.misses == len(keys)


def test_resident_tables_are_the_stored_ones(tiny, tiny_folder):
    tensors = tensors_of(tiny_folder)
    for index in range(12):
        stored_table = tensors[f"model.ngram_embeddings.embedders.{index}.weight"]
        assert torch.equal(tiny.model.embedding.resident.table(index), stored_table)
