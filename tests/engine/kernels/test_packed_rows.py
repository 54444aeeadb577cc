"""Packed matrices with some dozen rows against the reference: any number of rows, threads with uneven shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.playing import relative_error
from kodkod_engine.kernels import packed_rows as module
from kodkod_engine.kernels.bf16_tiles import has_tile_products
from kodkod_engine.kernels.group_numbers import has_byte_lookup
from kodkod_engine.kernels.packed_linear import packed_arrays
from kodkod_engine.kernels.packed_rows import packed_rows, reference, takes_packed_rows
from kodkod_engine.kernels.packing import pack, pack_fp8, unpack, unpack_fp8

pytestmark = pytest.mark.skipif(
    not (has_tile_products() and has_byte_lookup()), reason="needs AVX-512 BF16 and VBMI, without AMX"
)


def drawn(kind: str, rows: int, out: int, size: int, seed: int = 0):
    """Activations, a packed matrix, and what it stands for."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, size, generator=generator), torch.randn(out, size, generator=generator) / size**0.5
    if kind == "fp8":
        codes, scales = pack_fp8(weight, 128, 128)
        return x, packed_arrays(codes, scales, 8, 128), unpack_fp8(codes, scales, 128)
    bits = int(kind[-1])
    codes, scales = pack(weight, bits, 128)
    return x, packed_arrays(codes, scales, bits), unpack(codes, scales, bits)


@pytest.mark.parametrize("kind", ["int4", "int8", "fp8"])
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 40),
    out=st.sampled_from([16, 48, 272]),
    size=st.sampled_from([128, 384, 1024]),
    seed=st.integers(0, 99),
)
def test_equals_the_reference(kind, rows, out, size, seed):
    x, arrays, plain = drawn(kind, rows, out, size, seed)
    assert takes_packed_rows(arrays, plain.shape)
    got = packed_rows(x, arrays, out)
    assert (got.dtype, got.shape) == (torch.float32, (rows, out))
    assert relative_error(got, reference(x, plain).double()) < 1e-5


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_output_has_one_owner_whatever_the_threads(monkeypatch, threads):
    x, arrays, plain = drawn("int4", 9, 48, 256)
    monkeypatch.setattr(module, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert relative_error(packed_rows(x, arrays, 48), reference(x, plain).double()) < 1e-5


def test_a_row_is_the_same_in_any_company():
    x, arrays, _ = drawn("fp8", 15, 64, 256)
    together = packed_rows(x, arrays, 64)
    for row in range(len(x)):
        assert torch.equal(packed_rows(x[row : row + 1], arrays, 64)[0], together[row])


def test_it_answers_in_the_dtype_it_was_asked_in():
    x, arrays, _ = drawn("int8", 7, 64, 256)
    assert packed_rows(x.bfloat16(), arrays, 64).dtype == torch.bfloat16


def test_what_does_not_fit_is_refused(monkeypatch):
    _, arrays, plain = drawn("int8", 2, 24, 256)
    assert not takes_packed_rows(arrays, plain.shape)
    _, arrays, plain = drawn("int8", 2, 32, 256)
    assert takes_packed_rows(arrays, plain.shape)
    monkeypatch.setattr(module, "has_tile_products", lambda: False)
    assert not takes_packed_rows(arrays, plain.shape)
