"""Converting: the same model comes back, read or mapped; cut off, resumed, verified; no room is told in time."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.playing import play
from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing, DiskFull, FolderBusy, UnknownArchitecture
from kodkod_engine.layers.packed import PackedMatrix, Precisions
from kodkod_engine.models import convert as convert_module
from kodkod_engine.models.convert import convert
from kodkod_engine.models.converted import MANIFEST_NAME, read_manifest, require_sound
from kodkod_engine.models.loading import LoadedModel, TableHome, WeightHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.models.safetensors_writer import SafetensorsWriter
from kodkod_engine.only_writer import only_writer

IDS = [5, 9, 300, 9, 2, 40, 41]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("source"), TINY, seed=3, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    target = tmp_path_factory.mktemp("converted") / "int4"
    convert(source, target, Precisions.of("int4"))
    return target


def _same(left: LoadedModel, right: LoadedModel) -> None:
    for mine, theirs in ((left.model, right.model), (left.mtp, right.mtp)):
        assert mine is not None
        assert theirs is not None
        others = dict(theirs.checkpoint_slots())
        for name, slot in mine.checkpoint_slots():
            other = others[name]
            if isinstance(slot, PackedMatrix):
                assert isinstance(other, PackedMatrix)
                assert torch.equal(slot.codes.view(torch.uint8), other.codes.view(torch.uint8)), name
                assert torch.equal(slot.scales, other.scales), name
            else:
                assert isinstance(other, torch.Tensor)
                assert torch.equal(slot, other), name


@pytest.mark.parametrize("precision", ["int4", "int8", "fp8", "bf16"])
def test_is_what_packing_on_the_way_gives(source: Path, tmp_path: Path, precision: str) -> None:
    manifest = convert(source, tmp_path / "new", Precisions.of(precision))
    require_sound(tmp_path / "new", manifest)
    direct = load_model(source, precisions=Precisions.of(precision))
    _same(load_model(tmp_path / "new"), direct)
    _same(load_model(tmp_path / "new", weights=WeightHome.MAPPED), direct)


def test_mapped_weights_and_tables_decode_the_same(source: Path, converted: Path) -> None:
    direct = play(load_model(source, precisions=Precisions.of("int4")))[0].feed(IDS)
    mapped = load_model(converted, weights=WeightHome.MAPPED, ngram_tables=TableHome.MAPPED)
    assert torch.equal(play(mapped)[0].feed(IDS), direct)


def test_only_converted_weights_are_mapped_and_their_precision_is_fixed(source: Path, converted: Path) -> None:
    with pytest.raises(UnknownArchitecture, match="kodkod convert"):
        load_model(source, weights=WeightHome.MAPPED)
    with pytest.raises(UnknownArchitecture, match="converted to int4"):
        load_model(converted, precisions=Precisions.of("int8"))


def test_goes_on_where_it_was(source: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "cut"
    plain, written = convert_module._write, []

    def cut_off(path: Path, *rest: object) -> object:
        if len(written) == 2:
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        return plain(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(convert_module, "_write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, Precisions.of("int4"))
    with pytest.raises(CheckpointMissing, match="not finished"):
        load_model(target)
    again: list[str] = []
    monkeypatch.setattr(convert_module, "_write", lambda path, *rest: again.append(path.name) or plain(path, *rest))
    manifest = convert(source, target, Precisions.of("int4"))
    assert not set(again) & set(written)
    assert manifest == read_manifest(converted)
    convert(source, target, Precisions.of("int4"))
    assert len(again) + len(written) == len(manifest.files)
    assert not list(target.glob("*.part"))


@pytest.mark.slow
def test_survives_kill_at_any_moment(source: Path, converted: Path, tmp_path: Path) -> None:
    target = tmp_path / "killed"
    script = (
        "import sys; from pathlib import Path\n"
        "from kodkod_engine.models.convert import convert\nfrom kodkod_engine.layers.packed import Precisions\n"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), Precisions.of('int4'))"
    )
    for pause_s in (2.0, 2.2, 2.4, 2.6):
        process = subprocess.Popen([sys.executable, "-c", script, str(source), str(target)])
        time.sleep(pause_s)
        process.kill()
        process.wait()
    manifest = convert(source, target, Precisions.of("int4"))
    require_sound(target, manifest)
    assert manifest == read_manifest(converted)


def test_a_changed_byte_is_found(converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(converted, folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    victim = folder / "layer-01.safetensors"
    data = bytearray(victim.read_bytes())
    data[-100] ^= 1
    victim.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="layer-01"):
        require_sound(folder, manifest)
    victim.write_bytes(data[:-1])
    with pytest.raises(CheckpointCorrupt, match="layer-01"):
        load_model(folder)
    victim.unlink()
    with pytest.raises(CheckpointMissing, match="layer-01"):
        load_model(folder)


def test_says_before_it_begins_how_much_room_is_missing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _path: Usage(10**9, 10**9, 100))
    with pytest.raises(DiskFull, match=r"the disk is full, \d+\.\d\d GB more are needed"):
        convert(source, tmp_path / "new", Precisions.of("int4"))
    assert not list((tmp_path / "new").glob("*.safetensors*"))


def test_a_disk_that_fills_up_meanwhile(
    source: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, budget = SafetensorsWriter._write_all, [200_000]

    def write(self: SafetensorsWriter, chunk: memoryview) -> None:
        class Full:
            def write(self, data: memoryview) -> int:
                if budget[0] < len(data):
                    raise OSError(errno.ENOSPC, "No space left on device")
                budget[0] -= len(data)
                return len(data)

        file, self._file = self._file, Full()  # type: ignore[assignment]
        try:
            plain(self, chunk)
        finally:
            self._file = file

    monkeypatch.setattr(SafetensorsWriter, "_write_all", write)
    with pytest.raises(DiskFull, match="make room and run the same command again"):
        convert(source, tmp_path / "new", Precisions.of("int4"))
    monkeypatch.undo()
    for path in (tmp_path / "new").glob("*.safetensors"):
        path.unlink()  # what the full disk swallowed
    assert convert(source, tmp_path / "new", Precisions.of("int4")) == read_manifest(converted)


def test_what_a_killed_run_left_counts_as_room(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half of a file it had written takes room until it is written anew: the same command refused to go on."""
    target = tmp_path / "new"
    target.mkdir()
    left = [target / "layer-00.safetensors.part", target / "notes.part"]
    for path in left:
        path.write_bytes(bytes(1000))
    seen: list[list[bool]] = []

    def usage(_path: Path) -> Usage:
        seen.append([path.exists() for path in left])
        return Usage(10**9, 0, 10**9)

    monkeypatch.setattr(convert_module.shutil, "disk_usage", usage)
    convert(source, target, Precisions.of("int4"))
    assert seen == [[False, True]]


