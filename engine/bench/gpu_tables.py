"""What the N-gram branch costs: the same backbone with it, without it, and with its tables off the device."""

from __future__ import annotations

from dataclasses import replace

import torch
from gpu_bench import Bench
from gpu_model import BLOCK_SIZE, Player, other_embedding
from gpu_record import Rows
from torch import nn

from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.pinned import PinningFailed, pinned_empty
from kodkod_engine.models.loading import LoadedModel
from kodkod_engine.models.ngram_spec import polynomial_spec


def isolation(bench: Bench) -> Rows:
    """The N-gram branch: the same backbone with and without it, its tables on the device and in pinned memory."""
    loaded = bench.loaded()
    yield from _branch(bench, "resident tables", loaded.model.embedding)
    yield from _branch(bench, "none", None)
    embedding = _pinned_embedding(bench, loaded)
    assert embedding.resident is not None
    pinned_gb = embedding.resident.weight.nbytes / 1e9
    for row in _branch(bench, "pinned tables", embedding):
        yield row | {"pinned_gb": pinned_gb, "note": "fewer rows than published, hit at random"}


@torch.inference_mode()
def _branch(bench: Bench, name: str, embedding: NgramEmbedding | None) -> Rows:
    """Decoding and a prompt with one embedding; the last player makes room, so that only one is there."""
    bench.drop_player()
    loaded, scale = bench.loaded(), bench.scale
    # A loss of a hundredth is to be seen.
    scale = replace(scale, steps=scale.steps if bench.is_dry else 4 * scale.steps)
    batches = sorted({1, min(16, max(scale.batches))})
    with other_embedding(loaded, embedding):
        player = Player(loaded, max(batches) * (scale.short_context + 64), bench.device)
        for batch in batches:
            spent, replay_s = player.decode_s(batch, scale.short_context, 1, scale)
            graph = {} if replay_s is None else {"graph_ms": replay_s * 1e3}
            yield {"branch": name, "batch": batch, "step_ms": spent * 1e3, **graph}
        length = min(scale.prompts[0], player.num_tokens - BLOCK_SIZE)
        spent = min(player.prefill_s(0, length, scale.chunk_tokens) for _ in range(3))
        yield {"branch": name, "prompt": length, "seconds": spent}


def _pinned_embedding(bench: Bench, loaded: LoadedModel) -> NgramEmbedding:
    """As the model's own, sharing words and projection, with smaller tables in pinned memory."""
    own = loaded.model.embedding
    assert own is not None
    spec = polynomial_spec(
        vocab_size=bench.config.vocab_size,
        ratio=bench.scale.pinned_ratio,
        order_limit=own.spec.context_tokens + 1,
        splits=own.spec.num_tables // own.spec.context_tokens,
        table_width=own.spec.table_width,
        border_ids=frozenset(own.spec.border_ids),
    )
    with torch.device("meta"):
        embedding = NgramEmbedding(spec, bench.config.vocab_size, bench.config.hidden_size, dtype=own.dtype)
    embedding.word, embedding.projection = own.word, own.projection
    assert embedding.resident is not None
    embedding.resident.weight = nn.Parameter(_pinned_values(bench, embedding), requires_grad=False)
    return embedding


def _pinned_values(bench: Bench, embedding: NgramEmbedding) -> torch.Tensor:
    assert embedding.resident is not None
    shape, dtype = tuple(embedding.resident.weight.shape), embedding.word.dtype
    try:
        memory = pinned_empty(shape, dtype, embedding)
    except PinningFailed:
        if bench.device.is_cuda:
            raise
        memory = torch.empty(shape, dtype=dtype)
    for start in range(0, shape[0], 1 << 21):
        piece = memory[start : start + (1 << 21)]
        piece.copy_(torch.randn(piece.shape, dtype=dtype, device=bench.device.torch))
    return memory
