"""Router and experts against loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.playing import relative_error
from kodkod_engine.layers import linear as linear_module
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.models.config import ModelConfig


def experts_of(
    config: ModelConfig, seed: int, real: int, identity: int, chosen: int, dtype: torch.dtype = torch.float32
) -> MixtureOfExperts:
    config = replace(
        config,
        hidden_size=12,
        expert_ffn_hidden_size=5,
        num_experts=real,
        num_identity_experts=identity,
        experts_per_token=chosen,
    )
    experts = MixtureOfExperts(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in experts.named_parameters():
        scale = 0.05 if "bias" in name else parameter.shape[-1] ** -0.5
        torch.nn.init.normal_(parameter, std=scale, generator=generator)
    experts.gate_up.data, experts.down.data = experts.gate_up.data.to(dtype), experts.down.data.to(dtype)
    return experts


def by_loop(experts: MixtureOfExperts, x: torch.Tensor) -> torch.Tensor:
    router, width = experts.router, experts.down.shape[2]
    out = torch.zeros_like(x, dtype=torch.float64)
    for row, token in enumerate(x.double()):
        logits = [float(weights @ token) for weights in router.weight.double()]
        shares = [math.exp(logit - max(logits)) for logit in logits]
        probabilities = [share / sum(shares) for share in shares]
        ranked = [p + float(bias) for p, bias in zip(probabilities, router.selection_bias, strict=True)]
        for expert in sorted(range(len(ranked)), key=ranked.__getitem__)[-router.experts_per_token :]:
            weight = router.scaling_factor * probabilities[expert]
            if expert >= experts.num_experts:
                out[row] += weight * token
                continue
            gate_up = experts.gate_up[expert].double() @ token
            gate, up = gate_up[:width], gate_up[width:]
            out[row] += weight * (experts.down[expert].double() @ (gate * torch.sigmoid(gate) * up))
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.integers(1, 20), st.integers(0, 99), st.data())
def test_equals_a_loop(tiny, real, identity, tokens, seed, data):
    chosen = data.draw(st.integers(1, real + identity))
    experts = experts_of(tiny.config, seed, real, identity, chosen)
    x = torch.randn(tokens, 12, generator=torch.Generator().manual_seed(seed + 1))
    assert torch.allclose(experts(x).double(), by_loop(experts, x), atol=2e-5)


def test_a_token_without_real_experts(tiny):
    """Weighed identity alone; beside tokens that have some."""
    experts = experts_of(tiny.config, 0, 3, 3, 2)
    with torch.no_grad():
        experts.router.weight.zero_()
        experts.router.weight[4:, 0] = 9.0
        experts.router.selection_bias.copy_(torch.tensor([3e-3, 2e-3, 1e-3, 0, 0, 0]))
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    chosen, _ = experts.router(x)
    assert (chosen[0::2] >= 3).all()
    assert (chosen[1::2] < 4).all()
    got = experts(x)
    assert torch.allclose(got[0::2] / x[0::2], torch.full((2, 12), 6 * 2 / (2 + 4 * math.exp(-9))), rtol=1e-4)
    assert torch.allclose(got.double(), by_loop(experts, x), atol=2e-5)


def test_a_step_in_which_nobody_chooses_a_real_expert(tiny):
    experts = experts_of(tiny.config, 0, 3, 3, 3)
    with torch.no_grad():
        experts.router.selection_bias.copy_(torch.tensor([0.0, 0, 0, 2, 2, 2]))
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(experts(x).double(), by_loop(experts, x), atol=2e-5)


def test_the_selection_bias_only_selects(tiny):
    experts = experts_of(tiny.config, 0, 4, 2, 2)
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        experts.router.selection_bias.copy_(torch.tensor([0.0, 5, 0, 0, 5, 0]))
    chosen, weights = experts.router(x)
    probabilities = (x.double() @ experts.router.weight.double().T).softmax(dim=-1)
    assert {tuple(sorted(row)) for row in chosen.tolist()} == {(1, 4)}
    assert torch.allclose(weights.double(), 6 * probabilities.gather(1, chosen), rtol=1e-5)


def test_a_bias_equal_for_all_changes_nothing(tiny):
    experts = experts_of(tiny.config, 0, 4, 2, 3)
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    before = experts(x)
    with torch.no_grad():
        experts.router.selection_bias += 0.25
    assert torch.allclose(experts(x), before, atol=1e-6)


def test_rows_do_not_depend_on_their_batch(tiny):
    experts = experts_of(tiny.config, 0, 4, 2, 3)
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([experts(row[None]) for row in x])
    assert torch.allclose(experts(x), alone, atol=1e-5)


@pytest.mark.parametrize("slow_bf16", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 7, 100])
@torch.inference_mode()
def test_routing_stays_in_fp32_beside_narrow_experts(tiny, monkeypatch, dtype, slow_bf16, tokens):
    monkeypatch.setattr(linear_module, "_CPU_HAS_NATIVE_BF16", not slow_bf16)
    experts = experts_of(tiny.config, 0, 4, 2, 3, dtype)
    x = torch.randn(tokens, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = experts(x)
    assert got.dtype == dtype
    assert experts.router.weight.dtype == torch.float32
    assert relative_error(got, by_loop(experts, x)) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_router_rounds_nothing_to_the_experts_dtype(tiny, dtype):
    """Weights and logits that differ by less than a narrow number can tell: their order and their shares are kept."""
    experts = experts_of(tiny.config, 0, 6, 2, 3, dtype)
    with torch.no_grad():
        experts.router.weight.copy_(1 + torch.arange(8)[:, None] * torch.full((12,), 1e-4))
        experts.router.selection_bias.zero_()
    chosen, weights = experts.router(torch.ones(2, 12, dtype=dtype))
    assert set(chosen[0].tolist()) == {5, 6, 7}
    total = sum(math.exp(12e-4 * expert) for expert in range(8))
    wanted = [6 * math.exp(12e-4 * expert) / total for expert in chosen[0].tolist()]
    assert weights[0].tolist() == pytest.approx(wanted, rel=1e-5)
