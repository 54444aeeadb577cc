"""Tokens in tiles against the reference: full and half-full tiles, threads with uneven shares, every kind of weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.playing import relative_error
from kodkod_engine.kernels.packed_linear import packed_arrays
from kodkod_engine.kernels.packing import pack, pack_fp8, unpack, unpack_fp8
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.kernels.tiled_linear import reference, takes_tiled_linear, tiled_linear

pytestmark = pytest.mark.skipif(not has_tile_products(), reason="needs AVX-512 BF16 without AMX")


def drawn(tokens: int, out: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, size, generator=generator), torch.randn(out, size, generator=generator) / size**0.5


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 70),
    out=st.sampled_from([8, 16, 24, 72, 200]),
    size=st.sampled_from([32, 96, 288, 4096]),
    seed=st.integers(0, 99),
)
def test_equals_the_reference(tokens, out, size, seed):
    x, weight = drawn(tokens, out, size, seed)
    weight = weight.bfloat16()
    got = tiled_linear(x, weight, out)
    assert (got.dtype, got.shape) == (torch.float32, (tokens, out))
    assert relative_error(got, reference(x, weight).double()) < 1e-5


@pytest.mark.parametrize("kind", ["int4", "int8", "fp8", "int4 in groups of 32"])
@pytest.mark.parametrize("tokens", [1, 16, 17, 48, 65])
def test_a_packed_weight_is_what_it_is_unpacked_to(kind, tokens):
    x, weight = drawn(tokens, 264, 768, seed=tokens)
    if kind == "fp8":
        codes, scales = pack_fp8(weight, 128, 128)
        plain, arrays = unpack_fp8(codes, scales, 128), packed_arrays(codes, scales, 8, 128)
    else:
        bits, group = (8 if kind == "int8" else 4), (32 if kind.endswith("32") else 128)
        codes, scales = pack(weight, bits, group)
        plain, arrays = unpack(codes, scales, bits), packed_arrays(codes, scales, bits, 1)
    got = tiled_linear(x, arrays, 264)
    assert relative_error(got, reference(x, plain.bfloat16()).double()) < 1e-5


def test_a_row_is_the_same_in_any_company():
    x, weight = drawn(40, 64, 256)
    together = tiled_linear(x, weight.bfloat16(), 64)
    for row in (0, 15, 16, 39):
        assert torch.equal(tiled_linear(x[row : row + 1], weight.bfloat16(), 64)[0], together[row])


def test_it_answers_in_the_dtype_it_was_asked_in():
    x, weight = drawn(20, 64, 256)
    assert tiled_linear(x.bfloat16(), weight.bfloat16(), 64).dtype == torch.bfloat16


def test_sizes_that_do_not_fit_are_refused():
    assert takes_tiled_linear((8, 32))
    assert not takes_tiled_linear((12, 32))
    assert not takes_tiled_linear((8, 48))
