"""Checkpoint files: any layout round-trips, damage is named in one line, memory stays flat."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.oracle import tensors_of
from engine.playing import play, relative_error
from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing, UnknownArchitecture
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models import checkpoint as checkpoint_module
from kodkod_engine.models import convert as convert_module
from kodkod_engine.models import loading as loading_module
from kodkod_engine.models.checkpoint import INDEX_NAME, SINGLE_NAME, Checkpoint, read_header
from kodkod_engine.models.convert import convert
from kodkod_engine.models.loading import TableHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

IDS = [5, 9, 300, 9, 2, 40, 41]
SMALLEST = {
    **TINY,
    "vocab_size": 64,
    "hidden_size": 24,
    "num_layers": 1,
    "n_routed_experts": 2,
    "zero_expert_num": 1,
    "moe_topk": 2,
    "emb_neighbor_num": 3,
    "emb_split_num": 2,
}
SMALLEST_IDS = [5, 9, 2, 40, 41]


def lay_out(folder: Path, config: dict[str, object], shards: dict[str, dict[str, torch.Tensor]]) -> Path:
    """Write a checkpoint with exactly these shards; no index when the only one has the name for that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    if list(shards) != [SINGLE_NAME]:
        weight_map = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
        (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return folder


def slots_of(loaded):
    slots = dict(loaded.model.checkpoint_slots())
    return slots | (dict(loaded.mtp.checkpoint_slots()) if loaded.mtp else {})


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    return write_random_checkpoint(tmp_path_factory.mktemp("smallest"), SMALLEST, seed=4)


@pytest.fixture(scope="module")
def smallest_tensors(smallest):
    return tensors_of(smallest)


@pytest.fixture
def damaged(smallest_tensors, tmp_path):
    """A checkpoint of one file, to be damaged."""
    return lay_out(tmp_path / "damaged", SMALLEST, {SINGLE_NAME: smallest_tensors})


def assert_refused(folder, kind, *parts, **options):
    with pytest.raises(kind) as caught:
        load_model(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("home", [TableHome.RESIDENT, TableHome.MAPPED])
def test_every_tensor_arrives_bit_for_bit(tiny_folder, home):
    stored = tensors_of(tiny_folder)
    slots = slots_of(load_model(tiny_folder, ngram_tables=home))
    tables = {name for name in stored if ".embedders." in name}
    assert set(stored) - set(slots) == (tables if home is TableHome.MAPPED else set())
    for name, slot in slots.items():
        assert torch.equal(slot, stored[name]), name


@settings(max_examples=15, deadline=None)
@given(shard_bytes=st.integers(1, 400_000))
def test_any_shard_size(smallest_tensors, tmp_path_factory, shard_bytes):
    folder = write_random_checkpoint(tmp_path_factory.mktemp("cut"), SMALLEST, seed=4, shard_bytes=shard_bytes)
    for name, slot in slots_of(load_model(folder)).items():
        assert torch.equal(slot, smallest_tensors[name])


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_layout(smallest_tensors, tmp_path_factory, data):
    """Tensors dealt to shards of any names, in any order, neighbours apart."""
    names = data.draw(st.permutations(sorted(smallest_tensors)))
    files = data.draw(
        st.lists(st.from_regex(r"[a-zäß0-9 ._-]{1,20}\.(safetensors|bin)", fullmatch=True), min_size=1, unique=True)
    )
    files = [file for file in files if file != SINGLE_NAME and not file.startswith(".")] or ["weights of mine"]
    shards: dict[str, dict[str, torch.Tensor]] = {file: {} for file in files}
    for place, name in enumerate(names):
        shards[files[place % len(files)]][name] = smallest_tensors[name]
    folder = lay_out(tmp_path_factory.mktemp("any"), SMALLEST, shards)
    for name, slot in slots_of(load_model(folder)).items():
        assert torch.equal(slot, smallest_tensors[name])


def test_one_file_without_an_index(damaged, smallest_tensors):
    assert not (damaged / INDEX_NAME).exists()
    loaded = load_model(damaged)
    assert loaded.mtp is not None
    assert set(slots_of(loaded)) == set(smallest_tensors)


def test_the_draft_block_in_a_file_of_its_own(tmp_path, smallest_tensors):
    draft = {name: tensor for name, tensor in smallest_tensors.items() if name.startswith("model.mtp.")}
    main = {name: tensor for name, tensor in smallest_tensors.items() if name not in draft}
    assert len(draft) == 17
    folder = lay_out(tmp_path, SMALLEST, {"model-1.safetensors": main, "model-auxiliary.safetensors": draft})
    assert load_model(folder).mtp is not None
    assert load_model(folder, mtp=False).mtp is None


def test_without_draft_tensors_there_is_no_draft_block(tmp_path, smallest_tensors):
    main = {name: tensor for name, tensor in smallest_tensors.items() if not name.startswith("model.mtp.")}
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: main})
    assert load_model(folder).mtp is None
    assert_refused(folder, CheckpointCorrupt, "missing: model.mtp.", "14 more", mtp=True)


