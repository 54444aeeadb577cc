"""Codes and scales: what is packed comes back to within its step, and the layout is the documented one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.kernels.packing import group_size_for, pack, pack_fp8, refine, unpack, unpack_fp8, widen_fp8


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 8, 128]), st.sampled_from([2, 32, 128]), st.integers(1, 300))
def test_fp8_errors_stay_below_half_a_step(seed: int, row_block: int, group: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, rows, 2 * group, generator=generator) * 10 ** torch.randn(2, 1, 1, generator=generator)
    codes, scales = pack_fp8(values, row_block, group)
    assert scales.shape == (2, -(-rows // row_block), 2)
    spread = scales.repeat_interleave(row_block, 1)[:, :rows].repeat_interleave(group, 2)
    # Three bits behind the point, and 2 ** -9 as the smallest number.
    bound = torch.maximum(values.abs() * 2**-4, spread * 2**-10) * (1 + 1e-5)
    assert bool(((unpack_fp8(codes, scales, row_block) - values).abs() <= bound).all())


def test_fp8_uses_the_largest_code_and_keeps_zeros() -> None:
    values = torch.zeros(130, 8)
    values[3, 1] = -7.0
    codes, scales = pack_fp8(values, 128, 8)
    assert float(codes[3, 1]) == -448.0
    assert torch.equal(unpack_fp8(codes, scales, 128), values)


@pytest.mark.parametrize(("rows", "inputs", "row_block"), [(200, 192, 8), (64, 96, 64), (256, 256, 128)])
def test_published_scales_are_the_same_in_smaller_blocks(rows: int, inputs: int, row_block: int) -> None:
    published = torch.rand(-(-rows // 128), -(-inputs // 128))
    group = group_size_for(inputs)
    finer = refine(published, (rows, inputs), row_block, group)
    for row in range(rows):
        for column in range(inputs):
            assert finer[row // row_block, column // group] == published[row // 128, column // 128]


def test_every_e4m3_number_is_widened() -> None:
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8)
    codes = codes[(codes & 127) != 127].view(torch.float8_e4m3fn)
    assert torch.equal(widen_fp8(codes), codes.float())
