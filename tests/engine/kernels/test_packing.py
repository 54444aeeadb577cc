"""Codes and scales: what is packed comes back to within its step, and the layout is the documented one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.kernels.packing import group_size_for, pack, unpack


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([4, 8]), st.sampled_from([2, 8, 32, 128]), st.integers(1, 3))
def test_errors_stay_below_a_step(seed: int, bits: int, group: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, group * groups, generator=generator) * 10 ** torch.randn(3, 1, generator=generator)
    codes, scales = pack(values, bits, group)
    steps = scales.float().repeat_interleave(group, dim=-1)
    errors = (unpack(codes, scales, bits) - values).abs()
    # A scale is rounded to bf16, so the outermost codes may lie that much beside. Values of the extreme's own sign have
    # a code on either side; the others lack the last one.
    slack = steps.abs() * ((1 << (bits - 1)) * 2**-8 + 1e-3)
    bound = torch.where(values * steps <= 0, 0.5, 1.0) * steps.abs()
    assert bool((errors <= bound + slack).all())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_extremes_of_a_group_use_the_lowest_code(bits: int) -> None:
    lowest = -(1 << (bits - 1))
    for sign in (1.0, -1.0):
        values = torch.full((1, 8), 0.25 * sign)
        values[0, 3] = sign * 2.0**bits
        codes, scales = pack(values, 8 if bits == 8 else 4, 8)
        assert float(unpack(codes, scales, bits)[0, 3]) == sign * 2.0**bits
        assert float(scales[0, 0]) == sign * 2.0**bits / lowest


def test_low_and_high_halves_of_a_byte() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, -8.0, 5.0, 6.0, 7.0, 0.0]])
    codes, scales = pack(values, 4, 8)
    assert float(scales[0, 0]) == 1.0
    assert codes.tolist() == [[1 | 5 << 4, 2 | 6 << 4, 3 | 7 << 4, 8]]
    assert torch.equal(unpack(codes, scales, 4), values)


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zeros(bits: int) -> None:
    assert torch.equal(unpack(*pack(torch.zeros(2, 64), bits, 32), bits), torch.zeros(2, 64))


@pytest.mark.parametrize(("inputs", "group"), [(3072, 128), (1536, 128), (192, 64), (96, 32), (24, 8), (6, 2)])
def test_group_sizes_divide_the_input(inputs: int, group: int) -> None:
    assert group_size_for(inputs) == group
