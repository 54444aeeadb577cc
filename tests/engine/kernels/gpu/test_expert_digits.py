"""Packed experts by four-way integer products and by halves: as the reference with the values their codes stand for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision

pytest.importorskip("triton")

# Halves, for the interpreter cuts bf16 off where a device rounds it.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PACKED = [Precision.FP8, Precision.INT8, Precision.INT4]
REAL, TOKENS, K = 5, 2, 4


def _randn(*shape: int, seed: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def _packed(precision: Precision, *shape: int, part_rows: int = 0, seed: int = 1) -> PackedMatrix:
    matrix = PackedParameter(shape, precision, part_rows).to(DEVICE).matrix
    matrix.copy_(_randn(*shape, seed=seed).float() / shape[-1] ** 0.5)
    return matrix


class _Case:
    """Two tokens, and four of five real and three identity experts for each."""

    def __init__(self, precision: Precision, hidden: int, width: int) -> None:
        order = [torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:K] for seed in range(TOKENS)]
        self.x, self.residual = _randn(TOKENS, hidden, seed=3), _randn(TOKENS, hidden, seed=4)
        self.gate_up = _packed(precision, REAL, 2 * width, hidden, part_rows=width, seed=1)
        self.down = _packed(precision, REAL, hidden, width, seed=2)
        self.chosen = torch.stack(order).int().to(DEVICE)
        weights = torch.rand(TOKENS, K, generator=torch.Generator().manual_seed(5)).to(DEVICE)
        self.weights = weights.masked_fill(self.chosen >= REAL, 0)
        self.identity = (weights * (self.chosen >= REAL)).sum(dim=1)
        self.inner = _randn(TOKENS * K, width, seed=6).fill_(float("nan"))

    def start(self, way: Callable[..., torch.Tensor]) -> None:
        way(self.x, self.gate_up, self.chosen, self.weights, self.inner)

    def finish(self, way: Callable[..., torch.Tensor]) -> torch.Tensor:
        given = (self.x, self.residual, self.down, self.chosen, self.identity, self.inner)
        return way(*given, torch.empty_like(self.residual)).float()

    def wanted(self) -> torch.Tensor:
        from kodkod_engine.kernels.gpu.expert_decode import reference

        experts = self.gate_up.unpacked(), self.down.unpacked()
        return reference(self.x, self.residual, *experts, self.chosen, self.weights, self.identity).float()


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize(("hidden", "width"), [(64, 32), (32, 160)])
def test_experts_by_digits(precision: Precision, hidden: int, width: int) -> None:
    """Whatever identity experts leave in what the two kernels share."""
    from kodkod_engine.kernels.gpu.expert_decode import ways_to_finish, ways_to_start
    from kodkod_engine.kernels.gpu.expert_digits import FINISH_BY_DIGITS, START_BY_DIGITS

    case = _Case(precision, hidden, width)
    assert set(START_BY_DIGITS) < set(ways_to_start(case.x, case.gate_up))
    assert set(FINISH_BY_DIGITS) < set(ways_to_finish(case.x, case.down))
    wanted = case.wanted()
    for start, finish in zip(START_BY_DIGITS, FINISH_BY_DIGITS, strict=True):
        case.start(start)
        assert (case.finish(finish) - wanted).norm() <= 1e-3 * wanted.norm()
    unread = (case.chosen >= REAL).flatten()
    assert case.inner[unread].isnan().all()


@pytest.mark.parametrize("precision", PACKED)
def test_of_identity_experts_nothing_is_read(precision: Precision) -> None:
    from kodkod_engine.kernels.gpu.expert_digits import FINISH_BY_DIGITS, START_BY_DIGITS

    case = _Case(precision, 32, 32)
    case.chosen.fill_(REAL + 1)
    for experts in (case.gate_up, case.down):
        experts.scales.fill_(float("nan"))
    for start, finish in zip(START_BY_DIGITS, FINISH_BY_DIGITS, strict=True):
        case.start(start)
        wanted = case.residual.float() + case.identity[:, None] * case.x.float()
        torch.testing.assert_close(case.finish(finish), wanted.half().float())


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("trouble", [float("inf"), float("nan")])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_what_is_not_a_number_stays_none_for_its_token_alone(precision: Precision, trouble: float) -> None:
    from kodkod_engine.kernels.gpu.expert_digits import FINISH_BY_DIGITS, START_BY_DIGITS

    case = _Case(precision, 32, 32)
    case.x[1, 7] = trouble
    case.start(START_BY_DIGITS[0])
    is_number = case.finish(FINISH_BY_DIGITS[1]).isfinite()
    assert is_number[0].all()
    assert not is_number[1].any()


@pytest.mark.parametrize(
    ("precision", "scale"),
    [
        (Precision.FP8, 3e4),
        (Precision.FP8, 0.0),
        (Precision.INT8, 3e4),
        (Precision.INT8, 1e-4),
        (Precision.INT4, 3e4),
        (Precision.INT4, 0.0),
    ],
)
def test_experts_of_tokens_of_any_size(precision: Precision, scale: float) -> None:
    """A token's inner values are scaled before they are multiplied; zeros stay zeros."""
    from kodkod_engine.kernels.gpu.expert_digits import FINISH_BY_DIGITS

    case = _Case(precision, 32, 32)
    values, case.identity[:] = _randn(*case.inner.shape, seed=6, dtype=torch.float32), 0
    case.x, case.residual = case.x.bfloat16(), torch.zeros_like(case.residual).bfloat16()
    results = []
    for size in (1.0, scale):
        case.inner = (values * size).bfloat16()
        results.append(case.finish(FINISH_BY_DIGITS[0]))
    small, large = results
    assert (large - small * scale).norm() <= 0.01 * small.norm() * scale


def test_digits_are_for_short_tokens_and_packed_experts() -> None:
    from kodkod_engine.kernels.gpu.expert_decode import ways_to_finish, ways_to_start

    token = _randn(1, 96, seed=1)
    for x, experts in (
        (token.float(), _packed(Precision.INT8, 2, 64, 96)),
        (token.float(), _packed(Precision.FP8, 2, 64, 96)),
        (token[:, :24], _packed(Precision.FP8, 2, 64, 24)),  # groups of 8, half a part
        (token, _randn(2, 64, 96, seed=2)),
    ):
        assert (len(ways_to_start(x, experts)), len(ways_to_finish(x, experts))) == (1, 1)