@pytest.mark.parametrize(
    "spare", [{"model.mtp.layers.1.enorm.m.weight": torch.ones(24)}, {"model.mtp.norm.weight": torch.ones(9)}]
)
def test_a_draft_block_of_another_kind_can_be_done_without(tmp_path, smallest_tensors, spare):
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: {**smallest_tensors, **spare}})
    assert_refused(folder, CheckpointCorrupt, next(iter(spare)), "; engine.mtp = false does without the draft block")
    assert load_model(folder, mtp=False).mtp is None


def test_what_the_draft_block_is_not_to_blame_for_is_not_put_down_to_it(tmp_path, smallest_tensors):
    tensors = {**smallest_tensors, "model.mtp.surprise": torch.ones(1), "model.surprise": torch.ones(1)}
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: tensors})
    with pytest.raises(CheckpointCorrupt) as caught:
        load_model(folder)
    assert "engine.mtp" not in str(caught.value)


@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_conversion(tmp_path, stored, wanted):
    folder = write_random_checkpoint(tmp_path, SMALLEST, dtype=stored)
    loaded = load_model(folder, dtype=wanted)
    assert loaded.dtype == wanted
    tensors = tensors_of(folder)
    for name, slot in slots_of(loaded).items():
        if ".router." in name:
            assert slot.dtype == torch.float32
        elif name.endswith("kv_b_proj.weight"):
            assert slot.dtype == (wanted if wanted == torch.bfloat16 else loaded.activation_dtype)
        elif slot.dim() == 1:
            assert slot.dtype == loaded.activation_dtype
        else:
            assert slot.dtype == wanted
        assert torch.equal(slot, tensors[name].to(slot.dtype)), name


def test_the_stored_dtype_is_the_default(tmp_path):
    assert load_model(write_random_checkpoint(tmp_path, SMALLEST, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("staging_bytes", [1, 100, 5000])
def test_conversion_in_small_pieces(smallest, monkeypatch, staging_bytes, smallest_tensors):
    monkeypatch.setattr(checkpoint_module, "STAGING_BYTES", staging_bytes)
    for name, slot in slots_of(load_model(smallest, dtype=torch.bfloat16)).items():
        assert torch.equal(slot, smallest_tensors[name].to(slot.dtype)), name


def test_a_router_stored_in_bf16_is_upcast(tmp_path, smallest_tensors):
    tensors = {k: v.bfloat16() if ".router." in k else v for k, v in smallest_tensors.items()}
    loaded = load_model(lay_out(tmp_path, SMALLEST, {SINGLE_NAME: tensors}))
    router = loaded.model.dual_layers[0].experts.router
    assert torch.equal(router.weight, tensors["model.layers.0.mlp.router.classifier.weight"].float())


def test_bf16_weights_run_in_fp32_as_their_exact_values(tmp_path, smallest_tensors):
    narrow = {name: tensor.bfloat16() for name, tensor in smallest_tensors.items()}
    wide = {name: tensor.float() for name, tensor in narrow.items()}
    folders = [
        lay_out(tmp_path / name, SMALLEST, {SINGLE_NAME: tensors})
        for name, tensors in (("narrow", narrow), ("wide", wide))
    ]
    outputs = [play(load_model(folder, dtype=torch.float32))[0].feed(SMALLEST_IDS) for folder in folders]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("mtp", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_progress_reaches_the_total(smallest, smallest_tensors, mtp, dtype):
    calls: list[tuple[int, int]] = []
    load_model(smallest, mtp=mtp, dtype=dtype, progress=lambda done, total: calls.append((done, total)))
    kept = [tensor for name, tensor in smallest_tensors.items() if mtp or not name.startswith("model.mtp.")]
    total = sum(tensor.nbytes for tensor in kept)
    assert calls[-1] == (total, total)
    assert {call[1] for call in calls} == {total}
    assert [call[0] for call in calls] == sorted({call[0] for call in calls})


def test_logits_after_a_round_trip(tiny, tiny_folder, tmp_path):
    folder = lay_out(tmp_path, dict(TINY), {SINGLE_NAME: tensors_of(tiny_folder)})
    assert relative_error(play(load_model(folder))[0].feed(IDS), play(tiny)[0].feed(IDS)) < 1e-6


# Damage


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -1000])
def test_a_truncated_file(damaged, kept):
    shard = damaged / SINGLE_NAME
    content = shard.read_bytes()
    shard.write_bytes(content[:kept])
    assert_refused(damaged, CheckpointCorrupt, str(shard), "fetch it again")


def test_a_truncated_file_says_how_much_is_there(damaged):
    shard = damaged / SINGLE_NAME
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-1])
    assert_refused(damaged, CheckpointCorrupt, f"{size - 1:,} bytes of {size:,}")


