"""A whole dual-attention layer of a few tokens in one call: the other kernels one after another, compiled together.

A decode step of the layer in torch is some two hundred small operations besides its matrix products, and each costs
more than what it computes. The reference is the module itself (`models/longcat_flash.py`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import get_num_threads, njit, types
from torch import Tensor

from kodkod_engine.kernels import (
    expert_mix,
    few_rows,
    latent_attention,
    packed_experts,
    packed_linear,
    rms_norm,
    thin_experts,
    thin_linear,
    tiled_latents,
)
from kodkod_engine.kernels.bf16 import SERIAL_OPTIONS, lock
from kodkod_engine.kernels.in_parts import in_parts
from kodkod_engine.kernels.inside import inside, inside_of
from kodkod_engine.kernels.thin_products import has_code_for, kind_of
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.kernels.vector_code import VECTOR_GROUP
from kodkod_engine.kernels.weight_rows import num_rows

Array = Any
"""A numpy array as numba sees it: bf16 matrices are uint16, packed ones a pair of arrays."""


_norm = rms_norm._kernel


@inside_of
def _attend(tiles, query, latents, slots, positions, kv_b, scale, nope, out, parts):  # type: ignore[no-untyped-def]  # numba compares signatures
    """In tiles where the type of `HalfWeights.tiles` says so."""
    attend = tiled_latents.attend if len(tiles) else latent_attention._kernel

    def over_latents(tiles, query, latents, slots, positions, kv_b, scale, nope, out, parts):  # type: ignore[no-untyped-def]
        attend(query, latents, slots, positions, kv_b, scale, nope, out, parts, *tiles)

    return over_latents


@inside_of
def _linear(weight, x, out, parts):  # type: ignore[no-untyped-def]  # numba compares signatures
    """Whatever the weight is kept as."""
    is_packed = not isinstance(weight, types.Array)
    kernel = packed_linear.multiply if is_packed else thin_linear._kernel

    def as_it_lies(weight, x, out, parts):  # type: ignore[no-untyped-def]
        kernel(weight, x, out)

    def in_registers(weight, x, out, parts):  # type: ignore[no-untyped-def]
        few_rows.multiply(weight, x, out, parts)

    def by_size(weight, x, out, parts):  # type: ignore[no-untyped-def]
        if weight.shape[1] % VECTOR_GROUP == 0 and weight.size >= few_rows.MIN_PLAIN_VALUES:
            few_rows.multiply(weight, x, out, parts)
        else:
            kernel(weight, x, out)

    if not _has_code_for(weight):
        return as_it_lies
    return in_registers if is_packed else by_size


def _has_code_for(weight: Any) -> bool:
    """Whether weights of a numba type are made bf16 in registers here."""
    return has_tile_products() and has_code_for(kind_of(weight))


@inside_of
def _mix(x, experts, chosen, weights, out, parts):  # type: ignore[no-untyped-def]  # numba compares signatures
    """Whatever the experts are kept as."""
    gate_up, down = experts.types[-2:]
    is_packed = not isinstance(down, types.Array)
    kernel = packed_experts.mix if is_packed else expert_mix._kernel

    def as_they_lie(x, experts, chosen, weights, out, parts):  # type: ignore[no-untyped-def]
        kernel(x, experts.gate_up, experts.down, chosen, weights, out)

    def in_registers(x, experts, chosen, weights, out, parts):  # type: ignore[no-untyped-def]
        thin_experts.mix(few_rows.narrowed(x), experts.gate_up, experts.down, chosen, weights, out, parts)

    def by_size(x, experts, chosen, weights, out, parts):  # type: ignore[no-untyped-def]
        gate_up, down = experts.gate_up, experts.down
        is_large = gate_up.shape[1] * gate_up.shape[2] >= few_rows.MIN_PLAIN_VALUES
        if is_large and gate_up.shape[2] % VECTOR_GROUP == 0 and down.shape[2] % VECTOR_GROUP == 0:
            up_rows, down_rows = gate_up.reshape(-1, x.shape[1]), down.reshape(-1, down.shape[2])
            thin_experts.mix(few_rows.narrowed(x), up_rows, down_rows, chosen, weights, out, parts)
        else:
            kernel(x, gate_up, down, chosen, weights, out)

    if not (_has_code_for(gate_up) and _has_code_for(down)):
        return as_they_lie
    return in_registers if is_packed else by_size


class HalfWeights(NamedTuple):
    """One attention block and one dense network. Norms are fp32, kv_b fp32 or bf16, the others bf16 or packed."""

    input_norm: Array
    qkv_a: Array
    q_norm: Array
    q_b: Array
    kv_norm: Array
    kv_b: Array
    """[heads, nope + value, rank]."""
    tiles: tuple[Array, ...]
    """`tiled_latents.numbers_of` where attention goes in tiles; then kernels are compiled for that alone."""
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


@inside
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


@njit(inline="always", **SERIAL_OPTIONS)
def _query(down: Array, half: HalfWeights, scalars: LayerScalars, step: StepArrays, parts: int) -> Array:
    """Scaled and rotated: [tokens, heads, nope + rope]."""
    rank, heads = len(half.q_norm), half.kv_b.shape[0]
    normed = np.empty((len(down), rank), np.float32)
    _norm(np.ascontiguousarray(down[:, :rank]), half.q_norm, scalars.latent_eps, normed)
    flat = np.empty((len(down), num_rows(half.q_b)), np.float32)
    _linear(half.q_b, normed, flat, parts)
    query = flat.reshape(len(down), heads, flat.shape[1] // heads)
    for token in range(len(down)):
        for head in range(heads):
            for i in range(query.shape[2]):
                query[token, head, i] *= scalars.q_scale
            _rotate(query[token, head, scalars.nope :], step.turns[token])
    return query


@inside
def _attention(
    x: Array, half: HalfWeights, scalars: LayerScalars, step: StepArrays, latents: Array, parts: int
) -> None:
    """Add its attention block to x."""
    normed = np.empty_like(x)
    _norm(x, half.input_norm, scalars.eps, normed)
    down = np.empty((len(x), num_rows(half.qkv_a)), np.float32)
    _linear(half.qkv_a, normed, down, parts)
    _write_latents(down, half, scalars, step, latents)
    query = _query(down, half, scalars, step, parts)
    heads, value = half.kv_b.shape[0], half.kv_b.shape[1] - scalars.nope
    attended = np.empty((len(x), heads, value), np.float32)
    scale, nope = scalars.score_scale, scalars.nope
    _attend(half.tiles, query, latents, step.context_slots, step.positions, half.kv_b, scale, nope, attended, parts)
    out = np.empty_like(x)
    _linear(half.o, attended.reshape(len(x), heads * value), out, parts)
    x += out


@inside
def _dense(normed: Array, half: HalfWeights, parts: int, out: Array) -> None:
    wide = np.empty((len(normed), num_rows(half.gate_up)), np.float32)
    _linear(half.gate_up, normed, wide, parts)
    width = wide.shape[1] // 2
    inner = np.empty((len(normed), width), np.float32)
    for token in range(len(normed)):
        for i in range(width):
            gate = wide[token, i]
            inner[token, i] = gate / (np.float32(1) + math.exp(-gate)) * wide[token, width + i]
    _linear(half.down, inner, out, parts)


@in_parts
def _router_logits(x: Array, weight: Array, out: Array, parts: int, part: int) -> None:
    for choice in range(len(weight) * part // parts, len(weight) * (part + 1) // parts):
        for token in range(len(x)):
            total = np.float32(0)
            for i in range(x.shape[1]):
                total += x[token, i] * weight[choice, i]
            out[token, choice] = total


@inside
def _route(x: Array, experts: ExpertWeights, scalars: LayerScalars, chosen: Array, weights: Array, parts: int) -> None:
    """Softmax over all choices; the bias steers which are taken and nothing else."""
    logits = np.empty((len(x), len(experts.router)), np.float32)
    _router_logits(x, experts.router, logits, parts)
    for token in range(len(x)):
        exponents = np.exp(logits[token] - np.max(logits[token]))
        probabilities = exponents / np.sum(exponents)
        merit = probabilities + experts.selection_bias
        for place in range(scalars.experts_per_token):
            best = np.argmax(merit)
            chosen[token, place] = best
            weights[token, place] = probabilities[best] * scalars.routed_scale
            merit[best] = -np.inf


@inside
def _experts(x: Array, experts: ExpertWeights, scalars: LayerScalars, parts: int, out: Array) -> None:
    chosen = np.empty((len(x), scalars.experts_per_token), np.int64)
    weights = np.empty((len(x), scalars.experts_per_token), np.float32)
    _route(x, experts, scalars, chosen, weights, parts)
    for token in range(len(x)):
        kept = np.float32(0)
        for place in range(scalars.experts_per_token):
            if chosen[token, place] >= scalars.num_experts:
                kept += weights[token, place]
        for i in range(x.shape[1]):
            out[token, i] = kept * x[token, i]
    _mix(x, experts, chosen, weights, out, parts)


@njit(**SERIAL_OPTIONS)
def _kernel(
    x: Array, layer: LayerWeights, step: StepArrays, first_latents: Array, second_latents: Array, parts: int
) -> Array:
    first, second, scalars = layer.first, layer.second, layer.scalars
    x = x.copy()
    normed, shortcut, dense = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    _attention(x, first, scalars, step, first_latents, parts)
    _norm(x, first.post_norm, scalars.eps, normed)
    _experts(normed, layer.experts, scalars, parts, shortcut)
    _dense(normed, first, parts, dense)
    x += dense
    _attention(x, second, scalars, step, second_latents, parts)
    _norm(x, second.post_norm, scalars.eps, normed)
    _dense(normed, second, parts, dense)
    return x + dense + shortcut


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
        latents = first_latents.numpy(), second_latents.numpy()
        return torch.from_numpy(_kernel(x.numpy(), layer, step, *latents, get_num_threads()))
