"""Which of several CUDA devices is found, and what is said of one that cannot be used; what memory is left. Driver and
control group are made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kodkod_engine.devices import compute_on
from kodkod_engine.placement import spare
from kodkod_engine.placement.machine import CAUTIOUS_READ_RATE, GIB, Gpu, available_bytes, find_gpu
from kodkod_engine.placement.spare import spare_bytes


def _card(name: str, major: int, **facts: int) -> SimpleNamespace:
    return SimpleNamespace(name=name, major=major, minor=0, **facts)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SimpleNamespace, float]]:
    """Cards with their free bytes; less than none is one that another process has alone."""
    every: list[tuple[SimpleNamespace, float]] = []

    def free_of(index: int) -> tuple[float, float]:
        if every[index][1] < 0:
            raise RuntimeError("CUDA error: all devices are busy\nand more lines")
        return every[index][1], 1e12

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(every))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: every[index][0])
    monkeypatch.setattr(torch.cuda, "mem_get_info", free_of)
    return every


def _index(gpu: Gpu | None) -> int | None:
    return None if gpu is None else gpu.index


def test_the_one_with_most_room_is_taken_unless_one_is_named(cards) -> None:
    cards += [(_card("small", 8), 8e9), (_card("old", 7), 48e9), (_card("large", 8), 24e9)]
    assert _index(find_gpu()) == 2
    assert _index(find_gpu("cuda")) == 0
    assert _index(find_gpu("cuda:1")) == 1
    assert find_gpu("cuda:3") is None


def test_one_that_cannot_be_used_is_passed_over_and_told(cards, caplog) -> None:
    cards += [(_card("busy", 8), -1.0), (_card("free", 8), 8e9)]
    assert _index(find_gpu()) == 1
    assert find_gpu("cuda:0") is None
    assert {record.getMessage() for record in caplog.records} == {
        "CUDA device 0 cannot be used: CUDA error: all devices are busy"
    }


def test_its_rate_is_the_known_one_or_what_its_memory_makes(cards) -> None:
    cards += [
        (_card("NVIDIA H200", 9), 1e11),
        (_card("new", 12, memory_clock_rate=14_001_000, memory_bus_width=512), 1e10),
        (_card("silent", 8), 1e10),
    ]
    rates = [gpu.read_bytes_per_s for gpu in map(find_gpu, ("cuda:0", "cuda:1", "cuda:2")) if gpu is not None]
    assert rates == [4.3e12, pytest.approx(0.85 * 1.792e12, rel=1e-3), CAUTIOUS_READ_RATE]


def test_a_thread_computes_on_the_device_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        compute_on(torch.device(name))
    assert chosen == [torch.device("cuda:1")]


def test_a_control_group_has_what_it_did_not_use_yet_and_its_pages_of_files(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 200000\nactive_file 50000\n")
    assert available_bytes(tmp_path) == 350_000


@pytest.mark.parametrize("limit", ["max\n", None, "1000000\n"])
def test_without_a_limit_or_its_figures_the_system_has_the_last_word(tmp_path: Path, limit: str | None) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert available_bytes(tmp_path) > 1e8


def test_what_is_spare_leaves_room_for_mapped_weights_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "available_bytes", lambda: 20.0 * GIB)
    cpu = torch.device("cpu")
    assert spare_bytes(cpu) == 9 * GIB
    assert spare_bytes(cpu, 10.0 * GIB) == 4 * GIB
    assert spare_bytes(cpu, 19.0 * GIB) == 0


def test_of_a_device_what_torch_holds_free_is_spare_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 10 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 6 * GIB)
    assert spare_bytes(torch.device("cuda")) == 6 * GIB
