"""The backbone against transformers' own LongCat-Flash, in fp32, from the same checkpoint files.

That class has no N-gram part, so the plain architecture is compared token by token, and the N-gram model by handing it
our input embeddings. Deviations are relative to the spread (max - min) of the logits.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch

from engine.oracle import Oracle, tensors_of
from engine.playing import Played, play, play_scattered, relative_error
from kodkod_engine.layers.rotary import Rotary, rotate
from kodkod_engine.models.loading import LoadedModel, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their imports; ours stay errors
    from transformers import DynamicCache, LongcatFlashConfig, LongcatFlashForCausalLM
    from transformers.models.longcat_flash import modeling_longcat_flash as theirs

BOUND = 1e-5
"""Measured 0.7e-6 to 1.5e-6."""
SHARED_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_attention_heads",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "ffn_hidden_size",
    "expert_ffn_hidden_size",
    "n_routed_experts",
    "zero_expert_num",
    "moe_topk",
    "routed_scaling_factor",
    "rms_norm_eps",
    "max_position_embeddings",
)
"""Keys that mean the same in both configs."""
VOCAB = 512


@dataclass
class Pair:
    """One checkpoint in both."""

    loaded: LoadedModel
    other: LongcatFlashForCausalLM


def config_of(hidden: int, architecture: str) -> dict[str, object]:
    heads = hidden // 64
    return {
        **TINY,
        "architectures": [architecture],
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "q_lora_rank": hidden // 2,
        "kv_lora_rank": hidden // 4,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 64,
        "v_head_dim": 32,
        "ffn_hidden_size": 2 * hidden,
        "expert_ffn_hidden_size": hidden // 4,
        "n_routed_experts": 16,
        "zero_expert_num": 8,
        "moe_topk": 6,
        "emb_neighbor_num": 3,
        "emb_split_num": 2,
    }


def their_config(values: dict[str, object]) -> LongcatFlashConfig:
    yarn = dict(values["rope_scaling"])
    rope = {**yarn, "rope_type": yarn.pop("type"), "rope_theta": values["rope_theta"]}
    return LongcatFlashConfig(
        **{name: values[name] for name in SHARED_KEYS},
        head_dim=values["qk_rope_head_dim"],
        rope_parameters=rope,
        attn_implementation="eager",
    )


def their_model(folder, values: dict[str, object]) -> LongcatFlashForCausalLM:
    """Ours by name; only the experts are fused there, with room for identity experts that stays unused."""
    tensors = tensors_of(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LongcatFlashForCausalLM(their_config(values)).eval()
    wanted = model.state_dict()
    state = {name: tensors[name] for name in wanted if name in tensors}
    for layer in range(values["num_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts."
        fused = torch.full_like(wanted[f"{prefix}gate_up_proj"], float("nan"))
        for expert in range(values["n_routed_experts"]):
            parts = [tensors[f"{prefix}{expert}.{part}_proj.weight"] for part in ("gate", "up")]
            fused[expert] = torch.cat(parts)
        down = [tensors[f"{prefix}{expert}.down_proj.weight"] for expert in range(values["n_routed_experts"])]
        state |= {f"{prefix}gate_up_proj": fused, f"{prefix}down_proj": torch.stack(down)}
    model.load_state_dict(state, strict=True)
    return model


def pair_of(folder, hidden: int, architecture: str) -> Pair:
    values = config_of(hidden, architecture)
    write_random_checkpoint(folder, values, seed=hidden, with_mtp=False)
    return Pair(load_model(folder), their_model(folder, values))


@pytest.fixture(scope="module", params=[256, 512], ids="hidden {}".format)
def pair(request, tmp_path_factory) -> Pair:
    return pair_of(tmp_path_factory.mktemp("backbone"), request.param, "LongcatFlashForCausalLM")


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return torch.randint(0, VOCAB, (300,), generator=torch.Generator().manual_seed(9)).tolist()


@pytest.fixture(scope="module")
def wanted(pair, ids) -> torch.Tensor:
    with torch.inference_mode():
        return pair.other(torch.tensor([ids])).logits[0]


def assert_equal(got, wanted):
    assert relative_error(got, wanted) < BOUND
    assert torch.equal(got.argmax(-1), wanted.argmax(-1))


def test_prefill_in_one_pass(pair, ids, wanted):
    assert_equal(play(pair.loaded)[0].feed(ids), wanted)


@pytest.mark.parametrize("size", [128, 45])
def test_prefill_in_chunks(pair, ids, wanted, size):
    assert_equal(play_scattered(pair.loaded)[0].feed_in_chunks(ids, size), wanted)


def test_decoding_token_by_token(pair, ids, wanted):
    """Both with their caches, after a prompt of 276 tokens."""
    played = play(pair.loaded)[0]
    got = torch.cat([played.feed(ids[:276]), played.feed_in_chunks(ids[276:], 1)])
    assert_equal(got, wanted)
    cache = DynamicCache(config=pair.other.config)
    with torch.inference_mode():
        pair.other(torch.tensor([ids[:294]]), past_key_values=cache)
        steps = [pair.other(torch.tensor([[token]]), past_key_values=cache).logits[0] for token in ids[294:]]
    assert_equal(got[294:], torch.cat(steps))


def test_the_whole_n_gram_model_from_its_input_embeddings(tmp_path):
    """The embedding by plain formulas, everything after it by transformers."""
    pair = pair_of(tmp_path, 256, "LongcatFlashNgramForCausalLM")
    ids = [7, 8, 2, 7, 8, 9, 500, 2, 2, 1, 30, 31, 32, 33, 7, 8]
    with torch.inference_mode():
        embeddings = Oracle(tmp_path).embed(ids).float()[None]
        wanted = pair.other(inputs_embeds=embeddings).logits[0]
    assert_equal(play(pair.loaded)[0].feed(ids), wanted)


@torch.inference_mode()
def test_the_router(pair):
    ours = pair.loaded.model.dual_layers[1].experts.router
    other = pair.other.model.layers[1].mlp.router
    x = torch.randn(200, pair.loaded.config.hidden_size, generator=torch.Generator().manual_seed(0))
    chosen, weights = ours(x)
    _, their_weights, their_chosen = other(x)
    order, their_order = chosen.argsort(1), their_chosen.argsort(1)
    assert torch.equal(chosen.gather(1, order), their_chosen.gather(1, their_order))
    assert torch.allclose(weights.gather(1, order), their_weights.gather(1, their_order), rtol=1e-5)


@torch.inference_mode()
def test_the_experts(pair):
    x = torch.randn(100, pair.loaded.config.hidden_size, generator=torch.Generator().manual_seed(0))
    got = pair.loaded.model.dual_layers[0].experts(x)
    assert relative_error(got, pair.other.model.layers[0].mlp(x[None])[0]) < 1e-5


def prepared(played: Played, ids):
    batch = played.runner.batch([played.run(ids)])
    return batch, played.runner.loaded.model.rope_table(batch.positions)


def their_surroundings(pair, x):
    positions = torch.arange(len(x))[None]
    hidden = torch.full((len(x), len(x)), float("-inf")).triu(1)[None, None]
    return pair.other.model.rotary_emb(x[None], positions), hidden


@torch.inference_mode()
def test_one_attention_block(pair, ids):
    played = play(pair.loaded)[0]
    batch, table = prepared(played, ids[:60])
    x = torch.randn(60, pair.loaded.config.hidden_size, generator=torch.Generator().manual_seed(0))
    rope, mask = their_surroundings(pair, x)
    got = pair.loaded.model.dual_layers[1].second.attention(x, batch, table, played.runner.cache)
    wanted, _ = pair.other.model.layers[1].self_attn[1](x[None], rope, mask)
    assert relative_error(got, wanted[0]) < 1e-5


@torch.inference_mode()
def test_one_dual_layer(pair, ids):
    played = play(pair.loaded)[0]
    batch, table = prepared(played, ids[:60])
    x = torch.randn(60, pair.loaded.config.hidden_size, generator=torch.Generator().manual_seed(0))
    rope, mask = their_surroundings(pair, x)
    got = pair.loaded.model.dual_layers[0](x, batch, table, played.runner.cache)
    assert relative_error(got, pair.other.model.layers[0](x[None], mask, position_embeddings=rope)[0]) < 1e-5


@pytest.mark.parametrize("first", [0, 32_760, 327_600])
def test_rotation_at_any_position(pair, first):
    """Also far beyond the original context: YaRN is the same everywhere."""
    positions = torch.arange(first, first + 16)
    query, key = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    cos, sin = pair.other.model.rotary_emb(query[None], positions[None])
    turned = theirs.apply_rotary_pos_emb_interleave(query[None, None], key[None, None], cos, sin)
    # They leave the first and the second of each pair in halves.
    wanted = [torch.stack(x[0, 0].chunk(2, -1), -1).flatten(1) for x in turned]
    table = Rotary(pair.loaded.config.rope).table(positions)
    for x, other in zip((query, key), wanted, strict=True):
        assert torch.allclose(rotate(x, table), other, atol=1e-5)


@torch.inference_mode()
def test_a_sequence_far_beyond_the_original_context(pair, ids):
    """Positions from 40,000 on, by moving both models' rotations alone; scores depend on distances."""
    table = pair.loaded.model.rope_table(torch.arange(40_000, 40_060))
    played = play(pair.loaded)[0]
    batch, _ = prepared(played, ids[:60])
    x = pair.loaded.model.embed(batch)
    for layer in pair.loaded.model.dual_layers:
        x = layer(x, batch, table, played.runner.cache)
    positions = torch.arange(40_000, 40_060)[None]
    wanted = pair.other(torch.tensor([ids[:60]]), position_ids=positions, attention_mask=causal(60)).logits[0]
    assert_equal(pair.loaded.model.logits(x), wanted)


def causal(length: int) -> torch.Tensor:
    return torch.full((length, length), float("-inf")).triu(1)[None, None]


def test_scores_are_scaled_alike(pair):
    assert pair.loaded.config.score_scale == pytest.approx(pair.other.model.layers[0].self_attn[0].scaling, rel=1e-9)
