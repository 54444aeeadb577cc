"""The packed linear map against its reference: every format, vector and plain groups, any number of rows."""

from __future__ import annotations

import pytest
import torch

from kodkod_engine.kernels import packed_linear as packed_linear_module
from kodkod_engine.kernels.fp8_dot import converts_halves
from kodkod_engine.kernels.packed_linear import packed_linear, reference
from kodkod_engine.kernels.packing import group_size_for, pack, pack_fp8

ROWS = [1, 2, 3, 4, 5, 8, 11, 64]


@pytest.mark.parametrize(
    ("inputs", "outputs", "bits"),
    [*((*size, bits) for size in [(3072, 5), (384, 33), (96, 17), (24, 1)] for bits in (4, 8)), (33, 5, 8)],
)
def test_equals_the_reference(inputs: int, outputs: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(inputs + bits)
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    codes, scales = pack(weight, bits, group_size_for(inputs))
    for rows in ROWS:
        x = torch.randn(rows, inputs, generator=generator) * torch.arange(1, rows + 1)[:, None]
        wanted = reference(x, codes, scales, bits)
        got = packed_linear(x, codes, scales, bits)
        bound = 2e-4 * x.square().mean(1, keepdim=True).sqrt()  # an eighth of what bf16 activations would cost
        assert bool(((got - wanted).abs() <= bound).all()), rows


@pytest.mark.parametrize(
    ("inputs", "outputs", "row_block"), [(384, 300, 128), (3072, 5, 128), (384, 48, 16), (96, 40, 8)]
)
def test_fp8_equals_the_reference(inputs: int, outputs: int, row_block: int) -> None:
    generator = torch.Generator().manual_seed(inputs + outputs)
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    codes, scales = pack_fp8(weight, row_block, group_size_for(inputs))
    for rows in ROWS:
        x = torch.randn(rows, inputs, generator=generator) * torch.arange(1, rows + 1)[:, None]
        wanted = reference(x, codes, scales, 8, row_block)
        got = packed_linear(x, codes, scales, 8, row_block)
        bound = 2e-4 * x.square().mean(1, keepdim=True).sqrt()
        assert bool(((got - wanted).abs() <= bound).all()), rows


@pytest.mark.parametrize("has_halves", [True, False])
def test_reads_every_e4m3_number(has_halves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every place of a group; with the processor's conversion and without it."""
    monkeypatch.setattr(packed_linear_module, "converts_halves", lambda: has_halves and converts_halves())
    numbers = torch.arange(256, dtype=torch.int16).to(torch.uint8)
    numbers = numbers[(numbers & 127) != 127]  # those two are NaN
    codes = numbers[:, None].repeat(1, 128).view(torch.float8_e4m3fn)
    scales = torch.full((2, 1), 0.5)
    for place in (0, 31, 32, 63, 64, 127):
        x = torch.zeros(1, 128)
        x[0, place] = 2.0
        torch.testing.assert_close(packed_linear(x, codes, scales, 8, 128), reference(x, codes, scales, 8, 128))


@pytest.mark.parametrize("bits", [4, 8])
def test_reads_every_code(bits: int) -> None:
    """All 256 bytes at every place of a group, against a one-hot row."""
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8)[:, None].repeat(1, 128 * bits // 8)
    codes = codes if bits == 4 else codes.view(torch.int8)
    scales = torch.full((256, 1), 0.5, dtype=torch.bfloat16)
    for place in (0, 31, 32, 63, 64, 127):
        x = torch.zeros(1, 128)
        x[0, place] = 2.0
        torch.testing.assert_close(packed_linear(x, codes, scales, bits), reference(x, codes, scales, bits))


def test_an_outlier_does_not_overflow() -> None:
    weight = torch.full((2, 3072), -1.0)
    codes, scales = pack(weight, 8, 128)
    x = torch.full((1, 3072), 1e30)
    torch.testing.assert_close(packed_linear(x, codes, scales, 8), torch.full((1, 2), -3072e30), rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), -float("nan")])
@pytest.mark.parametrize(("size", "place"), [(128, 7), (128, 127), (1536, 0), (1536, 1300)])
def test_what_is_not_finite_shows(value: float, size: int, place: int) -> None:
    codes, scales = pack(torch.ones(3, size), 4, 128)
    x = torch.ones(2, size)
    x[1, place] = value
    out = packed_linear(x, codes, scales, 4)
    assert bool(out[0].isfinite().all())
    assert bool(out[1].isnan().all())


def test_zero_rows_give_zeros() -> None:
    codes, scales = pack(torch.ones(3, 128), 4, 128)
    assert torch.equal(packed_linear(torch.zeros(1, 128), codes, scales, 4), torch.zeros(1, 3))
