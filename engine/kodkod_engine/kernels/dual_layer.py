"""A whole dual-attention layer of a few tokens in one call: the other kernels one after another, compiled together.

A decode step of the layer in torch is some two hundred small operations besides its matrix products, and each costs
more than what it computes. The reference is the module itself (`models/longcat_flash.py`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, prange, types
from numba.extending import overload
from torch import Tensor

from kodkod_engine.kernels import expert_mix, latent_attention, packed_experts, packed_linear, rms_norm, thin_linear
from kodkod_engine.kernels.bf16 import KERNEL_OPTIONS, SERIAL_OPTIONS, lock

Array = Any
"""A numpy array as numba sees it: bf16 matrices are uint16, packed ones a pair of arrays."""


_norm, _attend = rms_norm._kernel, latent_attention._kernel


def _linear(weight: Array, x: Array, out: Array) -> None:
    """Whatever the weight is kept as."""
    raise NotImplementedError("for compiled code alone")


@overload(_linear, inline="never", jit_options=SERIAL_OPTIONS)
def _linear_of(weight, x, out):  # type: ignore[no-untyped-def]  # numba compares signatures
    kernel = thin_linear._kernel if isinstance(weight, types.Array) else packed_linear.multiply

    def run(weight, x, out):  # type: ignore[no-untyped-def]
        kernel(weight, x, out)

    return run


def _outputs(weight: Array) -> int:
    """Rows of a weight."""
    raise NotImplementedError("for compiled code alone")


@overload(_outputs, inline="always")
def _outputs_of(weight):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight: weight.shape[0]
    return lambda weight: weight.codes.shape[0]


def _mix(x: Array, gate_up: Array, down: Array, chosen: Array, weights: Array, out: Array) -> None:
    """Whatever the experts are kept as."""
    raise NotImplementedError("for compiled code alone")


@overload(_mix, inline="never", jit_options=SERIAL_OPTIONS)
def _mix_of(x, gate_up, down, chosen, weights, out):  # type: ignore[no-untyped-def]  # numba compares signatures
    kernel = expert_mix._kernel if isinstance(down, types.Array) else packed_experts.mix

    def run(x, gate_up, down, chosen, weights, out):  # type: ignore[no-untyped-def]
        kernel(x, gate_up, down, chosen, weights, out)

    return run


class HalfWeights(NamedTuple):
    """One attention block and one dense network. Norms are fp32, kv_b fp32 or bf16, the others bf16 or packed."""

    input_norm: Array
    qkv_a: Array
    q_norm: Array
    q_b: Array
    kv_norm: Array
    kv_b: Array
    """[heads, nope + value, rank]."""
    o: Array
    post_norm: Array
    gate_up: Array
    down: Array


class ExpertWeights(NamedTuple):
    """Router in fp32, experts as bf16 bits or packed."""

    router: Array
    selection_bias: Array
    gate_up: Array
    down: Array


class LayerScalars(NamedTuple):
    """What the config says; factors are float32."""

    eps: np.float32
    latent_eps: np.float32
    q_scale: np.float32
    kv_scale: np.float32
    score_scale: np.float32
    routed_scale: np.float32
    experts_per_token: int
    nope: int
    num_experts: int


class LayerWeights(NamedTuple):
    """All of one dual layer."""

    first: HalfWeights
    second: HalfWeights
    experts: ExpertWeights
    scalars: LayerScalars


class StepArrays(NamedTuple):
    """Where the tokens of a step stand."""

    turns: Array
    """fp32 [tokens, rope / 2, 2]: cosine and sine of each pair's angle."""
    slots: Array
    """int64 [tokens]: where their KV is written."""
    context_slots: Array
    """int64 [tokens, context]: where the KV of each token's sequence lies."""
    positions: Array
    """int64 [tokens]."""


@njit(inline="always", **SERIAL_OPTIONS)
def _rotate(vector: Array, turns: Array) -> None:
    """Turn the pairs of [rope] in place."""
    for pair in range(turns.shape[0]):
        even, odd = vector[2 * pair], vector[2 * pair + 1]
        vector[2 * pair] = even * turns[pair, 0] - odd * turns[pair, 1]
        vector[2 * pair + 1] = even * turns[pair, 1] + odd * turns[pair, 0]


@njit(**SERIAL_OPTIONS)
def _write_latents(down: Array, half: HalfWeights, scalars: LayerScalars, step: StepArrays, latents: Array) -> None:
    """Latents normalised and scaled, rope keys rotated, into the cache."""
    first, rank = len(half.q_norm), len(half.kv_norm)
    normed = np.empty((len(down), rank), np.float32)
    _norm(np.ascontiguousarray(down[:, first : first + rank]), half.kv_norm, scalars.latent_eps, normed)
    for token in range(len(down)):
        row = latents[step.slots[token]]
        for r in range(rank):
            row[r] = normed[token, r] * scalars.kv_scale
        for r in range(rank, len(row)):
            row[r] = down[token, first + r]
        _rotate(row[rank:], step.turns[token])


