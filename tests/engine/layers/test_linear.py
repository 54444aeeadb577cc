"""Every road of the linear map leads to F.linear's result."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.playing import relative_error
from kodkod_engine.kernels import few_rows as few_rows_module
from kodkod_engine.kernels.group_numbers import has_byte_lookup
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.layers import linear as linear_module
from kodkod_engine.layers.feed_forward import FeedForward, swiglu
from kodkod_engine.layers.linear import (
    MAX_PACKED_ROWS_BESIDE_TILES,
    MAX_ROWS_IN_REGISTERS,
    MAX_THIN_ROWS,
    MAX_THIN_ROWS_BESIDE_BF16,
    MAX_THIN_ROWS_BESIDE_TILES,
    MAX_TILED_ROWS,
    TILE_ROWS,
    Linear,
    linear,
)
from kodkod_engine.layers.norm import RMSNorm
from kodkod_engine.layers.packed import PackedParameter, Precision

PACKED = [Precision.FP8, Precision.INT8, Precision.INT4]
ROWS = [
    1,
    2,
    MAX_THIN_ROWS_BESIDE_BF16,
    MAX_THIN_ROWS_BESIDE_BF16 + 1,
    MAX_THIN_ROWS,
    MAX_THIN_ROWS + 1,
    MAX_THIN_ROWS + 40,
]
OUT = [1, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 3 * TILE_ROWS + 7]


@pytest.fixture(params=[True, False], ids=["native bf16", "slow bf16"])
def native(request, monkeypatch):
    monkeypatch.setattr(linear_module, "_CPU_HAS_NATIVE_BF16", request.param)
    return request.param


def drawn(rows: int, out: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + out)
    return (torch.randn(rows, 48, generator=generator).to(dtype), torch.randn(out, 48, generator=generator).to(dtype))


@pytest.mark.parametrize("out", OUT)
@pytest.mark.parametrize("rows", ROWS)
@torch.inference_mode()
def test_bf16_is_exact_to_its_last_bit_or_so(native, rows, out):
    x, weight = drawn(rows, out, torch.bfloat16)
    exact = x.double() @ weight.double().T
    got = linear(x, weight)
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.double(), exact, rtol=2**-7, atol=2**-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.inference_mode()
def test_other_dtypes_go_straight(native, rows, dtype):
    x, weight = drawn(rows, 33, dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("rows", ROWS)
@torch.inference_mode()
def test_the_road_depends_on_dtype_and_rows(native, monkeypatch, rows):
    taken = []
    for road in ("thin_linear", "widened_linear"):
        monkeypatch.setattr(linear_module, road, lambda *operands, road=road: taken.append((road, len(operands[0]))))
    monkeypatch.setattr(F, "linear", lambda x, _weight: taken.append(("torch", len(x))) or x)
    x, weight = drawn(rows, 8, torch.bfloat16)
    linear(x, weight)
    if native:
        wanted = "thin_linear" if rows <= MAX_THIN_ROWS_BESIDE_BF16 else "torch"
    else:
        wanted = "thin_linear" if rows <= MAX_THIN_ROWS else "widened_linear"
    assert taken == [(wanted, rows)]
    linear(x.float(), weight.float())
    assert taken[1:] == [("torch", rows)]


@pytest.mark.skipif(not has_tile_products(), reason="needs AVX-512 BF16 without AMX")
@pytest.mark.parametrize("precision", [None, *PACKED])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 7, 8, 16, 17, 64, 65, 100, 192, 193])
@torch.inference_mode()
def test_few_rows_and_some_dozen_of_a_large_matrix_go_in_registers_or_tiles(monkeypatch, precision, rows):
    taken = []

    def watch(name):
        kernel = getattr(linear_module, name)
        monkeypatch.setattr(linear_module, name, lambda x, *more: taken.append((name, len(x))) or kernel(x, *more))

    watch("tiled_linear")
    watch("few_rows")
    monkeypatch.setattr(linear_module, "MIN_TILED_VALUES", 256 * 256)
    monkeypatch.setattr(few_rows_module, "MIN_PLAIN_VALUES", 256 * 256)
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 256, generator=generator), torch.randn(256, 256, generator=generator).bfloat16()
    home = weight
    if precision is not None:
        home = PackedParameter((256, 256), precision).matrix
        home.copy_(weight.float())
        weight = home.unpacked()
    got = linear(x, home)
    assert relative_error(got, x @ weight.float().t()) < 1e-2
    has_code = precision is not Precision.FP8 or has_byte_lookup()
    few = MAX_THIN_ROWS_BESIDE_TILES if precision is None else MAX_ROWS_IN_REGISTERS if has_code else 0
    in_tiles = few < rows <= MAX_TILED_ROWS and (has_code or rows > MAX_PACKED_ROWS_BESIDE_TILES)
    assert taken == ([("few_rows", rows)] if rows <= few else [("tiled_linear", rows)] if in_tiles else [])
    num_taken = len(taken)
    linear(x[:, :128], weight[:, :128].bfloat16().contiguous())
    assert len(taken) == num_taken, "a small matrix does not"


@torch.inference_mode()
def test_operands_may_be_views(native):
    """Rows out of the middle, every second column: as slices of fused results come."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(9, 96, generator=generator).to(torch.bfloat16)
    weight = torch.randn(20, 48, generator=generator).to(torch.bfloat16)
    for x in (wide[2:5, 48:], wide[2:5, ::2], wide.t()[:48].t()):
        exact = x.double() @ weight[3:].double().T
        assert torch.allclose(linear(x, weight[3:]).double(), exact, rtol=2**-7, atol=2**-5)


