"""config.json: the published file, the same re-saved, variants, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from kodkod_engine.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing, UnknownArchitecture
from kodkod_engine.models.config import load_config
from kodkod_engine.models.random_checkpoint import TINY

GONE = object()
"""As a value: the key is taken out."""


def write(folder, values, **changes):
    values = {key: value for key, value in {**values, **changes}.items() if value is not GONE}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def assert_one_line(caught, *parts):
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message
    assert caught.value.exit_code == 4


def test_the_published_file(lite_folder, lite_values):
    assert "model_type" not in lite_values
    config = load_config(lite_folder)
    assert config.architecture == "LongcatFlashNgramForCausalLM"
    assert (config.vocab_size, config.hidden_size, config.num_layers, config.num_heads) == (131072, 3072, 14, 32)
    assert (config.q_lora_rank, config.kv_lora_rank, config.v_head_dim) == (1536, 512, 128)
    assert (config.qk_nope_head_dim, config.qk_rope_head_dim, config.latent_dim) == (128, 64, 576)
    assert (config.ffn_hidden_size, config.expert_ffn_hidden_size) == (6144, 1024)
    assert (config.num_experts, config.num_identity_experts, config.experts_per_token) == (256, 128, 12)
    assert (config.routed_scaling_factor, config.rms_norm_eps) == (6.0, 1e-5)
    assert (config.bos_id, config.eos_id, config.max_context_tokens) == (1, 2, 327_680)
    assert config.tie_word_embeddings is False
    assert config.q_scale == pytest.approx(2**0.5)
    assert config.kv_scale == pytest.approx(6**0.5)
    assert config.score_scale == pytest.approx(0.1092301, abs=5e-8)
    assert config.rope.theta == 5e6
    assert (config.rope.factor, config.rope.original_max_position) == (10, 32768)
    assert config.ngram is not None
    assert (config.ngram.num_tables, config.ngram.table_width, config.ngram.context_tokens) == (12, 256, 3)
    assert config.ngram.border_ids == {2}
    assert config.ngram.combiner.word_scale == config.ngram.combiner.ngram_scale == pytest.approx(1 / 13)


def test_the_same_file_re_saved_by_transformers(lite_folder, lite_values, tmp_path_factory):
    yarn = dict(lite_values["rope_scaling"])
    yarn["rope_type"] = yarn.pop("type")
    folder = write(
        tmp_path_factory.mktemp("resaved"),
        lite_values,
        model_type="longcat_flash_ngram",
        num_hidden_layers=28,
        num_key_value_heads=32,
        head_dim=64,
        qk_head_dim=192,
        hidden_act="silu",
        initializer_range=0.02,
        rope_parameters={**yarn, "rope_theta": 5_000_000.0},
        rope_scaling=GONE,
        rope_theta=GONE,
        dtype="bfloat16",
        torch_dtype=GONE,
        pad_token_id=None,
        transformers_version="5.23.0",
        use_cache=True,
        quantization_config=None,
    )
    assert load_config(folder) == load_config(lite_folder)


def test_names_of_attribute_maps_are_understood(lite_folder, lite_values, tmp_path_factory):
    renamed = {
        "ffn_hidden_size": "intermediate_size",
        "expert_ffn_hidden_size": "moe_intermediate_size",
        "n_routed_experts": "num_local_experts",
        "moe_topk": "num_experts_per_tok",
    }
    values = {renamed.get(key, key): value for key, value in lite_values.items()}
    assert load_config(write(tmp_path_factory.mktemp("renamed"), values)) == load_config(lite_folder)


@pytest.mark.parametrize(
    ("order_limit", "splits", "ratio", "first_rows", "tables"),
    [
        (2, 1, 4, 1281, 1),
        (2, 2, 4, 1281, 2),
        (3, 2, 7.5, 2401, 4),
        (5, 4, 100.567, 32182, 16),
        (4, 4, 59.604, 19074, 12),
        (2, 2, 7.777, 2489, 2),
    ],
)
def test_other_orders_splits_and_ratios(tmp_path, order_limit, splits, ratio, first_rows, tables):
    """A fractional ratio is multiplied before it is cut: 100.567 * 320 = 32181.44, 7.777 * 320 = 2488.64."""
    changes = {"emb_neighbor_num": order_limit, "emb_split_num": splits, "ngram_vocab_size_ratio": ratio}
    ngram = load_config(write(tmp_path, TINY, **changes)).ngram
    assert ngram is not None
    assert (ngram.num_tables, ngram.moduli[0], ngram.table_width) == (tables, first_rows, 96 // tables)
    assert ngram.moduli == tuple(range(first_rows, first_rows + 2 * tables, 2))
    assert ngram.context_tokens == order_limit - 1


def test_the_backbone_has_no_tables(tmp_path):
    config = load_config(write(tmp_path, TINY, architectures=["LongcatFlashForCausalLM"]))
    assert config.ngram is None


def test_plain_rope(tmp_path):
    config = load_config(write(tmp_path, TINY, rope_scaling=None))
    assert (config.rope.factor, config.rope.score_scale) == (1.0, 1.0)
    assert config.score_scale == pytest.approx((16 + 8) ** -0.5)


def test_every_part_of_yarn_is_read(tmp_path):
    """Values that are nobody's defaults; the factors by hand: 0.1 * weight * ln 8 + 1."""
    yarn = {"type": "yarn", "factor": 8, "original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2}
    rope = load_config(write(tmp_path, TINY, rope_scaling={**yarn, "mscale": 0.7, "mscale_all_dim": 0.5})).rope
    assert (rope.beta_fast, rope.beta_slow, rope.original_max_position) == (16, 2, 4096)
    assert rope.score_scale == pytest.approx(1.1039721**2, abs=1e-6)
    assert rope.table_scale == pytest.approx(1.1455609 / 1.1039721, abs=1e-6)
    alone = load_config(write(tmp_path, TINY, rope_scaling=yarn)).rope
    assert (alone.score_scale, alone.table_scale) == (1, pytest.approx(1.2079442, abs=1e-6))


def test_what_a_file_leaves_out_is_what_the_published_class_takes(tmp_path):
    names = ("rms_norm_eps", "rope_theta", "rope_scaling", "routed_scaling_factor", "bos_token_id", "eos_token_id")
    scales = ("mla_scale_q_lora", "mla_scale_kv_lora", "torch_dtype")
    config = load_config(write(tmp_path, TINY, **dict.fromkeys((*names, *scales), GONE)))
    assert (config.rms_norm_eps, config.routed_scaling_factor, config.rope.theta) == (1e-5, 6.0, 1e7)
    assert (config.bos_id, config.eos_id, config.tie_word_embeddings) == (1, 2, False)
    assert config.ngram is not None
    assert config.ngram.border_ids == {2}
    assert (config.q_scale, config.kv_scale) == (pytest.approx(2**0.5), pytest.approx(3**0.5))
    yarn = {"type": "yarn", "factor": 4}
    rope = load_config(write(tmp_path, TINY, rope_scaling=yarn)).rope
    assert (rope.beta_fast, rope.beta_slow, rope.original_max_position) == (32, 1, TINY["max_position_embeddings"])


def test_scale_factors_can_be_off(tmp_path):
    config = load_config(write(tmp_path, TINY, mla_scale_q_lora=False, mla_scale_kv_lora=False))
    assert (config.q_scale, config.kv_scale) == (1.0, 1.0)


def test_a_config_cannot_be_changed(lite_folder):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config(lite_folder).hidden_size = 1


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architecture LlamaForCausalLM"),
        ({"architectures": ["LongcatCausalLM"]}, "architecture LongcatCausalLM"),
        ({"architectures": []}, "not a LongCat-Flash model"),
        ({"architectures": ["Other", "LongcatFlashNgramForCausalLM"]}, "architecture Other"),
        ({"attention_method": "LSA"}, "attention_method LSA"),
        ({"zero_expert_type": "drop"}, "zero_expert_type drop"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"norm_topk_prob": True}, "norm_topk_prob"),
        ({"router_bias": True}, "router_bias"),
        ({"attention_bias": True}, "attention_bias"),
        ({"nextn_use_scmoe": True}, "nextn_use_scmoe"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "rope type llama3"),
    ],
)
def test_what_this_engine_does_not_have_is_refused(tmp_path, changes, part):
    with pytest.raises(UnknownArchitecture) as caught:
        load_config(write(tmp_path, TINY, **changes))
    assert_one_line(caught, str(tmp_path), part)


