"""Three bf16 parts against fp32 itself."""

from __future__ import annotations

import torch

from kodkod_engine.layers.split_product import split, split_product


def test_parts_sum_to_the_number() -> None:
    weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(-6, 4).repeat(4)
    whole = sum(part.double() for part in split(weight))
    assert torch.all((whole - weight.double()).abs() <= 2.0**-23 * weight.double().abs())


def test_as_exact_as_fp32() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(130, 300, generator=generator).bfloat16(), torch.randn(24, 300, generator=generator)
    wanted = x.double() @ weight.double().t()
    in_fp32 = (x.float() @ weight.t()).double()
    error, usual = (split_product(x, weight) - wanted).abs().max(), (in_fp32 - wanted).abs().max()
    assert error <= 4 * usual
    assert (x.float() @ weight.bfloat16().float().t() - wanted).abs().max() > 100 * error
