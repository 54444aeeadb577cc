"""Models in 8 and 4 bits: the compiled step, the modules and the unpacked model agree; FP8 checkpoints are kept."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.oracle import tensors_of
from engine.playing import play, relative_error
from kodkod_engine.errors import CheckpointCorrupt, UnknownArchitecture
from kodkod_engine.layers.packed import PackedMatrix, Precision, Precisions, Slot
from kodkod_engine.models import checkpoint as checkpoint_module
from kodkod_engine.models import longcat_flash
from kodkod_engine.models.checkpoint import SINGLE_NAME
from kodkod_engine.models.convert import convert
from kodkod_engine.models.loading import LoadedModel, TableHome, WeightHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

IDS = [5, 9, 300, 9, 2, 40, 41, 17, 33]
WIDE = {**TINY, "hidden_size": 192, "num_layers": 1, "expert_ffn_hidden_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("bf16"), TINY, seed=3, dtype=torch.bfloat16)


def _unpacked(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """The model in fp32 with exactly the values that the packed one's codes stand for."""
    plain = load_model(folder, dtype=torch.float32)
    for mine, theirs in ((loaded.model, plain.model), (loaded.mtp, plain.mtp)):
        assert mine is not None
        assert theirs is not None
        packed = dict(mine.checkpoint_slots())
        for name, slot in theirs.checkpoint_slots():
            value = packed[name]
            slot.copy_(value.unpacked() if isinstance(value, PackedMatrix) else value)
    return plain


