"""Mapped weights and the files they lie in: cut short, written to, removed, replaced."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.playing import play
from kodkod_engine.errors import CheckpointCorrupt
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.convert import convert
from kodkod_engine.models.loading import TableHome, WeightHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

IDS = [5, 9, 300, 9, 2, 40, 41]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    source = write_random_checkpoint(tmp_path_factory.mktemp("source"), TINY, seed=3, dtype=torch.bfloat16)
    target = tmp_path_factory.mktemp("converted") / "int4"
    convert(source, target, Precisions.of("int4"))
    return target


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "int4"))


def _write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(range(64)))


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(b"another file altogether")
    other.replace(path)


HARMS: dict[str, Callable[[Path], object]] = {"cut": lambda path: os.truncate(path, 100), "written": _write_into}
NO_HARMS: dict[str, Callable[[Path], object]] = {"removed": Path.unlink, "replaced": _replace, "read": Path.read_bytes}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["layer-01.safetensors", "ends.safetensors", "table-11.safetensors"])
def test_a_file_that_is_written_to_is_told(folder: Path, harm: str, name: str) -> None:
    """A page behind the end of a file would end the process, and one that was written to makes noise of the answer."""
    loaded = load_model(folder, weights=WeightHome.MAPPED, ngram_tables=TableHome.MAPPED)
    play(loaded)[0].feed(IDS)
    HARMS[harm](folder / name)
    with pytest.raises(CheckpointCorrupt, match=f"{name}: was written to while a model was mapped from it"):
        play(loaded)[0].feed(IDS)


@pytest.mark.parametrize("event", NO_HARMS)
def test_a_file_that_is_gone_or_another_by_name_goes_on(folder: Path, event: str) -> None:
    loaded = load_model(folder, weights=WeightHome.MAPPED, ngram_tables=TableHome.MAPPED)
    before = play(loaded)[0].feed(IDS)
    for path in folder.glob("*.safetensors"):
        NO_HARMS[event](path)
    assert torch.equal(play(loaded)[0].feed(IDS), before)


def test_what_lies_in_memory_does_not_care(folder: Path) -> None:
    loaded = load_model(folder)
    before = play(loaded)[0].feed(IDS)
    tables = load_model(folder, ngram_tables=TableHome.MAPPED)
    HARMS["cut"](folder / "layer-01.safetensors")
    assert torch.equal(play(loaded)[0].feed(IDS), before)
    assert torch.equal(play(tables)[0].feed(IDS), before)
    HARMS["written"](folder / "table-11.safetensors")
    assert torch.equal(play(loaded)[0].feed(IDS), before)
    with pytest.raises(CheckpointCorrupt, match="table-11"):
        play(tables)[0].feed(IDS)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in procfs")
def test_files_are_closed_with_the_model(folder: Path) -> None:
    def opened() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum(str(folder) in str(link.readlink()) for link in links)

    loaded = load_model(folder, weights=WeightHome.MAPPED)
    assert opened() > 3
    del loaded
    assert opened() == 0