def test_a_file_that_is_not_finished_is_not_left(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: SafetensorsWriter, _tensor: torch.Tensor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SafetensorsWriter, "write_tensor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "new", Precisions.of("int4"))
    assert not list((tmp_path / "new").glob("*.part"))


def test_progress_moves_inside_a_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kodkod_engine.models.safetensors_writer.CHUNK_BYTES", 4096)
    told: list[tuple[int, int]] = []
    manifest = convert(source, tmp_path / "new", Precisions.of("int4"), lambda *numbers: told.append(numbers))
    total = sum(file.num_bytes for file in manifest.files.values())
    done = [numbers[0] for numbers in told]
    assert done == sorted(done)
    assert told[-1] == (total, total)
    assert len(set(done)) > 3 * len(manifest.files)
    told.clear()
    convert(source, tmp_path / "new", Precisions.of("int4"), lambda *numbers: told.append(numbers))
    assert told[-1] == (total, total)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_packed(source: Path, tmp_path: Path, precision: str, value: float) -> None:
    folder, name = tmp_path / "source", "model.layers.1.mlp.experts.3.down_proj.weight"
    shutil.copytree(source, folder)
    (file,) = (path for path in folder.glob("*.safetensors") if name in load_file(path))
    tensors = load_file(file)
    tensors[name][5, 7] = value
    save_file(tensors, file)
    for make in (
        lambda: convert(folder, tmp_path / "new", Precisions.of(precision)),
        lambda: load_model(folder, precisions=Precisions.of(precision)),
    ):
        with pytest.raises(
            CheckpointCorrupt, match=r"experts\.3\.down_proj\.weight has values that are no finite numbers"
        ):
            make()
    assert not (tmp_path / "new" / "layer-01.safetensors").exists()


@pytest.mark.parametrize("name", ["mlp.router.e_score_correction_bias", "input_layernorm.1.weight"])
def test_what_is_no_number_and_would_not_show_is_told_at_loading(source: Path, tmp_path: Path, name: str) -> None:
    folder, name = tmp_path / "source", f"model.layers.1.{name}"
    shutil.copytree(source, folder)
    (file,) = (path for path in folder.glob("*.safetensors") if name in load_file(path))
    tensors = load_file(file)
    tensors[name][5] = float("nan")
    save_file(tensors, file)
    with pytest.raises(CheckpointCorrupt, match=f"{name} has values that are no finite numbers; fetch it again"):
        load_model(folder)


def test_two_conversions_to_one_folder(source: Path, converted: Path, tmp_path: Path) -> None:
    """They wrote to one another's files."""
    target = tmp_path / "new"
    target.mkdir()
    with only_writer(target), pytest.raises(FolderBusy, match="another process is writing to it; wait for it"):
        convert(source, target, Precisions.of("int4"))
    assert not list(target.iterdir())
    assert convert(source, target, Precisions.of("int4")) == read_manifest(converted)


def test_a_converted_source_is_told_as_such(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitecture, match="is converted already; give the published checkpoint"):
        convert(converted, tmp_path / "new", Precisions.of("int8"))


def test_the_tokenizers_files_come_along_and_no_others(source: Path, tmp_path: Path) -> None:
    original = Path(shutil.copytree(source, tmp_path / "original"))
    wanted = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "kodkod.json"}
    for name in (*wanted, "README.md", "modeling.py", "special_tokens_map.json"):
        (original / name).write_text(name, encoding="utf-8")
    convert(original, tmp_path / "new", Precisions.of("int4"))
    came = {file.name for file in (tmp_path / "new").iterdir() if file.suffix != ".safetensors"}
    assert came == {"config.json", MANIFEST_NAME, *wanted}
    assert all((tmp_path / "new" / name).read_text(encoding="utf-8") == name for name in wanted)


