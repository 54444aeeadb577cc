"""The blocks against plain formulas, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.training.causal_attention import TILE_QUERIES, causal_attention
from kodkod_engine.training.export import load_trainable
from kodkod_engine.training.head_loss import ROWS_AT_ONCE, head_loss
from kodkod_engine.training.model import mix_experts


def gradients(result: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    direction = torch.randn(result.shape, generator=torch.Generator().manual_seed(0), dtype=result.dtype)
    return list(torch.autograd.grad((result * direction).sum(), inputs))


@settings(max_examples=12, deadline=None)
@given(tokens=st.sampled_from([1, 5, TILE_QUERIES, TILE_QUERIES + 1, 300]), documents=st.integers(1, 3))
def test_tiled_attention_is_attention(tokens, documents):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(documents, 4, tokens, dim) for dim in (12, 12, 8)]
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    ours = causal_attention(*inputs)
    plain = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=1.0)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients(ours, *inputs), gradients(plain, *inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, ROWS_AT_ONCE + 3])
def test_piecewise_head_loss_is_cross_entropy(rows):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 16, generator=generator, requires_grad=True)
    head = torch.randn(50, 16, generator=generator, requires_grad=True)
    targets = torch.randint(50, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator)
    ours = head_loss(hidden, head, targets, weights) * 3
    plain = (F.cross_entropy(hidden @ head.T, targets, reduction="none") * weights).sum() * 3
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients(ours, hidden, head), gradients(plain, hidden, head), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(1, 30), experts=st.integers(1, 5), identities=st.integers(0, 3), data=st.data())
def test_experts_by_sorting_are_experts_one_by_one(tokens, experts, identities, data):
    k = data.draw(st.integers(1, experts + identities))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(tokens, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    gate_up = torch.randn(experts, 8, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    down = torch.randn(experts, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(tokens, k, generator=generator, dtype=torch.float64, requires_grad=True)
    chosen = torch.rand(tokens, experts + identities, generator=generator).topk(k).indices
    rows = []
    for token in range(tokens):
        total = torch.zeros(6, dtype=torch.float64)
        for place, expert in enumerate(chosen[token].tolist()):
            out = x[token]
            if expert < experts:
                gate, up = (gate_up[expert] @ x[token]).chunk(2)
                out = down[expert] @ (F.silu(gate) * up)
            total = total + weights[token, place] * out
        rows.append(total)
    ours, plain = mix_experts(x, chosen, weights, gate_up, down), torch.stack(rows)
    torch.testing.assert_close(ours, plain)
    inputs = (x, weights, gate_up, down)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), inputs, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(plain.square().sum(), inputs, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_padding_changes_nothing(tmp_path):
    model = load_trainable(write_random_checkpoint(tmp_path, TINY, seed=1))
    ids = torch.tensor([[5, 9, 300, 2, 41]])
    alone = model(ids, torch.ones_like(ids, dtype=torch.bool))
    longer = torch.cat([ids, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    beside = model(longer, torch.arange(8)[None] < 5)
    torch.testing.assert_close(beside.normed[:, :5], alone.normed, rtol=1e-4, atol=1e-5)
    assert torch.equal(beside.choices, alone.choices)


def test_every_weight_but_the_selection_bias_learns(tmp_path):
    model = load_trainable(write_random_checkpoint(tmp_path, TINY, seed=2))
    ids = torch.randint(3, 320, (4, 50), generator=torch.Generator().manual_seed(0))
    passed = model(ids, torch.ones_like(ids, dtype=torch.bool))
    (passed.normed.square().sum() + (model.draft(passed.normed, ids) @ model.head.T).square().sum()).backward()
    for name, parameter in model.named_parameters():
        if "selection_bias" in name:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.is_sparse == (parameter is model.tables), name