def test_gradients_flow_on_the_plain_road(native):
    x, weight = drawn(MAX_THIN_ROWS + 1, 8, torch.bfloat16)
    linear(x, weight.requires_grad_()).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad[0], weight.grad[7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feed_forward_equals_its_formula(native, dtype):
    network = FeedForward(16, 20)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.25, generator=torch.Generator().manual_seed(1))
    network = network.to(dtype)
    x = torch.randn(13, 16, generator=torch.Generator().manual_seed(2)).to(dtype)
    gate, up = network.gate_up.weight.double().chunk(2)
    gated = x.double() @ gate.T
    wanted = (gated * torch.sigmoid(gated) * (x.double() @ up.T)) @ network.down.weight.double().T
    with torch.inference_mode():
        got = network(x)
    assert relative_error(got, wanted) < (1e-6 if dtype == torch.float32 else 1e-2)


def test_gate_comes_before_up():
    assert swiglu(torch.tensor([[0.0, 5.0]])).item() == 0
    assert swiglu(torch.tensor([[20.0, 5.0]])).item() == pytest.approx(100)


def test_a_linear_map_has_no_bias_and_no_gradient():
    layer = Linear(3, 2, dtype=torch.bfloat16)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer.weight.shape == (2, 3)
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("eps", [1e-5, 1e-6, 0.5])
def test_norm_equals_its_formula(eps):
    norm = RMSNorm(6, eps)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)) * 1e-2
    wide = x.double()
    wanted = wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight.double()
    assert torch.allclose(norm(x).double(), wanted, rtol=1e-5)


def test_norm_measures_bf16_in_fp32():
    """300 squared and summed is far from what bf16 can add up; the result is cast before it meets the weight."""
    norm = RMSNorm(4096, 1e-5).to(torch.bfloat16)
    torch.nn.init.constant_(norm.weight, 1.0)
    assert torch.equal(norm(torch.full((1, 4096), 300.0, dtype=torch.bfloat16)), torch.ones(1, 4096).bfloat16())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(PACKED),
    st.sampled_from([1, 12, 13, 40, 100]),
    st.sampled_from([3, 64, 200, 257]),
    st.booleans(),
)
def test_a_packed_matrix_multiplies_as_what_it_stands_for(seed, precision, rows, out, is_native):
    generator = torch.Generator().manual_seed(seed)
    matrix = PackedParameter((out, 256), precision).matrix
    matrix.copy_(torch.randn(out, 256, generator=generator))
    x = torch.randn(rows, 256, generator=generator)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(linear_module, "UNPACKED_ROWS", 128)
        patch.setattr(linear_module, "_CPU_HAS_NATIVE_BF16", is_native)
        found = linear(x, matrix)
    assert found.dtype == x.dtype
    assert relative_error(found, x @ matrix.unpacked().t()) < (0.01 if is_native else 1e-3)


@pytest.mark.parametrize("precision", PACKED)
def test_room_for_unpacked_weights_holds_nothing_of_before(precision, monkeypatch):
    monkeypatch.setattr(linear_module, "_CPU_HAS_NATIVE_BF16", True)
    large, small = (PackedParameter(shape, precision).matrix for shape in ((300, 256), (40, 128)))
    for matrix in (large, small):
        matrix.copy_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(2)))
    x, few = torch.randn(30, 256), torch.randn(30, 128)
    first = linear(few, small)
    linear(x, large)
    assert torch.equal(linear(few, small), first)
