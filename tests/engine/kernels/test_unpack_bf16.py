"""Unpacking to bf16 is the reference to the last bit: every code and group size, odd shapes, scales that are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from kodkod_engine.kernels.packing import pack, pack_fp8
from kodkod_engine.kernels.unpack_bf16 import narrow, reference, unpack_bf16


def unpacked(codes: torch.Tensor, scales: torch.Tensor, bits: int, row_block: int = 1) -> torch.Tensor:
    out = torch.full((codes.shape[0], codes.shape[1] * 8 // bits), math.nan, dtype=torch.bfloat16)
    unpack_bf16(codes, scales, bits, row_block, out)
    return out


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a[~a.isnan()], b[~b.isnan()])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([4, 8]),
    st.sampled_from([2, 6, 32, 128]),
    st.integers(1, 3),
    st.integers(1, 70),
)
def test_integers(seed: int, bits: int, group: int, groups: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, group * groups, generator=generator) * 10 ** torch.randn(rows, 1, generator=generator)
    codes, scales = pack(values, bits, group)
    assert torch.equal(unpacked(codes, scales, bits), reference(codes, scales, bits))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 8, 128]), st.sampled_from([2, 32, 128]), st.integers(1, 300))
def test_fp8(seed: int, row_block: int, group: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, 2 * group, generator=generator) * 10 ** torch.randn(rows, 1, generator=generator)
    codes, scales = pack_fp8(values, row_block, group)
    assert torch.equal(unpacked(codes, scales, 8, row_block), reference(codes, scales, 8, row_block))


def test_every_code() -> None:
    codes = torch.arange(256, dtype=torch.uint8)[None]
    for factor in (1.0, 0.3, -7e-5, 313.8, 1e30, 1e-33):
        scale = torch.full((1, 1), factor)
        for kind, bits, scales in (
            (torch.uint8, 4, scale.bfloat16()),
            (torch.int8, 8, scale.bfloat16()),
            (torch.float8_e4m3fn, 8, scale),
        ):
            own = codes.view(kind)
            assert torch.equal(unpacked(own, scales, bits), reference(own, scales, bits))


@pytest.mark.parametrize("scale", [math.inf, -math.inf, math.nan, 0.0, 3.3e38, 1e-40])
def test_scales_at_the_ends(scale: float) -> None:
    codes, scales = pack(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), 8, 32)
    scales = torch.full_like(scales, scale)
    assert same_bits(unpacked(codes, scales, 8), reference(codes, scales, 8))


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    kernel = njit(lambda value: narrow(value))  # numba compiles functions of its own, no intrinsics
    ties = [1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 3.3961e38, 1e-45, -0.0, 65280.5, math.inf, -math.inf, math.nan]
    random = torch.randn(2000, generator=torch.Generator().manual_seed(3)) * 1e3
    values = torch.cat([torch.tensor(ties), random])
    found = torch.from_numpy(np.array([kernel(value) for value in values.numpy()], np.uint16)).view(torch.bfloat16)
    assert same_bits(found, values.bfloat16())