@njit(**SERIAL_OPTIONS)
def _query(down: Array, half: HalfWeights, scalars: LayerScalars, step: StepArrays) -> Array:
    """Scaled and rotated: [tokens, heads, nope + rope]."""
    rank, heads = len(half.q_norm), half.kv_b.shape[0]
    normed = np.empty((len(down), rank), np.float32)
    _norm(np.ascontiguousarray(down[:, :rank]), half.q_norm, scalars.latent_eps, normed)
    flat = np.empty((len(down), _outputs(half.q_b)), np.float32)
    _linear(half.q_b, normed, flat)
    query = flat.reshape(len(down), heads, flat.shape[1] // heads)
    for token in range(len(down)):
        for head in range(heads):
            for i in range(query.shape[2]):
                query[token, head, i] *= scalars.q_scale
            _rotate(query[token, head, scalars.nope :], step.turns[token])
    return query


@njit(**SERIAL_OPTIONS)
def _attention(x: Array, half: HalfWeights, scalars: LayerScalars, step: StepArrays, latents: Array) -> Array:
    """x plus its attention block."""
    normed = np.empty_like(x)
    _norm(x, half.input_norm, scalars.eps, normed)
    down = np.empty((len(x), _outputs(half.qkv_a)), np.float32)
    _linear(half.qkv_a, normed, down)
    _write_latents(down, half, scalars, step, latents)
    query = _query(down, half, scalars, step)
    heads, value = half.kv_b.shape[0], half.kv_b.shape[1] - scalars.nope
    attended = np.empty((len(x), heads, value), np.float32)
    _attend(query, latents, step.context_slots, step.positions, half.kv_b, scalars.score_scale, scalars.nope, attended)
    out = np.empty_like(x)
    _linear(half.o, attended.reshape(len(x), heads * value), out)
    return x + out


@njit(**SERIAL_OPTIONS)
def _dense(normed: Array, half: HalfWeights) -> Array:
    wide = np.empty((len(normed), _outputs(half.gate_up)), np.float32)
    _linear(half.gate_up, normed, wide)
    width = wide.shape[1] // 2
    inner = np.empty((len(normed), width), np.float32)
    for token in range(len(normed)):
        for i in range(width):
            gate = wide[token, i]
            inner[token, i] = gate / (np.float32(1) + math.exp(-gate)) * wide[token, width + i]
    out = np.empty_like(normed)
    _linear(half.down, inner, out)
    return out


@njit(**KERNEL_OPTIONS)
def _router_logits(x: Array, weight: Array, out: Array) -> None:
    for choice in prange(len(weight)):
        for token in range(len(x)):
            total = np.float32(0)
            for i in range(x.shape[1]):
                total += x[token, i] * weight[choice, i]
            out[token, choice] = total


@njit(**SERIAL_OPTIONS)
def _route(x: Array, experts: ExpertWeights, scalars: LayerScalars, chosen: Array, weights: Array) -> None:
    """Softmax over all choices; the bias steers which are taken and nothing else."""
    logits = np.empty((len(x), len(experts.router)), np.float32)
    _router_logits(x, experts.router, logits)
    for token in range(len(x)):
        exponents = np.exp(logits[token] - np.max(logits[token]))
        probabilities = exponents / np.sum(exponents)
        merit = probabilities + experts.selection_bias
        for place in range(scalars.experts_per_token):
            best = np.argmax(merit)
            chosen[token, place] = best
            weights[token, place] = probabilities[best] * scalars.routed_scale
            merit[best] = -np.inf


@njit(**SERIAL_OPTIONS)
def _experts(x: Array, experts: ExpertWeights, scalars: LayerScalars) -> Array:
    chosen = np.empty((len(x), scalars.experts_per_token), np.int64)
    weights = np.empty((len(x), scalars.experts_per_token), np.float32)
    _route(x, experts, scalars, chosen, weights)
    out = np.empty_like(x)
    for token in range(len(x)):
        kept = np.float32(0)
        for place in range(scalars.experts_per_token):
            if chosen[token, place] >= scalars.num_experts:
                kept += weights[token, place]
        for i in range(x.shape[1]):
            out[token, i] = kept * x[token, i]
    _mix(x, experts.gate_up, experts.down, chosen, weights, out)
    return out


@njit(**SERIAL_OPTIONS)
def _kernel(x: Array, layer: LayerWeights, step: StepArrays, first_latents: Array, second_latents: Array) -> Array:
    first, second, scalars = layer.first, layer.second, layer.scalars
    x = _attention(x, first, scalars, step, first_latents)
    normed = np.empty_like(x)
    _norm(x, first.post_norm, scalars.eps, normed)
    shortcut = _experts(normed, layer.experts, scalars)
    x = x + _dense(normed, first)
    x = _attention(x, second, scalars, step, second_latents)
    _norm(x, second.post_norm, scalars.eps, normed)
    return x + _dense(normed, second) + shortcut


def dual_layer(
    x: Tensor, layer: LayerWeights, step: StepArrays, first_latents: Tensor, second_latents: Tensor
) -> Tensor:
    """One layer: writes KV, returns [tokens, hidden].

    Args:
        x: fp32 [tokens, hidden], contiguous, on the host.
        layer: its weights.
        step: where the tokens stand.
        first_latents: fp32 [slots, rank + rope], the cache layer of the first block.
        second_latents: that of the second.
    """
    with lock:
        return torch.from_numpy(_kernel(x.numpy(), layer, step, first_latents.numpy(), second_latents.numpy()))