@pytest.mark.parametrize("precision", ["fp8", "int8", "int4"])
def test_equals_the_unpacked_model(folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both roads: the compiled layer, and the modules, which take long steps."""
    loaded = load_model(folder, precisions=Precisions.of(precision))
    assert loaded.activation_dtype == torch.float32
    wanted = play(_unpacked(loaded, folder))[0].feed(IDS)
    if precision == "int4":  # one compilation is enough for the default suite
        assert relative_error(play(loaded)[0].feed(IDS), wanted) < 1e-3
    monkeypatch.setattr(longcat_flash, "step_arrays", lambda *_args: None)
    assert relative_error(play(loaded)[0].feed(IDS), wanted) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_the_compiled_layer_equals_the_unpacked_model(folder: Path, precision: str) -> None:
    loaded = load_model(folder, precisions=Precisions.of(precision))
    wanted = play(_unpacked(loaded, folder))[0].feed(IDS)
    assert relative_error(play(loaded)[0].feed(IDS), wanted) < 1e-3


@pytest.mark.parametrize(
    "precision", ["int4", *(pytest.param(other, marks=pytest.mark.slow) for other in ("int8", "fp8"))]
)
def test_a_long_step_equals_single_tokens(tmp_path: Path, precision: str) -> None:
    """Long products are in bf16. Every expert is chosen: where rounding changes a choice, it is no measure."""
    every = TINY["n_routed_experts"] + TINY["zero_expert_num"]
    folder = write_random_checkpoint(tmp_path, {**TINY, "moe_topk": every}, seed=3, dtype=torch.bfloat16)
    loaded = load_model(folder, precisions=Precisions.of(precision))
    ids = torch.randint(3, 320, (90,), generator=torch.Generator().manual_seed(0)).tolist()
    whole = play(loaded)[0].feed(ids)
    assert relative_error(whole, play(loaded)[0].feed_in_chunks(ids, 7)) < 0.05


def test_parts_may_differ(folder: Path) -> None:
    precisions = Precisions(experts=Precision.INT4, head=Precision.INT8)
    loaded = load_model(folder, precisions=precisions)
    slots = dict(loaded.model.checkpoint_slots())
    assert isinstance(slots["model.layers.0.mlp.experts.0.up_proj.weight"], PackedMatrix)
    assert isinstance(slots["lm_head.weight"], PackedMatrix)
    assert isinstance(slots["model.layers.0.mlps.0.up_proj.weight"], torch.Tensor)


def test_packing_in_small_pieces_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dict(load_model(folder, precisions=Precisions.of("int4")).model.checkpoint_slots())
    monkeypatch.setattr(checkpoint_module, "STAGING_BYTES", 500)
    for name, slot in load_model(folder, precisions=Precisions.of("int4")).model.checkpoint_slots():
        if isinstance(slot, PackedMatrix):
            other = whole[name]
            assert isinstance(other, PackedMatrix)
            assert torch.equal(slot.codes, other.codes)
            assert torch.equal(slot.scales, other.scales)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_memory_is_what_the_precision_says(folder: Path, precision: str) -> None:
    loaded = load_model(folder, precisions=Precisions.of(precision))
    gate_up, _ = loaded.model.dual_layers[0].experts.homes
    values = 8 * 64 * 96
    assert gate_up.nbytes == values * Precision(precision).bits // 8 + values // 32 * 2


def _fp8(
    folder: Path, target: Path, parts: tuple[str, ...] = (".mlp.experts.", ".mlps.")
) -> tuple[Path, dict[str, torch.Tensor]]:
    """Every expert and dense matrix in FP8 blocks, as Meituan publishes it; and the values those stand for."""
    tensors, values = {}, {}
    for name, tensor in tensors_of(folder).items():
        if tensor.dim() == 1 or not any(part in name for part in parts):
            tensors[name] = values[name] = tensor
            continue
        rows, columns = tensor.shape
        scales = torch.rand(-(-rows // 128), -(-columns // 128)) + 0.5
        spread = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        tensors[name] = (tensor.float() / spread).to(torch.float8_e4m3fn)
        tensors[name.replace("weight", "weight_scale_inv")] = scales
        values[name] = tensors[name].float() * spread
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, target / SINGLE_NAME)
    return target, values


@pytest.fixture
def fp8(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    plain = write_random_checkpoint(tmp_path / "plain", WIDE, dtype=torch.bfloat16, with_mtp=False)
    return _fp8(plain, tmp_path / "fp8")


def test_fp8_blocks_are_read_as_the_values_they_stand_for(
    fp8: tuple[Path, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "STAGING_BYTES", 192 * 50)  # a block's rows come in several pieces
    folder, values = fp8
    for name, slot in load_model(folder, dtype=torch.float32).model.checkpoint_slots():
        assert isinstance(slot, torch.Tensor)
        assert torch.equal(slot, values[name].to(slot.dtype)), name


def test_fp8_is_kept_as_it_is_published(
    fp8: tuple[Path, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "STAGING_BYTES", 192 * 50)
    folder, values = fp8
    loaded = load_model(folder)
    assert loaded.precisions == Precisions(experts=Precision.FP8, dense=Precision.FP8)
    published = tensors_of(folder)
    for name, slot in loaded.model.checkpoint_slots():
        if ".mlp.experts." in name or ".mlps." in name:
            assert isinstance(slot, PackedMatrix)
            assert torch.equal(slot.codes.view(torch.uint8), published[name].view(torch.uint8)), name
            assert torch.equal(slot.unpacked(), values[name]), name
        else:
            assert isinstance(slot, torch.Tensor)
            assert torch.equal(slot, values[name].to(slot.dtype)), name
    wanted = play(load_model(folder, dtype=torch.float32))[0].feed(IDS)
    assert relative_error(play(loaded)[0].feed(IDS), wanted) < 0.01  # attention is bf16 in one, fp32 in the other


def test_attention_and_draft_block_in_fp8_with_blocks_that_are_cut_off(tmp_path: Path) -> None:
    """As published: rows of latent and rope key end inside a block, those of the query before them with one."""
    sizes = {"q_lora_rank": 256, "kv_lora_rank": 128, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16}
    plain = write_random_checkpoint(tmp_path / "plain", {**WIDE, **sizes}, dtype=torch.bfloat16)
    parts = (".self_attn.", ".mlp.experts.", ".mlps.", ".eh_proj.", ".transformer_layer.", "post_projs")
    folder, values = _fp8(plain, tmp_path / "fp8", parts)
    loaded = load_model(folder)
    every = Precision.FP8
    assert loaded.precisions == Precisions(experts=every, attention=every, dense=every)
    assert loaded.mtp is not None
    slots = dict(chain(loaded.model.checkpoint_slots(), loaded.mtp.checkpoint_slots()))
    assert slots.keys() == values.keys()
    assert values["model.layers.0.self_attn.0.kv_a_proj_with_mqa.weight"].shape == (144, 192)
    published = tensors_of(folder)
    for name, slot in slots.items():
        is_widened = "kv_b_proj" in name or "post_projs" in name
        assert isinstance(slot, PackedMatrix) == (f"{name}_scale_inv" in published and not is_widened), name
        got = slot.unpacked() if isinstance(slot, PackedMatrix) else slot
        assert torch.equal(got, values[name].to(got.dtype)), name
    wanted = play(load_model(folder, dtype=torch.float32))[0].feed(IDS)
    assert relative_error(play(loaded)[0].feed(IDS), wanted) < 0.01


def test_a_head_in_fp8_is_kept_and_all_else_stays_bf16(tmp_path: Path) -> None:
    plain = write_random_checkpoint(tmp_path / "plain", WIDE, dtype=torch.bfloat16, with_mtp=False)
    folder, values = _fp8(plain, tmp_path / "fp8", ("lm_head",))
    loaded = load_model(folder)
    assert (loaded.precisions, loaded.dtype) == (Precisions(head=Precision.FP8), torch.bfloat16)
    head = dict(loaded.model.checkpoint_slots())["lm_head.weight"]
    assert isinstance(head, PackedMatrix)
    assert torch.equal(head.unpacked(), values["lm_head.weight"])


def test_a_plain_draft_block_beside_fp8_is_packed_as_the_model_is(tmp_path: Path) -> None:
    plain = write_random_checkpoint(tmp_path / "plain", WIDE, dtype=torch.bfloat16)
    parts = tuple(f"model.layers.0.{part}." for part in ("self_attn", "mlp.experts", "mlps"))
    folder, values = _fp8(plain, tmp_path / "fp8", parts)
    loaded = load_model(folder)
    assert loaded.precisions.attention is loaded.precisions.dense is Precision.FP8
    assert loaded.mtp is not None
    slots = dict(loaded.mtp.checkpoint_slots())
    for name in ("eh_proj", "self_attn.o_proj", "transformer_layer.mlp.up_proj"):
        slot = slots[name := f"model.mtp.layers.0.{name}.weight"]
        assert isinstance(slot, PackedMatrix), name
        assert relative_error(slot.unpacked(), values[name]) < 0.05


@pytest.fixture
def fp8_tables(fp8: tuple[Path, dict[str, torch.Tensor]]) -> Path:
    """N-gram tables in FP8 too."""
    folder, _ = fp8
    tensors = tensors_of(folder)
    for name in [name for name in tensors if ".embedders." in name]:
        rows = tensors[name].shape[0]
        scales = torch.rand(-(-rows // 128), -(-tensors[name].shape[1] // 128)) + 0.5
        spread = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, : tensors[name].shape[1]]
        tensors[name] = (tensors[name].float() / spread).to(torch.float8_e4m3fn)
        tensors[name.replace("weight", "weight_scale_inv")] = scales
    save_file(tensors, folder / SINGLE_NAME)
    return folder


def test_tables_in_fp8_are_the_same_from_every_home_and_after_conversion(fp8_tables: Path, tmp_path: Path) -> None:
    wanted = play(load_model(fp8_tables, dtype=torch.float32))[0].feed(IDS)
    mapped = load_model(fp8_tables, dtype=torch.float32, ngram_tables=TableHome.MAPPED)
    assert relative_error(play(mapped)[0].feed(IDS), wanted) < 1e-6
    rounded = play(load_model(fp8_tables, dtype=torch.bfloat16))[0].feed(IDS)
    convert(fp8_tables, tmp_path / "converted", Precisions.of("bf16"))
    for home in (TableHome.RESIDENT, TableHome.MAPPED):
        converted = load_model(tmp_path / "converted", ngram_tables=home)
        assert torch.equal(play(converted)[0].feed(IDS), rounded)


def test_a_part_with_one_plain_matrix_is_kept_plain(fp8: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, values = fp8
    tensors, name = tensors_of(folder), "model.layers.0.mlps.1.down_proj.weight"
    tensors[name] = values[name].bfloat16()
    del tensors[name.replace("weight", "weight_scale_inv")]
    save_file(tensors, folder / SINGLE_NAME)
    loaded = load_model(folder)
    assert loaded.precisions == Precisions(experts=Precision.FP8)
    assert torch.equal(dict(loaded.model.checkpoint_slots())[name], tensors[name])


def test_fp8_is_converted_without_a_change(fp8: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    folder, _ = fp8
    precisions = Precisions(experts=Precision.FP8, dense=Precision.FP8)
    convert(folder, tmp_path / "converted", precisions)
    direct, converted = load_model(folder), load_model(tmp_path / "converted", weights=WeightHome.MAPPED)
    others = dict(converted.model.checkpoint_slots())
    for name, slot in direct.model.checkpoint_slots():
        for mine, theirs in zip(_bytes_of(slot), _bytes_of(others[name]), strict=True):
            assert torch.equal(mine, theirs), name


def _bytes_of(slot: Slot) -> list[torch.Tensor]:
    tensors = [slot.codes, slot.scales] if isinstance(slot, PackedMatrix) else [slot]
    return [tensor.contiguous().view(torch.uint8) for tensor in tensors]


def test_fp8_may_be_packed_on_the_way(fp8: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, values = fp8
    slots = dict(load_model(folder, precisions=Precisions.of("int8")).model.checkpoint_slots())
    name = "model.layers.0.mlp.experts.3.down_proj.weight"
    packed = slots[name]
    assert isinstance(packed, PackedMatrix)
    assert relative_error(packed.unpacked(), values[name]) < 0.01


def test_fp8_without_its_scales_is_refused(fp8: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = fp8
    tensors = tensors_of(folder)
    name = next(name for name in tensors if name.endswith("scale_inv"))
    save_file({key: value for key, value in tensors.items() if key != name}, folder / SINGLE_NAME)
    with pytest.raises(CheckpointCorrupt, match="has no weight_scale_inv"):
        load_model(folder)
    save_file({**tensors, name: torch.ones(9, 9)}, folder / SINGLE_NAME)
    with pytest.raises(CheckpointCorrupt, match="fits no matrix"):
        load_model(folder)


def test_other_quantisations_are_refused(folder: Path, tmp_path: Path) -> None:
    config = {**WIDE, "quantization_config": {"quant_method": "awq"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UnknownArchitecture, match="quantization_config"):
        load_model(tmp_path)
