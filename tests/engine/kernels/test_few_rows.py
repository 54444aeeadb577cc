"""Matrices with few rows and some dozen against the reference: any number, threads with uneven shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from engine.playing import relative_error
from kodkod_engine.kernels import few_rows as module
from kodkod_engine.kernels.bf16 import bits_of
from kodkod_engine.kernels.few_rows import few_rows, multiply, reference, takes_few_rows
from kodkod_engine.kernels.group_numbers import has_byte_lookup
from kodkod_engine.kernels.packed_linear import packed_arrays
from kodkod_engine.kernels.packing import pack, pack_fp8, unpack, unpack_fp8
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.layers.packed import PackedParameter, Precision

pytestmark = pytest.mark.skipif(
    not (has_tile_products() and has_byte_lookup()), reason="needs AVX-512 BF16 and VBMI, without AMX"
)


def drawn(kind: str, rows: int, out: int, size: int, seed: int = 0):
    """Activations, a packed matrix, and what it stands for."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, size, generator=generator), torch.randn(out, size, generator=generator) / size**0.5
    if kind == "bf16":
        plain = weight.bfloat16()
        return x, bits_of(plain), plain.float()
    if kind == "fp8":
        codes, scales = pack_fp8(weight, 128, 128)
        return x, packed_arrays(codes, scales, 8, 128), unpack_fp8(codes, scales, 128)
    bits = int(kind[-1])
    codes, scales = pack(weight, bits, 128)
    return x, packed_arrays(codes, scales, bits), unpack(codes, scales, bits)


KINDS = ["int4", "int8", "fp8", "bf16"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 40),
    out=st.sampled_from([3, 16, 24, 48, 272]),
    size=st.sampled_from([128, 384, 1024]),
    seed=st.integers(0, 99),
)
def test_equals_the_reference(kind, rows, out, size, seed):
    x, arrays, plain = drawn(kind, rows, out, size, seed)
    got = few_rows(x, arrays, out)
    assert (got.dtype, got.shape) == (torch.float32, (rows, out))
    assert relative_error(got, reference(x, plain).double()) < 1e-5


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_output_has_one_owner_whatever_the_threads(monkeypatch, threads):
    x, arrays, plain = drawn("int4", 9, 48, 256)
    monkeypatch.setattr(module, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert relative_error(few_rows(x, arrays, 48), reference(x, plain).double()) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6, 7, 15])
def test_a_row_is_the_same_in_any_company(kind, rows):
    """So that a verified draft is computed as it would have been alone."""
    x, arrays, _ = drawn(kind, rows, 70, 256)
    together = few_rows(x, arrays, 70)
    for row in range(len(x)):
        assert torch.equal(few_rows(x[row : row + 1], arrays, 70)[0], together[row])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_in_its_row(kind):
    x, arrays, _ = drawn(kind, 5, 48, 256)
    clean = few_rows(x, arrays, 48)
    x[3, 5] = float("nan")
    out = few_rows(x, arrays, 48)
    assert out[3].isnan().all()
    rest = [0, 1, 2, 4]
    assert torch.equal(out[rest], clean[rest])


def test_it_answers_in_the_dtype_it_was_asked_in():
    x, arrays, _ = drawn("int8", 7, 64, 256)
    assert few_rows(x.bfloat16(), arrays, 64).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_inside_a_kernel_it_is_the_same(kind):
    x, arrays, _ = drawn(kind, 3, 48, 256)
    out = torch.empty(3, 48)

    @njit
    def kernel(weight, x, out):
        multiply(weight, x, out, 2)

    kernel(arrays, x.numpy(), out.numpy())
    assert torch.equal(out, few_rows(x, arrays, 48))


def test_what_does_not_fit_is_refused(monkeypatch):
    matrix, other_groups = (
        PackedParameter((32, 256), Precision.INT8).matrix,
        PackedParameter((32, 64), Precision.INT8).matrix,
    )
    arrays, others = (packed_arrays(home.codes, home.scales, home.bits) for home in (matrix, other_groups))
    assert takes_few_rows(arrays)
    assert not takes_few_rows(others)
    assert takes_few_rows(bits_of(torch.zeros(4096, 256).bfloat16()))
    assert not takes_few_rows(bits_of(torch.zeros(8192, 192).bfloat16()))
    assert not takes_few_rows(bits_of(torch.zeros(4095, 256).bfloat16())), "a small one keeps fp32"
    monkeypatch.setattr(module, "has_tile_products", lambda: False)
    assert not takes_few_rows(arrays)