def with_header(path: Path, header: bytes, body: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)


@pytest.mark.parametrize(
    "header",
    [
        b"[1, 2]",
        b"null",
        b'"text"',
        b"\xff\xff",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4',
    ],
)
def test_a_garbage_header(damaged, header):
    with_header(damaged / SINGLE_NAME, header, bytes(8))
    assert_refused(damaged, CheckpointCorrupt, SINGLE_NAME, "not a whole safetensors file")


@settings(max_examples=80, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "shard"
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_to_be_huge(damaged):
    (damaged / SINGLE_NAME).write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert_refused(damaged, CheckpointCorrupt, SINGLE_NAME)


def test_metadata_is_no_tensor(tmp_path, smallest_tensors):
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: smallest_tensors})
    save_file(smallest_tensors, folder / SINGLE_NAME, metadata={"format": "pt"})
    assert set(Checkpoint(folder).tensors) == set(smallest_tensors)


def test_a_wrong_shape(tmp_path, smallest_tensors):
    wrong = {**smallest_tensors, "model.norm.weight": torch.ones(23)}
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: wrong})
    assert_refused(folder, CheckpointCorrupt, "wrong shape: model.norm.weight is [23], not [24]")


def test_extra_and_missing_tensors_are_named_together(tmp_path, smallest_tensors):
    tensors = {**smallest_tensors, "model.surprise": torch.ones(1)}
    del tensors["model.norm.weight"]
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: tensors})
    assert_refused(folder, CheckpointCorrupt, "missing: model.norm.weight; extra: model.surprise")


def test_many_faults_stay_one_short_line(damaged):
    save_file({f"surprise.{number}": torch.ones(1) for number in range(500)}, damaged / SINGLE_NAME)
    assert_refused(damaged, CheckpointCorrupt, "extra: surprise.0,", "497 more")


def test_a_config_of_another_size(tmp_path, smallest_tensors):
    folder = lay_out(tmp_path, {**SMALLEST, "num_layers": 2}, {SINGLE_NAME: smallest_tensors})
    assert_refused(folder, CheckpointCorrupt, "missing: model.layers.1.", "do not match")


@pytest.mark.parametrize("changes", [{"num_layers": 60_000}, {"n_routed_experts": 60_000, "moe_topk": 1}])
def test_far_more_layers_or_experts_than_tensors(tmp_path, smallest_tensors, monkeypatch, changes):
    """Told before a model of them is built, which would take minutes."""
    folder = lay_out(tmp_path, {**SMALLEST, **changes}, {SINGLE_NAME: smallest_tensors})
    for module in (loading_module, convert_module):
        monkeypatch.delattr(module, "build_model")
    assert_refused(folder, CheckpointCorrupt, "experts in", "tensors cannot be", "do not match")
    with pytest.raises(CheckpointCorrupt, match="tensors cannot be"):
        convert(folder, tmp_path / "new", Precisions.of("int4"))


