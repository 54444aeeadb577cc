"""Which of several CUDA devices is found, and what is said of one that cannot be used. The driver is made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kodkod_engine.devices import compute_on
from kodkod_engine.placement.machine import CAUTIOUS_READ_RATE, Gpu, find_gpu


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