def test_files_of_ones_own_are_not_taken_for_the_checkpoints(source: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("mine")
    with pytest.raises(CheckpointCorrupt, match="or files of one; give an empty folder"):
        convert(source, tmp_path, Precisions.of("int4"))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_what_a_manifest_names_beyond_the_model_is_dropped(source: Path, converted: Path, tmp_path: Path) -> None:
    """Every run succeeded, and loading asked for another."""
    folder = tmp_path / "new"
    shutil.copytree(converted, folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    manifest.files["../elsewhere"] = next(iter(manifest.files.values()))
    manifest.save(folder)
    with pytest.raises(CheckpointMissing, match="run the same `kodkod convert` again"):
        load_model(folder)
    assert convert(source, folder, Precisions.of("int4")) == read_manifest(converted)
    assert load_model(folder)


def test_a_manifest_that_cannot_be_read_is_told_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(CheckpointCorrupt, match="Is a directory; allow it to be read"):
        read_manifest(tmp_path)


def test_refuses_a_folder_of_something_else(source: Path, converted: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match="begun from another"):
        convert(source, converted, Precisions.of("int8"))
    with pytest.raises(CheckpointCorrupt, match="holds another checkpoint"):
        convert(source, source, Precisions.of("int4"))
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointCorrupt, match="convert"):
        read_manifest(tmp_path)
