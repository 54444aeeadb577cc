"""Where a model goes is told in a line when the plan decided it, with what spares packing it at every start."""

from __future__ import annotations

from pathlib import Path

import pytest

from kodkod_app.bootstrap import bundled_model, settled_and_told
from kodkod_engine.config import EngineConfig
from kodkod_engine.placement import admission, settling
from kodkod_engine.placement.machine import GIB, Machine


def _told(monkeypatch: pytest.MonkeyPatch, folder: Path, host_gib: float) -> list[str]:
    monkeypatch.setattr(settling, "this_machine", lambda *_: Machine(host_gib * GIB, 40e9, 1e12))
    monkeypatch.setattr(admission, "available_bytes", lambda: host_gib * GIB)
    notes: list[str] = []
    assert settled_and_told(folder, EngineConfig(), notes.append).is_settled
    return notes


def test_what_is_packed_at_every_start_is_told_with_how_to_do_it_once(monkeypatch, lite_folder: Path) -> None:
    (note,) = _told(monkeypatch, lite_folder, 32)
    assert note.startswith(f"{lite_folder.name}: int4 on cpu, in memory, tables on the disk")
    assert note.endswith(
        f"packed while it loads, which kodkod convert {lite_folder} {lite_folder}-int4 --precision int4 does once"
    )


def test_what_is_kept_as_it_is_stored_needs_no_conversion(monkeypatch, lite_folder: Path) -> None:
    (note,) = _told(monkeypatch, lite_folder, 256)
    assert "bf16 on cpu" in note
    assert "convert" not in note
    assert "tokens/s expected of at most 4.68" in note
    assert note.endswith(f"; kodkod doctor -m {lite_folder} says what else would fit")


def test_of_a_small_model_nothing_is_told(monkeypatch) -> None:
    assert _told(monkeypatch, bundled_model(), 32) == []
