"""The norm in one call against its reference, also on rows that are part of a wider matrix."""

from __future__ import annotations

import pytest
import torch

from kodkod_engine.kernels.rms_norm import reference, rms_norm


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("size", [1, 96, 1000])
def test_equals_the_reference(rows: int, size: int) -> None:
    generator = torch.Generator().manual_seed(rows + size)
    x = torch.randn(rows, size + 7, generator=generator)[:, 3 : 3 + size]
    weight = torch.randn(size, generator=generator)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), reference(x, weight, 1e-5), rtol=1e-5, atol=1e-6)
