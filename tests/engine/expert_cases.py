"""Steps of experts drawn at random, whole or packed, and what they come to."""

from __future__ import annotations

import math
from typing import Any

import torch

from kodkod_engine.kernels.expert_mix import reference
from kodkod_engine.kernels.packed_linear import packed_arrays
from kodkod_engine.kernels.packing import pack, pack_fp8, unpack, unpack_fp8
from kodkod_engine.layers.moe import MixtureOfExperts, PackedExperts
from kodkod_engine.layers.packed import Precision
from kodkod_engine.models.config import ModelConfig

Case = tuple[torch.Tensor, ...]


def drawn(tokens: int, hidden: int, width: int, experts: int, identity: int, per_token: int, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, hidden, generator=generator)
    gate_up = (torch.randn(experts, 2 * width, hidden, generator=generator) / hidden**0.5).bfloat16()
    down = (torch.randn(experts, hidden, width, generator=generator) / width**0.5).bfloat16()
    order = torch.rand(tokens, experts + identity, generator=generator).argsort(dim=1)
    return x, gate_up, down, order[:, :per_token].contiguous(), torch.rand(tokens, per_token, generator=generator)


def by_reference(case: Case) -> torch.Tensor:
    """On activations as the kernel rounds them, but for identity experts, which take them as they are."""
    x, gate_up, down, chosen, weights = case
    is_real = chosen < len(down)
    rounded = reference(x.bfloat16().float(), gate_up, down, chosen, weights * is_real)
    return rounded + x * (weights * ~is_real).sum(dim=1, keepdim=True)


def packed(case: Case, precision: str, group: int) -> tuple[Any, Case]:
    """The experts packed, as the kernel takes them; and the case with what they stand for."""
    x, gate_up, down, chosen, weights = case
    arrays, values = [], []
    for weight in (gate_up, down):
        if precision == "fp8":
            codes, scales = pack_fp8(weight, math.gcd(weight.shape[1], 4), group)
            arrays.append(packed_arrays(codes, scales, 8, math.gcd(weight.shape[1], 4)))
            values.append(unpack_fp8(codes, scales, math.gcd(weight.shape[1], 4)))
        else:
            codes, scales = pack(weight, int(precision[-1]), group)
            arrays.append(packed_arrays(codes, scales, int(precision[-1])))
            values.append(unpack(codes, scales, int(precision[-1])))
    return arrays, (x, *values, chosen, weights)


def packed_layer(config: ModelConfig, precision: Precision) -> PackedExperts:
    """With random weights of trained scale."""
    plain = MixtureOfExperts(config)
    for name, parameter in plain.named_parameters():
        torch.nn.init.normal_(parameter, std=0.0 if "bias" in name else parameter.shape[-1] ** -0.5)
    experts = PackedExperts(plain, precision)
    for home, weight in zip(experts.homes, (plain.gate_up, plain.down), strict=True):
        for expert in range(len(weight)):
            home[expert].copy_(weight[expert])
    return experts
