"""Packed experts with a few rows each against their reference: any number of rows, crowds, identity, every code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from engine.expert_cases import by_reference, drawn, packed, packed_layer
from engine.playing import relative_error
from kodkod_engine.kernels import thin_experts as module
from kodkod_engine.kernels import thin_products
from kodkod_engine.kernels.bf16 import bits_of
from kodkod_engine.kernels.group_numbers import has_byte_lookup
from kodkod_engine.kernels.packed_linear import packed_arrays
from kodkod_engine.kernels.packing import unpack, unpack_fp8
from kodkod_engine.kernels.thin_experts import takes_thin_experts, thin_experts
from kodkod_engine.kernels.thin_products import MAX_THIN_TOKENS, products
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.layers import moe
from kodkod_engine.layers.packed import Precision

pytestmark = pytest.mark.skipif(
    not (has_tile_products() and has_byte_lookup()), reason="needs AVX-512 BF16 and VBMI, without AMX"
)

PRECISIONS = ["int4", "int8", "fp8"]
GROUP = 128


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=12, deadline=None)
@given(
    tokens=st.integers(1, 40),
    sizes=st.sampled_from([(128, 256), (256, 128), (384, 128)]),
    experts=st.integers(1, 5),
    identity=st.integers(0, 3),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_equals_the_reference(precision, tokens, sizes, experts, identity, seed, data):
    per_token = data.draw(st.integers(1, experts + identity))
    arrays, case = packed(drawn(tokens, *sizes, experts, identity, per_token, seed), precision, GROUP)
    x, _, _, *routed = case
    assert takes_thin_experts(*arrays)
    got = thin_experts(x, *arrays, *routed)
    assert got.dtype == torch.float32
    assert relative_error(got, by_reference(case).double()) < 5e-3


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", range(1, 2 * MAX_THIN_TOKENS + 2))
def test_one_expert_has_any_number_of_rows_beside_empty_ones(precision, rows):
    x, gate_up, down, _, weights = drawn(rows, 128, 128, 5, 0, 1)
    arrays, case = packed((x, gate_up, down, torch.full((rows, 1), 3), weights), precision, GROUP)
    assert relative_error(thin_experts(x, *arrays, *case[3:]), by_reference(case).double()) < 5e-3


def test_a_crowd_on_one_expert_beside_single_rows():
    x, gate_up, down, _, weights = drawn(60, 128, 128, 61, 0, 2)
    chosen = torch.stack([torch.full((60,), 60), torch.arange(60)], dim=1)
    arrays, case = packed((x, gate_up, down, chosen, weights), "int4", GROUP)
    assert relative_error(thin_experts(x, *arrays, *case[3:]), by_reference(case).double()) < 5e-3


def test_a_row_is_the_same_in_any_company():
    arrays, (x, _, _, chosen, weights) = packed(drawn(11, 256, 128, 3, 1, 2), "int8", GROUP)
    together = thin_experts(x, *arrays, chosen, weights)
    alone = [thin_experts(x[i : i + 1], *arrays, chosen[i : i + 1], weights[i : i + 1]) for i in range(len(x))]
    assert torch.equal(together, torch.cat(alone))


def test_it_answers_in_the_dtype_it_was_asked_in():
    arrays, (x, _, _, chosen, weights) = packed(drawn(5, 128, 128, 3, 1, 2), "int4", GROUP)
    out = thin_experts(x.bfloat16(), *arrays, chosen, weights)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, thin_experts(x.bfloat16().float(), *arrays, chosen, weights).double()) < 5e-3


def test_nobody_chooses_a_real_expert():
    arrays, (x, *_) = packed(drawn(20, 128, 128, 3, 2, 1), "int4", GROUP)
    out = thin_experts(x, *arrays, torch.full((20, 2), 3), torch.full((20, 2), 0.25))
    assert torch.equal(out, x * 0.5)


def test_what_is_no_number_stays_with_its_token():
    arrays, (x, _, _, chosen, weights) = packed(drawn(20, 128, 128, 2, 0, 1), "fp8", GROUP)
    clean = thin_experts(x, *arrays, chosen, weights)
    x[3, 5] = float("nan")
    out = thin_experts(x, *arrays, chosen, weights)
    assert out[3].isnan().all()
    rest = [token for token in range(20) if token != 3]
    assert torch.equal(out[rest], clean[rest])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_output_has_one_owner_whatever_the_threads(monkeypatch, threads):
    arrays, case = packed(drawn(20, 384, 128, 3, 1, 2), "int4", GROUP)
    monkeypatch.setattr(module, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert relative_error(thin_experts(case[0], *arrays, *case[3:]), by_reference(case).double()) < 5e-3


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_every_code_is_its_number_in_its_place(kind):
    """Tokens of a single one read the matrix out, to the last bit; two scales a row, of which only one counts."""
    codes = torch.stack([torch.arange(256), torch.arange(256).flip(0) ^ 0x55]).to(torch.uint8)
    scales = torch.tensor([[0.3, -7e5], [11.0, 2e-9]]).bfloat16()
    if kind == torch.uint8:
        codes, bits, values = codes[:, :128], 4, unpack(codes[:, :128], scales, 4)
    elif kind == torch.int8:
        codes, bits, values = codes.view(kind), 8, unpack(codes.view(kind), scales, 8)
    else:
        codes, bits, scales = codes.view(kind), 8, scales.float()
        values = unpack_fp8(codes, scales, 1)
    assert torch.equal(read_out(packed_arrays(codes, scales, bits)), values)


def read_out(weight) -> torch.Tensor:
    """Both rows [2, 256] of a packed matrix."""
    sums, values = np.empty((2 * MAX_THIN_TOKENS, 1), np.float32), torch.empty(2, 256)
    ones = bits_of(torch.eye(256).bfloat16())
    kernel = njit(lambda *case: products(*case))  # numba compiles functions of its own, no overloads
    for first in range(0, 256, MAX_THIN_TOKENS):
        count = min(MAX_THIN_TOKENS, 256 - first)
        kernel(weight, (0, 1, 2), ones, np.arange(256), first, count, sums)
        found = torch.from_numpy(sums).view(2, MAX_THIN_TOKENS)
        values[:, first : first + count] = found[:, :count]
    return values


def test_other_groups_and_processors_keep_their_roads(monkeypatch):
    arrays, _ = packed(drawn(2, 128, 128, 2, 0, 1), "fp8", GROUP)
    assert takes_thin_experts(*arrays)
    assert not takes_thin_experts(*packed(drawn(2, 128, 128, 2, 0, 1), "fp8", 64)[0])
    assert not takes_thin_experts(*packed(drawn(2, 128, 128, 2, 0, 1), "int4", 64)[0])
    monkeypatch.setattr(thin_products, "has_byte_lookup", lambda: False)
    assert not takes_thin_experts(*arrays)
    integers, _ = packed(drawn(2, 128, 128, 2, 0, 1), "int8", GROUP)
    assert takes_thin_experts(*integers)
    monkeypatch.setattr(module, "has_tile_products", lambda: False)
    assert not takes_thin_experts(*integers)


@torch.inference_mode()
@pytest.mark.parametrize("precision", [Precision.INT4, Precision.INT8, Precision.FP8])
def test_the_layer_goes_this_way_where_experts_have_a_few_rows(tiny, monkeypatch, precision):
    taken: list[tuple[str, int]] = []

    def watch(name: str) -> None:
        kernel = getattr(moe, name)
        monkeypatch.setattr(moe, name, lambda *case: taken.append((name, len(case[0]))) or kernel(*case))

    watch("thin_experts")
    watch("expert_rows")
    config = replace(tiny.config, hidden_size=128, expert_ffn_hidden_size=128)
    experts = packed_layer(config, precision)
    x = torch.randn(400, 128)
    experts(x[:4])
    assert taken == []
    few = experts(x[:30])
    experts(x)
    assert taken == [("thin_experts", 30), ("expert_rows", 400)]
    monkeypatch.setattr(module, "has_tile_products", lambda: False)
    slow = experts(x[:30])
    assert "thin_experts" not in dict(taken[2:])
    assert relative_error(few, slow.double()) < 1e-2
