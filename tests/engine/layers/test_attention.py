"""Latent attention: its two forms against each other and against a loop; positions against complex arithmetic."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.playing import play, relative_error
from kodkod_engine.layers import linear as linear_module
from kodkod_engine.layers import tiled_attention
from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.rotary import Rotary, inverse_frequencies, rotate
from kodkod_engine.layers.step_batch import AttentionGroup
from kodkod_engine.models.config import ModelConfig, RopeSpec, load_config


def attention_of(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32) -> LatentAttention:
    attention = LatentAttention(config, 0)
    generator = torch.Generator().manual_seed(seed)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
    return attention.to(dtype)


def shaped(config: ModelConfig, heads: int, nope: int, rope: int, value: int, rank: int) -> ModelConfig:
    return replace(
        config,
        num_heads=heads,
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=value,
        kv_lora_rank=rank,
        rope=replace(config.rope, dim=rope),
    )


def by_loop(attention: LatentAttention, query, latents, positions):
    """[new, heads, dim], [context, rank + rope], [new] -> [new, heads, value], each score on its own, in float64."""
    config = attention.config
    nope, value, rank = config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank
    weight = attention.kv_b.weight.double().view(config.num_heads, nope + value, rank)
    query, latents = query.double(), latents.double()
    out = torch.zeros(len(query), config.num_heads, value, dtype=torch.float64)
    for row, position in enumerate(positions.tolist()):
        for head in range(config.num_heads):
            seen = latents[: position + 1]
            keys = torch.cat([seen[:, :rank] @ weight[head, :nope].T, seen[:, rank:]], dim=1)
            scores = [float(key @ query[row, head]) * config.score_scale for key in keys]
            top = max(scores)
            shares = [math.exp(score - top) for score in scores]
            for latent, share in zip(seen, shares, strict=True):
                out[row, head] += share / sum(shares) * (weight[head, nope:] @ latent[:rank])
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 9), st.sampled_from([2, 4, 8]), st.integers(1, 9), st.integers(1, 12), st.data()
)
def test_absorbed_equals_expanded_equals_a_loop(tiny, heads, nope, rope, value, rank, data):
    config = shaped(tiny.config, heads, nope, rope, value, rank)
    attention = attention_of(config, data.draw(st.integers(0, 9)))
    sequences, new = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    contexts = [data.draw(st.integers(new, new + 8)) for _ in range(sequences)]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    query = torch.randn(sequences, new, heads, nope + rope, generator=generator)
    latents = torch.randn(sequences, max(contexts), rank + rope, generator=generator)
    positions = torch.stack([torch.arange(context - new, context) for context in contexts])
    absorbed, expanded = (form(query, latents, positions) for form in (attention.absorbed, attention.expanded))
    wanted = torch.stack([by_loop(attention, *one) for one in zip(query, latents, positions, strict=True)])
    size = float(wanted.abs().max())
    assert float((absorbed - wanted).abs().max()) < 1e-5 * size
    assert float((expanded - wanted).abs().max()) < 1e-5 * size


@pytest.mark.parametrize("form", ["absorbed", "expanded"])
def test_what_lies_beyond_a_position_is_never_seen(tiny, form):
    """Padding may hold anything finite; nothing changes, to the bit."""
    attention = attention_of(tiny.config, 0)
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 3, 4, 24, generator=generator)
    latents = torch.randn(2, 9, 40, generator=generator)
    positions = torch.tensor([[2, 3, 4], [6, 7, 8]])
    attend = getattr(attention, form)
    before = attend(query, latents, positions)
    latents[0, 5:] = 1e30
    assert torch.equal(attend(query, latents, positions), before)
    latents[0, 4] += 1
    after = attend(query, latents, positions)
    assert torch.equal(after[0, :2], before[0, :2])
    assert not torch.equal(after[0, 2], before[0, 2])


@pytest.mark.parametrize("tile_rows", [1, 2, 3, 64])
def test_tiles_join_without_a_seam(tiny, monkeypatch, tile_rows):
    attention = attention_of(tiny.config, 0)
    generator = torch.Generator().manual_seed(1)
    query, latents = torch.randn(1, 11, 4, 24, generator=generator), torch.randn(1, 11, 40, generator=generator)
    positions = torch.arange(11)[None]
    whole = attention.expanded(query, latents, positions)
    monkeypatch.setattr(tiled_attention, "MAX_SCORE_VALUES", tile_rows * 4 * 11)
    assert relative_error(attention.expanded(query, latents, positions), whole) < 1e-6


def test_scores_over_the_limit_are_tiled(tiny, monkeypatch):
    attention = attention_of(tiny.config, 0)
    sizes = []
    original = tiled_attention._attend_one_head

    def counted(query, key, value, mask, visible):
        sizes.append(len(query) * visible)
        return original(query, key, value, mask, visible)

    monkeypatch.setattr(tiled_attention, "_attend_one_head", counted)
    monkeypatch.setattr(tiled_attention, "MAX_SCORE_VALUES", 100)
    attention.expanded(torch.randn(1, 8, 4, 24), torch.randn(1, 8, 40), torch.arange(8)[None])
    assert max(sizes) <= 100
    assert len(sizes) > 1


@pytest.mark.parametrize(("new", "context", "absorbs"), [(1, 4096, True), (8, 4096, True), (512, 512, False)])
def test_few_new_tokens_are_absorbed_and_prefill_is_expanded(lite_folder, new, context, absorbs):
    with torch.device("meta"):
        attention = LatentAttention(load_config(lite_folder), 0)
    positions = torch.arange(context - new, context)[None]
    group = AttentionGroup(slice(0, new), 1, new, slice(0, context), context, positions)
    assert attention._absorbing_is_cheaper(group) is absorbs


def test_whichever_form_is_taken_the_model_says_the_same(tiny, monkeypatch):
    ids = list(range(3, 40))
    outputs = []
    for absorb in (True, False):
        monkeypatch.setattr(LatentAttention, "_absorbing_is_cheaper", lambda *_, absorb=absorb: absorb)
        outputs.append(play(tiny)[0].feed_in_chunks(ids, 5))
    assert relative_error(outputs[0], outputs[1]) < 1e-5


def test_yarn_frequencies_at_the_published_sizes(lite_folder):
    """Pairs 0 to 10 as they are, 18 and beyond slowed ten times, a straight blend between."""
    rope = load_config(lite_folder).rope
    got = inverse_frequencies(rope).double()
    plain = torch.tensor([5e6 ** (-2 * k / 64) for k in range(32)], dtype=torch.float64)
    assert torch.allclose(got[:11], plain[:11], rtol=1e-5)
    assert torch.allclose(got[18:], plain[18:] / 10, rtol=1e-5)
    for k in range(10, 19):
        ramp = (k - 10) / 8
        assert float(got[k]) == pytest.approx(float(plain[k]) * (1 - ramp + ramp / 10), rel=1e-5)
    assert rope.table_scale == 1.0
    assert rope.score_scale == pytest.approx(1.513536, abs=1e-6)


def test_yarns_blend_may_end_beyond_the_last_pair():
    """As the published class has it: 8 ln(1e6 / 2 pi) / (2 ln 1e4) = 5.2, though pairs end at 3."""
    rope = RopeSpec(8, 10_000.0, 4.0, 1_000_000, beta_fast=10_000.0)
    wanted = [plain * (1 - ramp + ramp / 4) for plain, ramp in ((1, 0), (0.1, 0), (0.01, 0.2), (0.001, 0.4))]
    assert inverse_frequencies(rope).tolist() == pytest.approx(wanted, rel=1e-5)


def test_tables_have_their_scale():
    rope = RopeSpec(4, 10_000.0, 10.0, 32768)
    got = rotate(torch.tensor([[3.0, 4.0, 6.0, 8.0]]), Rotary(rope).table(torch.tensor([77])))
    assert got[0].view(2, 2).norm(dim=1).tolist() == pytest.approx([5 * 1.2302585, 10 * 1.2302585], rel=1e-5)


def test_without_yarn_frequencies_and_scores_are_plain():
    rope = RopeSpec(dim=8, theta=10_000.0)
    assert torch.allclose(inverse_frequencies(rope), torch.tensor([1.0, 0.1, 0.01, 0.001]))
    assert (rope.score_scale, rope.table_scale) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("mscale", "mscale_all_dim", "table", "scores"),
    [(1.0, 1.0, 1.0, 1.513536), (0.0, 0.0, 1.2302585, 1.0), (0.707, 1.0, 0.945161, 1.513536)],
)
def test_mscale_goes_to_tables_or_scores(mscale, mscale_all_dim, table, scores):
    rope = RopeSpec(64, 5e6, 10.0, 32768, mscale=mscale, mscale_all_dim=mscale_all_dim)
    assert rope.table_scale == pytest.approx(table, abs=1e-6)
    assert rope.score_scale == pytest.approx(scores, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 2000), min_size=1, max_size=6), st.sampled_from([1.0, 10.0]))
def test_rotation_is_a_product_of_complex_numbers(pairs, positions, factor):
    rope = RopeSpec(2 * pairs, 5e6, factor, 32768, mscale=1.0, mscale_all_dim=1.0)
    x = torch.randn(len(positions), 2 * pairs, generator=torch.Generator().manual_seed(0))
    got = rotate(x, Rotary(rope).table(torch.tensor(positions)))
    frequencies = inverse_frequencies(rope).tolist()
    for row, position in enumerate(positions):
        for k, frequency in enumerate(frequencies):
            turned = complex(x[row, 2 * k], x[row, 2 * k + 1]) * cmath.exp(1j * position * frequency)
            assert complex(got[row, 2 * k], got[row, 2 * k + 1]) == pytest.approx(turned, abs=2e-3)


def test_products_depend_on_the_distance_alone(lite_folder):
    rotary = Rotary(load_config(lite_folder).rope)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 64, generator=generator)

    def product(at: int, distance: int) -> float:
        turned = [rotate(x, rotary.table(torch.tensor([p]))) for x, p in ((query, at + distance), (key, at))]
        return float((turned[0] * turned[1]).sum())

    for distance in (0, 1, 100):
        assert product(0, distance) == pytest.approx(product(1000, distance), abs=1e-2)
    assert product(0, 1) != pytest.approx(product(0, 2), abs=1e-2)


def test_the_rope_key_is_shared_and_the_cache_holds_scaled_latents(tiny):
    """What the cache keeps for one token: the scaled latent, then the turned rope key."""
    played = play(tiny, tokens=4)[0]
    played.feed([5])
    played.feed([9])
    attention = tiny.model.dual_layers[0].first.attention
    config = tiny.config
    words = play(tiny)[0]
    with torch.inference_mode():
        batch = words.runner.batch([words.run([5, 9])])
        x = tiny.model.dual_layers[0].first.input_norm(tiny.model.embed(batch))
        down = attention.qkv_a(x)[:, config.q_lora_rank :]
        latent = attention.kv_norm(down[:, : config.kv_lora_rank]) * math.sqrt(96 / 32)
        rope_key = rotate(down[:, config.kv_lora_rank :], tiny.model.rope_table(torch.tensor([0, 1])))
    stored = played.runner.cache.read(0, slice(0, 2))
    assert torch.allclose(stored, torch.cat([latent, rope_key], dim=1), atol=1e-5)


@torch.inference_mode()
def test_expanding_beside_bf16_matrices_is_as_exact_as_they_are(tiny, monkeypatch):
    """Where the processor multiplies bf16, keys and values are rebuilt in it; elsewhere in fp32."""
    config = shaped(tiny.config, 3, 8, 4, 6, 16)
    attention = attention_of(config, 1)
    attention.o.weight.data = attention.o.weight.bfloat16()
    generator = torch.Generator().manual_seed(2)
    query, latents = torch.randn(1, 9, 3, 12, generator=generator), torch.randn(1, 30, 20, generator=generator)
    positions = torch.arange(21, 30)[None]
    wanted = by_loop(attention, query[0], latents[0], positions[0])
    for native, tolerance in ((True, 2e-2), (False, 1e-5)):
        monkeypatch.setattr(linear_module, "_CPU_HAS_NATIVE_BF16", native)
        got = attention.expanded(query, latents, positions)
        assert got.dtype == torch.float32
        assert relative_error(got[0], wanted) < tolerance
