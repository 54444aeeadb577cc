"""The experts of many tokens against their reference: full and half-full tiles, crowds, identity experts, odd sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.expert_cases import by_reference, drawn, packed, packed_layer
from engine.playing import relative_error
from kodkod_engine.kernels.expert_rows import expert_rows, takes_expert_rows
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.layers import linear as linear_module
from kodkod_engine.layers import moe
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.layers.packed import Precision

pytestmark = pytest.mark.skipif(not has_tile_products(), reason="needs AVX-512 BF16 without AMX")


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 70),
    hidden=st.sampled_from([32, 96, 288]),
    width=st.sampled_from([4, 12, 68]),
    experts=st.integers(1, 5),
    identity=st.integers(0, 3),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_equals_the_reference(tokens, hidden, width, experts, identity, seed, data):
    case = drawn(tokens, hidden, width, experts, identity, data.draw(st.integers(1, experts + identity)), seed)
    got = expert_rows(*case)
    assert got.dtype == torch.float32
    assert relative_error(got, by_reference(case).double()) < 5e-3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_output_has_one_owner_whatever_the_threads(monkeypatch, threads):
    case = drawn(40, 64, 20, 3, 1, 2)
    monkeypatch.setattr("kodkod_engine.kernels.expert_rows.get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert relative_error(expert_rows(*case), by_reference(case).double()) < 5e-3


def test_a_crowd_on_one_expert_beside_empty_ones():
    x, gate_up, down, _, weights = drawn(300, 64, 16, 7, 0, 2)
    chosen = torch.tensor([5, 2]).repeat(300, 1)
    case = x, gate_up, down, chosen, weights
    assert relative_error(expert_rows(*case), by_reference(case).double()) < 5e-3


@pytest.mark.parametrize("precision", ["int4", "int8", "fp8"])
@settings(max_examples=12, deadline=None)
@given(
    tokens=st.integers(1, 70),
    sizes=st.sampled_from([(96, 68, 4), (128, 256, 128), (256, 132, 4), (384, 128, 128)]),
    experts=st.integers(1, 4),
    identity=st.integers(0, 2),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_packed_experts_are_those_they_stand_for(precision, tokens, sizes, experts, identity, seed, data):
    """The same bits as with the unpacked ones: outputs, activations and sums take the same way."""
    hidden, width, group = sizes
    chosen = data.draw(st.integers(1, experts + identity))
    arrays, (x, *wide, chosen, weights) = packed(
        drawn(tokens, hidden, width, experts, identity, chosen, seed), precision, group
    )
    gate_up, down = (weight.bfloat16() for weight in wide)
    assert torch.equal(expert_rows(x, *arrays, chosen, weights), expert_rows(x, gate_up, down, chosen, weights))


def test_nobody_chooses_a_real_expert():
    x, gate_up, down, _, _ = drawn(20, 32, 4, 3, 2, 1)
    out = expert_rows(x, gate_up, down, torch.full((20, 2), 3), torch.full((20, 2), 0.25))
    assert torch.equal(out, x * 0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_the_activation_holds_for_gates_of_any_size(scale):
    """One expert that returns its activations: weights of gate, up and down are the identity."""
    x = torch.linspace(-1, 1, 32 * 32).view(32, 32).bfloat16().float() * scale
    eye = torch.eye(32, dtype=torch.bfloat16)
    gate_up, down = torch.cat([eye, eye])[None], eye[None]
    out = expert_rows(x, gate_up, down, torch.zeros(32, 1, dtype=torch.int64), torch.ones(32, 1))
    narrow = x.bfloat16().float()
    exact = F.silu(narrow.double()) * narrow.double()
    assert torch.allclose(out.double(), exact, rtol=2**-8, atol=1e-25)


def test_what_is_no_number_stays_with_its_token():
    case = drawn(20, 32, 8, 2, 0, 1)
    clean = expert_rows(*case)
    case[0][3, 5] = float("nan")
    out = expert_rows(*case)
    assert out[3].isnan().all()
    rest = [token for token in range(20) if token != 3]
    assert torch.equal(out[rest], clean[rest])


@pytest.mark.parametrize(("width", "hidden", "takes"), [(8, 64, True), (6, 64, False), (8, 48, False)])
def test_sizes_it_does_not_take_are_told(width, hidden, takes):
    assert takes_expert_rows((2, 2 * width, hidden)) is takes


@torch.inference_mode()
def test_the_layer_goes_this_way_for_many_tokens_alone(tiny, monkeypatch):
    taken: list[int] = []
    monkeypatch.setattr(moe, "expert_rows", lambda *case: taken.append(len(case[0])) or expert_rows(*case))
    experts = MixtureOfExperts(tiny.config)
    for name, parameter in experts.named_parameters():
        torch.nn.init.normal_(parameter, std=0.0 if "bias" in name else parameter.shape[-1] ** -0.5)
    experts.gate_up.data, experts.down.data = experts.gate_up.data.bfloat16(), experts.down.data.bfloat16()
    assert takes_expert_rows(experts.gate_up.shape)
    x = torch.randn(40, tiny.config.hidden_size)
    out = experts(x)
    assert taken == [40]
    experts(x[:16])
    monkeypatch.setattr(linear_module, "_CPU_HAS_NATIVE_BF16", False)
    slow = experts(x)
    assert taken == [40]
    assert relative_error(out, slow.double()) < 1e-2


@torch.inference_mode()
@pytest.mark.parametrize("precision", [Precision.INT4, Precision.INT8, Precision.FP8])
def test_packed_layers_go_this_way_where_experts_have_many_rows(tiny, monkeypatch, precision):
    taken: list[int] = []
    monkeypatch.setattr(moe, "expert_rows", lambda *case: taken.append(len(case[0])) or expert_rows(*case))
    experts = packed_layer(tiny.config, precision)
    x = torch.randn(400, tiny.config.hidden_size)
    experts(x[:4])
    assert taken == []
    out = experts(x)
    assert taken == [400]
    chosen, weights = experts.router(x)
    assert relative_error(out, experts._by_expert(x, chosen, weights).double()) < 1e-2
