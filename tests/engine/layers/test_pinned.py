"""Tables in pinned host memory: registered once, let go with their owner, read from the files where refused."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from engine.playing import play
from kodkod_engine.errors import NotEnoughMemory
from kodkod_engine.layers import pinned
from kodkod_engine.layers.mapped_rows import MappedRows
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.layers.pinned import PinningFailed, pinned_empty
from kodkod_engine.models.loading import TableHome, load_model


class FakeRuntime:
    """A driver that registers what it is given."""

    def __init__(self, result: int = 0) -> None:
        self.result = result
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        assert flags == 0
        self.registered[address] = size
        return self.result

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.registered[address]
        return 0


class Owner:
    pass


@pytest.fixture
def runtime(monkeypatch) -> FakeRuntime:
    fake = FakeRuntime()

    def check(result: int) -> None:
        if result:
            raise RuntimeError(f"CUDA error {result}:\nout of memory")

    monkeypatch.setattr(pinned, "_runtime", lambda: fake)
    monkeypatch.setattr(pinned, "_check", check)
    return fake


def test_memory_is_registered_while_its_owner_lives(runtime) -> None:
    owner = Owner()
    memory = pinned_empty((10, 3), torch.bfloat16, owner)
    assert runtime.registered == {memory.data_ptr(): 60}
    del owner
    gc.collect()
    assert runtime.registered == {}


def test_a_refusal_is_one_line(runtime) -> None:
    runtime.result = 2
    with pytest.raises(PinningFailed, match=r"^RuntimeError: CUDA error 2: out of memory$"):
        pinned_empty((10, 3), torch.bfloat16, Owner())


@pytest.mark.skipif(torch.cuda.is_available(), reason="pins")
def test_without_a_device_it_is_refused() -> None:
    with pytest.raises(PinningFailed, match="CUDA"):
        pinned_empty((10, 3), torch.bfloat16, Owner())


def _ids(loaded: Any) -> torch.Tensor:
    return play(loaded)[0].feed([5, 9, 2, 7, 7, 30])


def test_a_model_with_pinned_tables_says_what_the_plain_one_says(tiny_folder, runtime) -> None:
    loaded = load_model(tiny_folder, device="cpu", ngram_tables=TableHome.PINNED)
    embedding = loaded.model.embedding
    pinned_parts = embedding.resident.weight, embedding.word, loaded.mtp.word
    assert {part.data_ptr() for part in pinned_parts} == runtime.registered.keys()
    assert torch.equal(_ids(loaded), _ids(load_model(tiny_folder, device="cpu")))


def test_a_model_with_pinned_experts_says_what_the_plain_one_says(tiny_folder, runtime) -> None:
    packed = Precisions.of("int4")
    loaded = load_model(tiny_folder, precisions=packed, pinned_expert_layers=1)
    first, last = (layer.experts for layer in loaded.model.dual_layers)
    assert {home.codes.data_ptr() for home in last.homes} < runtime.registered.keys()
    assert len(runtime.registered) == 4, "codes and scales of both maps"
    assert not {home.codes.data_ptr() for home in first.homes} & runtime.registered.keys()
    assert torch.equal(_ids(loaded), _ids(load_model(tiny_folder, precisions=packed)))
    del loaded, first, last
    gc.collect()
    assert runtime.registered == {}


def test_experts_that_cannot_be_pinned_are_told_with_a_way_out(tiny_folder, runtime) -> None:
    runtime.result = 2
    with pytest.raises(
        NotEnoughMemory, match=r"2 layers could not be pinned .*out of memory\); free some, or name fewer"
    ):
        load_model(tiny_folder, precisions=Precisions.of("int4"), pinned_expert_layers=2)


def test_where_pinning_is_refused_rows_come_from_the_files(tiny_folder, runtime, caplog) -> None:
    runtime.result = 2
    loaded = load_model(tiny_folder, device="cpu", ngram_tables=TableHome.PINNED)
    assert isinstance(loaded.model.embedding.row_source, MappedRows)
    assert torch.equal(_ids(loaded), _ids(load_model(tiny_folder, device="cpu")))
    assert [record.message for record in caplog.records] == [
        "N-gram tables are read from the checkpoint's files: memory could not be pinned "
        "(RuntimeError: CUDA error 2: out of memory)"
    ]
