"""The kernels on packed weights, read as they lie: FP8 blocks, 8 and 4 bit groups, ends of rows that fill no tile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PACKED = [Precision.FP8, Precision.INT8, Precision.INT4]


def _randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _packed(precision: Precision, *shape: int, part_rows: int = 0, seed: int = 1) -> PackedMatrix:
    matrix = PackedParameter(shape, precision, part_rows).to(DEVICE).matrix
    matrix.copy_(_randn(*shape, seed=seed) / shape[-1] ** 0.5)
    return matrix


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize(("tokens", "size", "outputs"), [(1, 96, 40), (2, 384, 128), (3, 1536, 16), (20, 256, 36)])
@pytest.mark.parametrize("is_pair", [False, True])
def test_packed_linear(precision: Precision, tokens: int, size: int, outputs: int, is_pair: bool) -> None:
    """As the plain map with the values that the codes stand for; twenty tokens go through the tensor cores' kernel."""
    from kodkod_engine.kernels.gpu.thin_linear import reference, thin_linear

    weight = _packed(precision, 2 * outputs, size, part_rows=outputs)
    x = _randn(tokens, size + 8, seed=2)[:, :size]
    options: dict[str, Any] = {"is_pair": True, "norm": _randn(size, seed=3), "eps": 1e-5} if is_pair else {}
    if not is_pair:
        options = {name: _randn(tokens, 2 * outputs, seed=seed) for name, seed in (("residual", 4), ("also", 5))}
    got, wanted = thin_linear(x, weight, **options), reference(x, weight.unpacked(), **options)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PACKED)
def test_packed_tiles_say_what_their_reference_says(precision: Precision) -> None:
    from kodkod_engine.kernels.gpu.around import Around
    from kodkod_engine.kernels.gpu.packed_tiles import fits_tiles, packed_tiles
    from kodkod_engine.kernels.gpu.thin_linear import reference

    weight, x = _packed(precision, 20, 128), _randn(5, 128, seed=2)
    assert fits_tiles(weight)
    assert not fits_tiles(_packed(precision, 20, 24))
    torch.testing.assert_close(packed_tiles(x, weight, Around()), reference(x, weight.unpacked()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PACKED)
def test_packed_experts(precision: Precision) -> None:
    from kodkod_engine.kernels.gpu.expert_decode import expert_decode, reference

    gate_up, down = _packed(precision, 5, 48, 48, part_rows=24, seed=1), _packed(precision, 5, 48, 24, seed=2)
    order = [torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:4] for seed in range(3)]
    x, residual, chosen = _randn(3, 48, seed=3), _randn(3, 48, seed=4), torch.stack(order).int().to(DEVICE)
    weights = torch.rand(3, 4, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    identity = (weights * (chosen >= 5)).sum(dim=1)
    rest = (chosen, weights.masked_fill(chosen >= 5, 0), identity)
    inner = torch.full((12, 24), float("nan"), device=DEVICE)
    got = expert_decode(x, residual, gate_up, down, *rest, inner, torch.empty_like(x))
    wanted = reference(x, residual, gate_up.unpacked(), down.unpacked(), *rest)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