def test_another_family_is_named_as_such_though_its_keys_differ(tmp_path):
    with pytest.raises(UnknownArchitecture, match="not a LongCat-Flash model"):
        load_config(write(tmp_path, {"architectures": ["Qwen4ForCausalLM"], "hidden_size": 8}))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"hidden_size": GONE}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "many"}, "hidden_size"),
        ({"architectures": GONE}, "architectures"),
        ({"num_layers": -1}, "num_layers"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim"),
        ({"moe_topk": 13}, "moe_topk 13"),
        ({"hidden_size": 100}, "hidden_size 100"),
        ({"ngram_vocab_size_ratio": GONE}, "ngram_vocab_size_ratio"),
        ({"ngram_vocab_size_ratio": -2}, "ngram_vocab_size_ratio"),
        ({"emb_neighbor_num": 1}, "emb_neighbor_num"),
        ({"emb_split_num": 0}, "emb_split_num"),
        ({"rope_scaling": {"type": "yarn"}}, "needs a factor"),
        ({"rope_scaling": {"type": "yarn", "factor": "ten"}}, "factor"),
        ({"rope_scaling": {"type": "yarn", "factor": -1}}, "factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 10, "original_max_position_embeddings": 0}}, "original_max"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"vocab_size": 10**9}, "vocab_size"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"ffn_hidden_size": 10**18}, "ffn_hidden_size"),
        ({"num_layers": 10**9}, "num_layers"),
        ({"n_routed_experts": 10**9}, "n_routed_experts"),
        ({"zero_expert_num": 10**18}, "zero_expert_num"),
        ({"max_position_embeddings": 10**18}, "max_position_embeddings"),
        ({"ngram_vocab_size_ratio": float("nan")}, "ngram_vocab_size_ratio"),
        ({"ngram_vocab_size_ratio": float("inf")}, "ngram_vocab_size_ratio"),
        ({"ngram_vocab_size_ratio": 1e300}, "ngram_vocab_size_ratio"),
        ({"emb_split_num": 10**400}, "emb_split_num"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"routed_scaling_factor": float("inf")}, "routed_scaling_factor"),
        ({"routed_scaling_factor": -6}, "routed_scaling_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": float("inf")}}, "factor"),
        ({"eos_token_id": -1}, "eos_token_id"),
    ],
)
def test_missing_and_impossible_values_are_named(tmp_path, changes, part):
    with pytest.raises(CheckpointCorrupt) as caught:
        load_config(write(tmp_path, TINY, **changes))
    assert_one_line(caught, str(tmp_path), part)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"{'a': 1}\n\n", b"\x00" * 100])
def test_a_file_that_is_not_a_json_object(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointCorrupt) as caught:
        load_config(tmp_path)
    assert_one_line(caught, "config.json", "fetch the file again")


def test_no_folder_no_file(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointMissing) as caught:
            load_config(folder)
        assert_one_line(caught, str(folder / "config.json"), "give the folder")


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError) as caught:
        load_config(tmp_path)
    assert_one_line(caught, "config.json")
