"""What the N-gram branch costs: the same backbone with it, without it, and with its tables off the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from gpu_bench import Bench
from gpu_model import BLOCK_SIZE, Player, fill, other_embedding
from gpu_record import Rows
from torch import nn

from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.pinned import PinningFailed, pinned_empty
from kodkod_engine.models.loading import LoadedModel
from kodkod_engine.models.ngram_spec import NgramSpec, polynomial_spec
from kodkod_engine.models.step_graphs import StepGraphs

PIECE_ROWS = 1 << 21


def isolation(bench: Bench) -> Rows:
    """The N-gram branch: the same backbone with and without it, its tables on the device and in pinned memory."""
    loaded, graphs = bench.loaded(), StepGraphs(bench.device.torch)
    yield from _branch(bench, loaded, graphs, "resident tables", loaded.model.embedding)
    yield from _branch(bench, loaded, graphs, "none", None)
    embedding = pinned_embedding(bench, loaded, _smaller(bench, _own(loaded).spec))
    for start in range(0, len(_table(embedding)), PIECE_ROWS):
        piece = _table(embedding)[start : start + PIECE_ROWS]
        piece.copy_(torch.randn(piece.shape, dtype=piece.dtype, device=bench.device.torch))
    for row in _branch(bench, loaded, graphs, "pinned tables", embedding):
        yield row | {"pinned_gb": _table(embedding).nbytes / 1e9, "note": "fewer rows than published, hit at random"}


def whole_tables(bench: Bench) -> Rows:
    """Tables of their full size in pinned memory, unset: beside the quickest steps, where a loss shows most."""
    loaded, graphs = bench.loaded("int4"), StepGraphs(bench.device.torch)
    yield {"to_be_pinned_gb": _table(_own(loaded)).nbytes / 1e9}
    made: list[NgramEmbedding] = []
    spent = bench.device.seconds(lambda: made.append(pinned_embedding(bench, loaded, _own(loaded).spec)))
    yield {"pinned_gb": _table(made[0]).nbytes / 1e9, "pinning_s": spent}
    yield from _branch(bench, loaded, graphs, "int4, resident tables", loaded.model.embedding)
    yield from _branch(bench, loaded, graphs, "int4, pinned tables", made[0])
    yield from _branch(bench, loaded, graphs, "int4, none", None)


def _table(embedding: NgramEmbedding) -> torch.Tensor:
    assert embedding.resident is not None
    return embedding.resident.weight


@torch.inference_mode()
def _branch(bench: Bench, loaded: LoadedModel, graphs: StepGraphs, name: str, embedding: NgramEmbedding | None) -> Rows:
    """Decoding and a prompt with one embedding; the last player makes room, so that only one is there.

    `graphs` are those of all branches: in the order that the first found quickest, for orders differ by more.
    """
    bench.drop_player()
    scale = bench.scale
    # A loss of a hundredth is to be seen.
    scale = replace(scale, steps=scale.steps if bench.is_dry else 4 * scale.steps)
    batches = sorted({1, min(16, max(scale.batches))})
    with other_embedding(loaded, embedding):
        longest = scale.short_context + scale.warm_steps + scale.steps + 2 * BLOCK_SIZE
        player = Player(loaded, max(batches) * longest, bench.device)
        player.fused.graphs = graphs
        for batch in batches:
            spent, replay_s = player.decode_s(batch, scale.short_context, 1, scale)
            graph = {} if replay_s is None else {"graph_ms": replay_s * 1e3}
            yield {"branch": name, "batch": batch, "step_ms": spent * 1e3, **graph}
        length = min(scale.prompts[0], player.num_tokens - BLOCK_SIZE)
        spent = min(player.prefill_s(0, length, scale.chunk_tokens) for _ in range(3))
        yield {"branch": name, "prompt": length, "seconds": spent}


def _own(loaded: LoadedModel) -> NgramEmbedding:
    assert loaded.model.embedding is not None
    return loaded.model.embedding


@contextmanager
def tables_away(bench: Bench) -> Iterator[LoadedModel]:
    """The bf16 model with fewer rows, in pinned memory; its own tables make room and are made anew afterwards."""
    bench.drop_player()
    loaded = bench.loaded()
    own, pinned = _own(loaded), pinned_embedding(bench, loaded, _smaller(bench, _own(loaded).spec))
    assert own.resident is not None
    shape = _table(own).shape
    own.resident.weight = nn.Parameter(_table(own).new_empty(0), requires_grad=False)
    try:
        with other_embedding(loaded, pinned):
            yield loaded
    finally:
        own.resident.weight = nn.Parameter(_table(own).new_empty(shape), requires_grad=False)
        fill(own.resident, "weight", own.resident.weight)


def _smaller(bench: Bench, spec: NgramSpec) -> NgramSpec:
    return polynomial_spec(
        vocab_size=bench.config.vocab_size,
        ratio=bench.scale.pinned_ratio,
        order_limit=spec.context_tokens + 1,
        splits=spec.num_tables // spec.context_tokens,
        table_width=spec.table_width,
        border_ids=frozenset(spec.border_ids),
    )


def pinned_embedding(bench: Bench, loaded: LoadedModel, spec: NgramSpec) -> NgramEmbedding:
    """As the model's own, sharing words and projection, with unset tables in pinned memory."""
    own = _own(loaded)
    with torch.device("meta"):
        embedding = NgramEmbedding(spec, bench.config.vocab_size, bench.config.hidden_size, dtype=own.dtype)
    embedding.word, embedding.projection = own.word, own.projection
    shape, dtype = tuple(_table(embedding).shape), own.word.dtype
    try:
        memory = pinned_empty(shape, dtype, embedding)
    except PinningFailed:
        if bench.device.is_cuda:
            raise
        memory = torch.empty(shape, dtype=dtype)
    assert embedding.resident is not None
    embedding.resident.weight = nn.Parameter(memory, requires_grad=False)
    return embedding
