"""Packed sets of ids, against plain sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodkod_engine.constraints.token_mask import TokenMask, forced_id, packed_rows

VOCAB = 77
id_sets = st.frozensets(st.integers(0, VOCAB - 1))


@given(id_sets)
def test_a_mask_is_the_set_of_its_ids(ids):
    mask = TokenMask.of(ids, VOCAB)
    assert mask == ids
    assert ids == mask
    assert (len(mask), list(mask)) == (len(ids), sorted(ids))
    assert [number for number in range(-2, 200) if number in mask] == sorted(ids)
    assert mask.max_id == max(ids, default=-1)
    assert mask == TokenMask.from_bits(mask.bits()[:VOCAB])
    assert "x" not in mask


@given(id_sets, id_sets, st.integers(0, VOCAB - 1))
def test_masks_can_be_added_to_and_taken_from(ids, others, one):
    mask, other = TokenMask.of(ids, VOCAB), TokenMask.of(others, VOCAB)
    assert mask.without(other) == ids - others
    assert mask.with_id(one) == ids | {one}
    assert mask == ids, "it stays what it was"
    with pytest.raises(ValueError, match="read-only"):
        mask.words[0] = 0


@given(st.lists(st.one_of(st.none(), id_sets, id_sets.map(lambda ids: TokenMask.of(ids, VOCAB))), min_size=1))
def test_rows_are_packed_under_each_other(rows):
    for vocab_size in (VOCAB, VOCAB + 60):
        words = packed_rows(rows, vocab_size)
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :vocab_size]
        for packed, allowed in zip(bits, rows, strict=True):
            everything = range(vocab_size) if allowed is None else allowed
            assert set(np.flatnonzero(packed)) == set(everything)


def test_an_id_beyond_the_vocabulary_is_refused():
    with pytest.raises(IndexError):
        TokenMask.of([96], 96)


def test_one_id_alone_is_forced():
    for one in ({5}, [5], TokenMask.of([5], VOCAB)):
        assert forced_id(one) == 5
    for other in (None, (), {1, 2}, TokenMask.of([1, 2], VOCAB), TokenMask.of([], VOCAB)):
        assert forced_id(other) is None
