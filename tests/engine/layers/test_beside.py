"""In which order two streams of a device wait for each other; the device itself is played."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kodkod_engine.layers import beside as module
from kodkod_engine.layers.beside import MAX_TOKENS, Beside

DEVICE = torch.device("cuda")


class _Stream:
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen, self.device = name, seen, DEVICE

    def wait_stream(self, other: _Stream) -> None:
        self.seen.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    first, second = _Stream("first", seen), _Stream("second", seen)
    monkeypatch.setattr(module, "_second_stream", lambda _device: second)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: first)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: seen.append(f"launch on {stream.name}"))
    return seen


class _OnDevice(SimpleNamespace):
    def __len__(self) -> int:
        return int(self.tokens)


def _x(tokens: int = 3, is_cuda: bool = True) -> Any:
    return _OnDevice(tokens=tokens, is_cuda=is_cuda, device=DEVICE)


WEIGHTS = [torch.zeros(1)]


@torch.inference_mode()
def test_each_stream_waits_for_the_other_once(seen: list[str]) -> None:
    beside = Beside(_x(), WEIGHTS)
    with beside:
        seen.append("work")
    seen.append("what comes next")
    beside.join()
    assert seen == [
        "second waits for first",
        "launch on second",
        "work",
        "launch on first",
        "what comes next",
        "first waits for second",
    ]


@torch.inference_mode()
def test_work_that_fails_leaves_the_first_stream_in_its_place(seen: list[str]) -> None:
    with pytest.raises(RuntimeError), Beside(_x(), WEIGHTS):
        raise RuntimeError
    assert seen[-1] == "launch on first"


@pytest.mark.parametrize(
    ("x", "weights"),
    [(_x(is_cuda=False), WEIGHTS), (_x(MAX_TOKENS + 1), WEIGHTS), (_x(), [*WEIGHTS, object()])],
    ids=["processor", "long", "packed"],
)
@torch.inference_mode()
def test_elsewhere_the_work_is_done_in_its_turn(seen: list[str], x: Any, weights: list[Any]) -> None:
    beside = Beside(x, weights)
    with beside:
        pass
    beside.join()
    assert seen == []


def test_gradients_are_taken_in_turn(seen: list[str]) -> None:
    with Beside(_x(), WEIGHTS):
        pass
    assert seen == []