def test_tables_of_another_ratio(tmp_path, smallest_tensors):
    folder = lay_out(tmp_path, {**SMALLEST, "ngram_vocab_size_ratio": 7.5}, {SINGLE_NAME: smallest_tensors})
    assert_refused(folder, CheckpointCorrupt, "wrong shape: model.ngram_embeddings.embedders.0.weight")
    assert_refused(folder, CheckpointCorrupt, "wrong shape", ngram_tables=TableHome.MAPPED)


@pytest.mark.parametrize("home", [TableHome.RESIDENT, TableHome.MAPPED])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.ngram_embeddings.embedders.1.weight"])
def test_an_unknown_stored_dtype(tmp_path, smallest_tensors, monkeypatch, name, home):
    """Refused on the headers alone: no weight is read."""
    tensors = {**smallest_tensors, name: smallest_tensors[name].double()}
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: tensors})
    monkeypatch.delattr(Checkpoint, "load_into")
    assert_refused(folder, UnknownArchitecture, name, "F64", "reads F32, BF16, F16, F8_E4M3", ngram_tables=home)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_a_norm_stored_in_eight_bits(tmp_path, smallest_tensors, dtype):
    tensors = {**smallest_tensors, "model.norm.weight": smallest_tensors["model.norm.weight"].to(dtype)}
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: tensors})
    assert_refused(folder, UnknownArchitecture, "does not read model.norm.weight stored as")


@pytest.mark.parametrize("precisions", [None, Precisions.of("int8")])
def test_scales_of_a_matrix_that_needs_none(tmp_path, smallest_tensors, precisions):
    """Whether it was multiplied by them is not to be known."""
    name = "model.layers.0.mlps.0.gate_proj.weight"
    scales = torch.full([-(-size // 128) for size in smallest_tensors[name].shape], 0.5)
    folder = lay_out(tmp_path, SMALLEST, {SINGLE_NAME: {**smallest_tensors, f"{name}_scale_inv": scales}})
    assert_refused(folder, CheckpointCorrupt, f"{name}_scale_inv fits no matrix", precisions=precisions)


def test_tensors_that_lie_over_each_other(damaged, smallest_tensors):
    path = damaged / SINGLE_NAME
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    norm = header["model.norm.weight"]
    other = next(entry for name, entry in header.items() if entry != norm and entry.get("shape") == norm["shape"])
    norm["data_offsets"] = other["data_offsets"]
    said = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + content[8 + size :])
    assert_refused(damaged, CheckpointCorrupt, "not a whole safetensors file")


def test_an_unknown_architecture(tmp_path, smallest_tensors):
    folder = lay_out(tmp_path, {"architectures": ["GptForCausalLM"]}, {SINGLE_NAME: smallest_tensors})
    assert_refused(folder, UnknownArchitecture, "not a LongCat-Flash model", "config.json")


def test_a_config_that_is_not_json(damaged):
    (damaged / "config.json").write_text("architectures: LongcatFlashNgramForCausalLM", encoding="utf-8")
    assert_refused(damaged, CheckpointCorrupt, "config.json", "fetch the file again")


def test_no_folder_and_no_weights(tmp_path, damaged):
    assert_refused(tmp_path / "nowhere", CheckpointMissing, "nowhere")
    (damaged / SINGLE_NAME).unlink()
    assert_refused(damaged, CheckpointMissing, f"neither {INDEX_NAME} nor {SINGLE_NAME}")


def test_a_missing_shard(tmp_path, smallest_tensors):
    half = len(smallest_tensors) // 2
    items = list(smallest_tensors.items())
    folder = lay_out(tmp_path, SMALLEST, {"a.safetensors": dict(items[:half]), "b.safetensors": dict(items[half:])})
    (folder / "b.safetensors").unlink()
    assert_refused(folder, CheckpointMissing, "b.safetensors missing", "fetch the checkpoint again")


def test_a_tensor_in_two_shards(tmp_path, smallest_tensors):
    """Whichever was read last used to be the model."""
    other = {"model.norm.weight": torch.zeros_like(smallest_tensors["model.norm.weight"])}
    folder = lay_out(tmp_path, SMALLEST, {"a.safetensors": smallest_tensors, "b.safetensors": other})
    assert_refused(folder, CheckpointCorrupt, "b.safetensors", "model.norm.weight is in a.safetensors too", "fetch")


def test_a_header_nested_beyond_all_depth(damaged):
    header = b"[" * 200_000
    (damaged / SINGLE_NAME).write_bytes(len(header).to_bytes(8, "little") + header)
    assert_refused(damaged, CheckpointCorrupt, SINGLE_NAME, "not a whole safetensors file")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "\x00"])
