"""Packed weights by products of integers, on the tensor cores and four at a time: as the plain map with the values that
the codes stand for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision

pytest.importorskip("triton")

# Halves, for the interpreter cuts bf16 off where a device rounds it.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PACKED = [Precision.FP8, Precision.INT8, Precision.INT4]
KERNELS = [("few_packed", Precision.FP8), *product(("few_packed", "by_digits"), (Precision.INT8, Precision.INT4))]


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
@pytest.mark.parametrize(("tokens", "size", "outputs"), [(2, 96, 40), (9, 1024, 6)])
@pytest.mark.parametrize("is_pair", [False, True])
def test_walks(precision: Precision, tokens: int, size: int, outputs: int, is_pair: bool) -> None:
    from kodkod_engine.kernels.gpu.few_walks import WALKS

    for way in WALKS:
        _compare(way, precision, tokens, size, outputs, is_pair)


@pytest.mark.parametrize("precision", PACKED[1:])
@pytest.mark.parametrize(("size", "outputs"), [(96, 40), (160, 6), (384, 128), (1536, 16), (2048, 36)])
@pytest.mark.parametrize("is_pair", [False, True])
def test_a_token_by_digits(precision: Precision, size: int, outputs: int, is_pair: bool) -> None:
    from kodkod_engine.kernels.gpu.thin_digits import BY_DIGITS

    for way in BY_DIGITS:
        _compare(way, precision, 1, size, outputs, is_pair)


@pytest.mark.parametrize("precision", PACKED[1:])
@pytest.mark.parametrize(("tokens", "size", "outputs"), [(2, 1536, 16), (3, 160, 6), (4, 384, 40)])
@pytest.mark.parametrize("is_pair", [False, True])
def test_some_tokens_by_digits(precision: Precision, tokens: int, size: int, outputs: int, is_pair: bool) -> None:
    from kodkod_engine.kernels.gpu.few_digits import few_digits

    _compare(few_digits, precision, tokens, size, outputs, is_pair)


@pytest.mark.parametrize("tokens", [1, 2, 4, 5])
def test_digits_are_for_up_to_four_short_tokens_and_integers(tokens: int) -> None:
    from kodkod_engine.kernels.gpu.few_digits import few_digits
    from kodkod_engine.kernels.gpu.thin_digits import BY_DIGITS
    from kodkod_engine.kernels.gpu.thin_linear import ways_of

    def ways(weight: PackedMatrix | torch.Tensor, dtype: torch.dtype = torch.float16) -> set[object]:
        return {*BY_DIGITS, few_digits}.intersection(
            ways_of(_randn(tokens, weight.shape[-1], seed=2, dtype=dtype), weight)
        )

    wanted: set[object] = set(BY_DIGITS) if tokens == 1 else {few_digits} if tokens < 5 else set()
    for precision in PACKED:
        weight = _packed(precision, 32, 256)
        assert ways(weight) == (set() if precision is Precision.FP8 else wanted)
        assert not ways(weight, torch.float32)
    assert not ways(_packed(Precision.INT4, 32, 272))  # groups of 16, 8 bytes
    assert not ways(_randn(32, 256, seed=1))


def _kernel(name: str) -> Callable[..., torch.Tensor]:
    from kodkod_engine.kernels.gpu.few_packed import few_packed
    from kodkod_engine.kernels.gpu.thin_digits import BY_DIGITS

    return few_packed if name == "few_packed" else BY_DIGITS[0]


@pytest.mark.parametrize(("kernel", "precision"), KERNELS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-4, 3e4])
def test_tokens_of_any_size(kernel: str, precision: Precision, scale: float) -> None:
    """A token is scaled before it is multiplied, so none is too small or too large; zeros stay zeros."""
    from kodkod_engine.kernels.gpu.around import Around

    weight, x = _packed(precision, 32, 256), _randn(1, 256, seed=2, dtype=torch.float32)
    small, large = (_kernel(kernel)((x * size).bfloat16(), weight, Around()).float() for size in (1.0, scale))
    assert (large - small * scale).norm() <= 0.01 * small.norm() * scale


@pytest.mark.parametrize(("kernel", "precision"), KERNELS)
@pytest.mark.parametrize("trouble", [float("inf"), float("nan")])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_a_number_stays_none(kernel: str, precision: Precision, trouble: float) -> None:
    from kodkod_engine.kernels.gpu.around import Around

    x = _randn(1, 256, seed=2)
    x[0, 7] = trouble
    assert not _kernel(kernel)(x, _packed(precision, 32, 256), Around()).isfinite().any()
