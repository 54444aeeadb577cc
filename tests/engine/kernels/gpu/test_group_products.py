"""Packed weights on the tensor cores, a warp a group: as the plain map with the values that the codes stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision

pytest.importorskip("triton")

# Halves, for the interpreter cuts bf16 off where a device rounds it.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PACKED = [Precision.FP8, Precision.INT8, Precision.INT4]


def _randn(*shape: int, seed: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def _packed(precision: Precision, *shape: int, part_rows: int = 0, seed: int = 1) -> PackedMatrix:
    matrix = PackedParameter(shape, precision, part_rows).to(DEVICE).matrix
    matrix.copy_(_randn(*shape, seed=seed).float() / shape[-1] ** 0.5)
    return matrix


def _compare(
    kernel: Callable[..., torch.Tensor], precision: Precision, tokens: int, size: int, outputs: int, is_pair: bool
) -> None:
    from kodkod_engine.kernels.gpu.around import Around
    from kodkod_engine.kernels.gpu.thin_linear import reference

    weight = _packed(precision, 2 * outputs, size, part_rows=outputs)
    x = _randn(tokens, size + 8, seed=2)[:, :size]
    options: dict[str, Any] = {"is_pair": True, "norm": _randn(size, seed=3), "eps": 1e-5} if is_pair else {}
    if not is_pair:
        options = {name: _randn(tokens, 2 * outputs, seed=seed) for name, seed in (("residual", 4), ("also", 5))}
    wide = {name: value.float() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    got = kernel(x, weight, Around(**options)).float()
    wanted = reference(x.float(), weight.unpacked(), **wide)
    assert (got - wanted).norm() <= 1e-3 * wanted.norm()


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize(("tokens", "size", "outputs"), [(3, 64, 40), (4, 384, 128), (7, 1536, 16), (32, 192, 36)])
@pytest.mark.parametrize("is_pair", [False, True])
def test_few_packed(precision: Precision, tokens: int, size: int, outputs: int, is_pair: bool) -> None:
    from kodkod_engine.kernels.gpu.few_packed import few_packed

    _compare(few_packed, precision, tokens, size, outputs, is_pair)


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-4, 3e4])
def test_tokens_of_any_size(precision: Precision, scale: float) -> None:
    """A token is scaled before it is multiplied, so none is too small or too large; zeros stay zeros."""
    from kodkod_engine.kernels.gpu.around import Around
    from kodkod_engine.kernels.gpu.few_packed import few_packed

    weight, x = _packed(precision, 32, 256), _randn(1, 256, seed=2, dtype=torch.float32)
    small, large = (few_packed((x * size).bfloat16(), weight, Around()).float() for size in (1.0, scale))
    assert (large - small * scale).norm() <= 0.01 * small.norm() * scale


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("trouble", [float("inf"), float("nan")])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_a_number_stays_none(precision: Precision, trouble: float) -> None:
    from kodkod_engine.kernels.gpu.around import Around
    from kodkod_engine.kernels.gpu.few_packed import few_packed

    x = _randn(1, 256, seed=2)
    x[0, 7] = trouble
    assert not few_packed(x, _packed(precision, 32, 256), Around()).isfinite().any()
