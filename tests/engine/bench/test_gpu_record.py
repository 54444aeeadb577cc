"""The record of a run on a device: what a part that fails leaves in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="the benchmark needs Triton")

ROOT = Path(__file__).parents[3]


def test_a_fault_is_kept_without_the_machines_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "engine" / "bench"))
    from gpu_record import Record

    def failing() -> Iterator[dict[str, Any]]:
        yield {"step_ms": 1.0}
        raise ValueError(f"no room for {ROOT}/engine/bench/gpu.py")

    record = Record(tmp_path, 60, {"what": "nothing"})
    record.measure("part", failing, 0)
    kept = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert kept["parts"] == {"part": [{"step_ms": 1.0}]}
    assert kept["faults"]["part"][-1] == "ValueError: no room for engine/bench/gpu.py"
    assert not [line for line in kept["faults"]["part"] if str(ROOT) in line]
