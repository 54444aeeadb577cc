"""Decoding and a prompt with all experts in pinned host memory: what a card without room for them makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from gpu_bench import Bench
from gpu_model import BLOCK_SIZE, Player, step_bytes
from gpu_record import Rows
from torch import nn

from kodkod_engine.layers.packed import PackedParameter
from kodkod_engine.layers.pinned import PinningFailed, pinned_empty
from kodkod_engine.models.loading import LoadedModel

PRECISION = "int4"


@torch.inference_mode()
def pinned_experts(bench: Bench) -> Rows:
    """Beside the same model with its experts on the device, at few sequences and over a prompt."""
    loaded = bench.loaded(PRECISION)
    bench.drop_player()
    yield from _measured(bench, loaded, "on the device", is_pinned=False)
    with experts_in_pinned_memory(bench, loaded) as num_bytes:
        yield {"experts": "pinned", "pinned_gb": num_bytes / 1e9}
        yield from _measured(bench, loaded, "pinned", is_pinned=True)


def _measured(bench: Bench, loaded: LoadedModel, name: str, *, is_pinned: bool) -> Rows:
    scale = replace(bench.scale, steps=min(8, bench.scale.steps), warm_steps=min(3, bench.scale.warm_steps))
    batches = scale.batches[:2]
    longest = scale.short_context + scale.steps + scale.warm_steps + 2 * BLOCK_SIZE
    length = min(scale.prompts[0], max(batches) * longest - BLOCK_SIZE)
    player = Player(loaded, max(batches) * longest, bench.device)
    for batch in batches:
        runs = player.runs(batch, scale.short_context, 1)
        distinct = player.distinct_experts(player.batch(runs))
        spent, _ = player.decode_s(batch, scale.short_context, 1, scale)
        limit_s = _limit_s(bench, player, distinct, batch, is_pinned=is_pinned)
        yield {
            "experts": name,
            "batch": batch,
            "step_ms": spent * 1e3,
            "tokens_per_s": batch / spent,
            "distinct_experts": distinct,
            "fraction": limit_s / spent,
        }
    spent = min(player.prefill_s(0, length, scale.chunk_tokens) for _ in range(2))
    yield {"experts": name, "prompt": length, "seconds": spent}


def _limit_s(bench: Bench, player: Player, distinct: float, batch: int, *, is_pinned: bool) -> float:
    """Reading everything from the device's memory; experts over the link where they are pinned."""
    read, link = bench.ceilings.read_bytes_per_s, bench.ceilings.to_device_bytes_per_s
    whole = step_bytes(player, distinct, batch, bench.scale.short_context)
    if not is_pinned or link is None:
        return whole / read
    layers = player.loaded.model.dual_layers
    each = sum(home.nbytes for home in layers[0].experts.homes) / player.loaded.config.num_experts
    over_link = len(layers) * distinct * each
    return (whole - over_link) / read + over_link / link


@contextmanager
def experts_in_pinned_memory(bench: Bench, loaded: LoadedModel) -> Iterator[int]:
    """Experts copied to pinned memory, and theirs on the device put back afterwards; hands out the bytes."""
    homes = [part for layer in loaded.model.dual_layers for part in layer.experts.children() if _is_packed(part)]
    own = [(part, name, tensor) for part in homes for name, tensor in part.named_parameters(recurse=False)]
    owners = [nn.Module() for _ in own]
    try:
        for owner, (part, name, tensor) in zip(owners, own, strict=True):
            setattr(part, name, nn.Parameter(_pinned(bench, tensor, owner), requires_grad=False))
        yield sum(tensor.nbytes for _, _, tensor in own)
    finally:
        bench.device.wait()
        for part, name, tensor in own:
            setattr(part, name, tensor)


def _is_packed(part: nn.Module) -> bool:
    return isinstance(part, PackedParameter)


def _pinned(bench: Bench, tensor: torch.Tensor, owner: nn.Module) -> torch.Tensor:
    try:
        memory = pinned_empty(tuple(tensor.shape), tensor.dtype, owner)
    except PinningFailed:
        if bench.device.is_cuda:
            raise
        memory = torch.empty_like(tensor)
    return memory.copy_(tensor)
