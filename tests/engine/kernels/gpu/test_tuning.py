"""Which of several ways a device takes, and that the next process takes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TIMES = {"slow": 3.0, "quick": 1.0, "wrong": float("inf")}


def test_without_a_device_the_first_way_is_taken() -> None:
    from kodkod_engine.kernels.gpu.tuning import Tuner

    tuner, runs = Tuner(torch.device("cpu")), []
    assert tuner.quickest("shape", ["first", "second"], runs.append) == "first"  # type: ignore[arg-type,func-returns-value]
    assert not runs


@pytest.mark.skipif(DEVICE.type != "cuda", reason="times kernels")
def test_the_quickest_way_that_says_the_same_is_taken() -> None:
    from kodkod_engine.kernels.gpu.tuning import Tuner

    x, calls = torch.randn(2048, 2048, device=DEVICE), []

    def run(way: int) -> torch.Tensor:
        calls.append(way)
        if way == 0:
            raise RuntimeError("does not start")
        out = x
        for _ in range(abs(way)):
            out = x @ x
        return -out if way < 0 else out

    tuner = Tuner(DEVICE)
    assert tuner.quickest("shape", [9, 0, 1, -1], run) == 1
    count = len(calls)
    assert tuner.quickest("shape", [9, 0, 1, -1], run) == 1
    assert len(calls) == count


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A device by name, whose times are those of `TIMES`; the ways that were timed."""
    from kodkod_engine.kernels.gpu import tuning

    ways: list[str] = []

    def milliseconds(way: str, _run: Callable[[str], torch.Tensor], _wanted: torch.Tensor) -> float:
        ways.append(way)
        return TIMES[way]

    monkeypatch.setattr(tuning, "_milliseconds", milliseconds)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return ways


def _take(path: Path, ways: list[str], key: str = "shape") -> str:
    """What a process of its own takes."""
    from kodkod_engine.kernels.gpu.kept_ways import KeptWays
    from kodkod_engine.kernels.gpu.tuning import Tuner

    return Tuner(torch.device("cuda"), KeptWays(path)).quickest(key, ways, lambda _way: torch.zeros(1))


def test_the_next_process_takes_the_same_and_times_nothing(tmp_path: Path, timed: list[str]) -> None:
    path, ways = tmp_path / "cache" / "ways.json", ["slow", "quick", "wrong"]
    assert _take(path, ways) == "quick"
    assert _take(path, ways) == "quick"
    assert timed == ways
    assert _take(path, ways, "other shape") == "quick"
    assert len(timed) == 2 * len(ways)


def test_a_way_that_is_no_more_is_not_taken(tmp_path: Path, timed: list[str]) -> None:
    path = tmp_path / "ways.json"
    assert _take(path, ["slow", "quick"]) == "quick"
    assert _take(path, ["slow"]) == "slow"
    assert timed == ["slow", "quick", "slow"]


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]", b'{"key": 1}'])
def test_a_file_that_cannot_be_read_is_made_anew(tmp_path: Path, timed: list[str], content: bytes) -> None:
    path = tmp_path / "ways.json"
    path.write_bytes(content)
    assert _take(path, ["slow", "quick"]) == "quick"
    assert _take(path, ["slow", "quick"]) == "quick"
    assert timed == ["slow", "quick"]
    assert [one.name for one in tmp_path.iterdir()] == ["ways.json"]


def test_where_nothing_can_be_written_ways_are_timed_each_time(tmp_path: Path, timed: list[str]) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    path = tmp_path / "file" / "ways.json"
    assert [_take(path, ["slow", "quick"]) for _ in range(2)] == ["quick", "quick"]
    assert len(timed) == 4


def test_a_device_may_have_no_room_for_the_first_way(timed: list[str]) -> None:
    """Consumer cards have less than half of the shared memory of the device that the first way is for."""
    from triton.runtime.errors import OutOfResources

    from kodkod_engine.kernels.gpu.tuning import Tuner

    def run(way: str) -> torch.Tensor:
        if way == "quick":
            raise OutOfResources(131_072, 101_376, "shared memory")
        return torch.zeros(1)

    tuner = Tuner(torch.device("cuda"))
    assert tuner.quickest("shape", ["quick", "slow", "wrong"], run) == "slow"
    assert timed == ["slow", "wrong"]
    with pytest.raises(OutOfResources):
        tuner.quickest("other shape", ["quick"], run)


def test_names_are_the_same_in_every_process() -> None:
    from kodkod_engine.kernels.gpu.latent_plans import TILES, WHOLE_TILES, Plan
    from kodkod_engine.kernels.gpu.thin_linear import InOneKernel, by_library
    from kodkod_engine.kernels.gpu.tuning import name_of

    assert name_of(by_library) == "by_library"
    assert name_of(InOneKernel(2, 8)) == repr(InOneKernel(2, 8))
    names = {name_of(Plan(tile, splits)) for tile in (*TILES, *WHOLE_TILES) for splits in (1, 2)}
    assert len(names) == 2 * len(TILES + WHOLE_TILES)
