"""The draft block against plain formulas: what it reads, in which order, and where it keeps its KV."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.oracle import Fault, Oracle, tensors_of
from engine.playing import play, relative_error
from kodkod_engine.models.config import load_config
from kodkod_engine.models.loading import build_model, load_model

IDS = [5, 9, 300, 9, 2, 40, 41, 42, 43]
NEXT_IDS = [*IDS[1:], 44]


@torch.inference_mode()
def drafted(loaded, chunks):
    """Run model and draft block over IDS in chunks: hidden states of both, [tokens, hidden]."""
    played, model = play(loaded)[0], loaded.model
    hidden, draft = [], []
    for start, stop in chunks:
        batch = played.runner.batch([played.run(IDS[start:stop])])
        hidden.append(model.norm(model(batch, played.runner.cache)))
        follows = replace(batch, token_ids=torch.tensor(NEXT_IDS[start:stop]), windows=None)
        draft.append(loaded.mtp(hidden[-1], follows, model.rope_table(batch.positions), played.runner.cache))
    return torch.cat(hidden), torch.cat(draft), played


def test_seventeen_tensors_arrive(tiny, tiny_folder):
    stored = {name: tensor for name, tensor in tensors_of(tiny_folder).items() if name.startswith("model.mtp.")}
    slots = dict(tiny.mtp.checkpoint_slots())
    assert len(slots) == 17
    assert set(slots) == set(stored)
    for name, slot in slots.items():
        assert torch.equal(slot, stored[name]), name


def test_sizes_at_the_published_model(lite_folder):
    _, mtp = build_model(
        load_config(lite_folder),
        with_mtp=True,
        dtype=torch.bfloat16,
        activation_dtype=torch.bfloat16,
        device="meta",
    )
    assert mtp is not None
    assert sum(parameter.numel() for parameter in mtp.parameters()) == 510_870_528


@pytest.mark.parametrize("chunks", [[(0, 9)], [(0, 4), (4, 9)], [(place, place + 1) for place in range(9)]])
def test_equals_the_formulas(tiny, tiny_folder, chunks):
    hidden, draft, _ = drafted(tiny, chunks)
    oracle = Oracle(tiny_folder)
    wanted = oracle.mtp(hidden.double(), NEXT_IDS)
    assert relative_error(draft, wanted) < 1e-5
    with torch.inference_mode():
        assert relative_error(tiny.model.head(draft), oracle.head(wanted)) < 1e-5


@pytest.mark.parametrize("fault", [Fault.MTP_HIDDEN_FIRST, Fault.MTP_MEAN_EMBEDDING, Fault.NO_MSCALE, Fault.NO_YARN])
def test_a_mistake_would_show(tiny, tiny_folder, fault):
    hidden, draft, _ = drafted(tiny, [(0, 9)])
    assert relative_error(draft, Oracle(tiny_folder, fault).mtp(hidden.double(), NEXT_IDS)) > 1e-2


def test_its_norms_take_the_configs_epsilon_and_its_latents_their_own(tiny):
    mtp = tiny.mtp
    assert {mtp.attention.q_norm.eps, mtp.attention.kv_norm.eps} == {1e-6}
    norms = (mtp.embedding_norm, mtp.hidden_norm, mtp.input_norm, mtp.post_norm, mtp.norm)
    assert {norm.eps for norm in norms} == {1e-5}


def test_it_keeps_its_kv_in_a_layer_of_its_own(tiny):
    assert tiny.num_cache_layers == 5
    assert tiny.mtp.attention.cache_layer == 4
    played, model = play(tiny)[0], tiny.model
    cache = played.runner.cache
    with torch.inference_mode():
        batch = played.runner.batch([played.run(IDS)])
        hidden = model.norm(model(batch, cache))
        before = cache._latents.clone()
        follows = replace(batch, token_ids=torch.tensor(NEXT_IDS), windows=None)
        tiny.mtp(hidden, follows, model.rope_table(batch.positions), cache)
    assert torch.equal(cache._latents[:4, : len(IDS)], before[:4, : len(IDS)])
    assert not torch.equal(cache._latents[4, : len(IDS)], before[4, : len(IDS)])


@torch.inference_mode()
def test_several_steps_feed_on_their_own_output(tiny, tiny_folder):
    """After the target's last position the block drafts two more tokens, each from its own last output."""
    oracle = Oracle(tiny_folder)
    hidden, draft, played = drafted(tiny, [(0, 9)])
    inputs, next_ids = hidden.double(), list(NEXT_IDS)
    for _ in range(2):
        token = int(tiny.model.head(draft[-1:]).argmax())
        batch = played.runner.batch([played.run([token])])
        step = replace(batch, token_ids=torch.tensor([token]), windows=None)
        previous = draft[-1:]
        draft = tiny.mtp(previous, step, tiny.model.rope_table(batch.positions), played.runner.cache)
        inputs, next_ids = torch.cat([inputs, previous.double()]), [*next_ids, token]
        assert relative_error(draft, oracle.mtp(inputs, next_ids)[-1:]) < 1e-5


def test_left_out_it_costs_no_cache_layer(tiny_folder):
    loaded = load_model(tiny_folder, mtp=False)
    assert loaded.mtp is None
    assert loaded.num_cache_layers == 4