def test_an_index_that_is_none(damaged, content):
    (damaged / INDEX_NAME).write_text(content, encoding="utf-8")
    assert_refused(damaged, CheckpointCorrupt, INDEX_NAME, "not a weight index")


def test_a_file_cut_short_while_it_is_loaded(damaged, monkeypatch):
    """The disk is gone after the headers were read."""
    original = Checkpoint.load_into

    def cut_and_load(self, *arguments):
        shard = damaged / SINGLE_NAME
        shard.write_bytes(shard.read_bytes()[:-64])
        original(self, *arguments)

    monkeypatch.setattr(Checkpoint, "load_into", cut_and_load)
    assert_refused(damaged, CheckpointCorrupt, "ended inside", "truncated")


def test_a_file_removed_while_it_is_loaded(damaged, monkeypatch):
    original = Checkpoint.load_into

    def remove_and_load(self, *arguments):
        (damaged / SINGLE_NAME).unlink()
        original(self, *arguments)

    monkeypatch.setattr(Checkpoint, "load_into", remove_and_load)
    assert_refused(damaged, CheckpointMissing, SINGLE_NAME, "No such file")


def test_a_disk_that_cannot_be_read(damaged, monkeypatch):
    class Failing:
        def seek(self, _offset):
            return 0

        def readinto(self, _view):
            raise OSError(errno.EIO, "Input/output error")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    original, opened = checkpoint_module._reading, []

    def failing_after_the_header(path):
        opened.append(path)
        return original(path) if len(opened) == 1 else Failing()

    monkeypatch.setattr(checkpoint_module, "_reading", failing_after_the_header)
    assert_refused(damaged, CheckpointCorrupt, "Input/output error", "check the disk")


MEASURE = """
import sys, torch
from kodkod_engine.models.convert import convert
from kodkod_engine.models.loading import TableHome, load_model

def peak_bytes():
    # The kernel's own high-water mark of this program; getrusage's begins at the size of the process that forked it.
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

folder, dtype, home = sys.argv[1], getattr(torch, sys.argv[2]), TableHome(sys.argv[3])
load_model(sys.argv[4], dtype=dtype)  # whatever the first load of a process brings in
before = peak_bytes()
loaded = load_model(folder, dtype=dtype, ngram_tables=home)
print(peak_bytes() - before, sum(parameter.nbytes for parameter in loaded.model.parameters()))
"""


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """About 300 MB in bf16; one tensor of 100 MB, many tables, no draft block."""
    config = {
        **TINY,
        "vocab_size": 65_536,
        "hidden_size": 768,
        "num_layers": 1,
        "ngram_vocab_size_ratio": 0.9,
        "torch_dtype": "bfloat16",
    }
    return write_random_checkpoint(tmp_path_factory.mktemp("large"), config, dtype=torch.bfloat16, with_mtp=False)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from procfs")
@pytest.mark.parametrize(("dtype", "home"), [("bfloat16", "resident"), ("float32", "resident"), ("bfloat16", "mapped")])
def test_loading_takes_what_is_kept_and_no_second_copy(large_folder, smallest, dtype, home):
    """Peak increase of resident memory: at most 1.1 times the bytes kept and 40 MiB (staging, headers, allocator)."""
    command = [sys.executable, "-c", MEASURE, str(large_folder), dtype, home, str(smallest)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    peak, kept = map(int, done.stdout.split())
    stored = sum(file.stat().st_size for file in large_folder.glob("*.safetensors"))
    assert 280e6 < stored < 350e6
    factor = {("bfloat16", "resident"): 1, ("float32", "resident"): 2, ("bfloat16", "mapped"): 0.7}[dtype, home]
    assert kept == pytest.approx(factor * stored, rel=0.05)
    assert peak > 0.9 * kept, "the measure must see the model itself"
    assert peak < 1.1 * kept + 40 * 2**20
