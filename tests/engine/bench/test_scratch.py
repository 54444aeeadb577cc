"""What a benchmark writes and removes: its own folder, and a record of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "engine" / "bench"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_a_folder_is_made_and_removed(tmp_path: Path) -> None:
    from scratch import scratch

    folder = tmp_path / "new" / "deep"
    with scratch(folder, "this"):
        (folder / "weights").write_bytes(b"gigabytes")
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), scratch(folder, "this"):
        raise KeyboardInterrupt
    assert not folder.exists()


def test_a_kept_folder_is_taken_for_the_same_alone(tmp_path: Path) -> None:
    from scratch import scratch

    folder = tmp_path / "kept"
    with scratch(folder, "four layers", keep=True):
        (folder / "weights").write_bytes(b"gigabytes")
    with (
        pytest.raises(SystemExit, match="was made for four layers, not for two layers; remove it"),
        scratch(folder, "two layers"),
    ):
        pass
    assert (folder / "weights").exists()
    with scratch(folder, "four layers"):
        assert (folder / "weights").exists()
    assert not folder.exists()


@pytest.mark.parametrize(
    "script",
    ["full_size.py", *(pytest.param(name, marks=pytest.mark.slow) for name in ("isolation.py", "read_ahead.py"))],
)
def test_a_checkpoint_of_ones_own_stays(tmp_path: Path, script: str) -> None:
    """A converted checkpoint was measured as if it were the benchmark's, and removed."""
    for name in ("converted.json", "config.json", "layer-00.safetensors"):
        (tmp_path / name).write_text("{}")
    command = [sys.executable, str(BENCH / script), "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "holds files that no benchmark made" in done.stderr
    assert len(list(tmp_path.iterdir())) == 3


def test_a_record_of_the_same_day_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import measure

    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "_kept", {})
    first = measure.keep("speed", {"figure": 1})
    assert measure.keep("speed", {"figure": 1, "more": 2}) == first, "the same has grown"
    before = first.read_bytes()
    monkeypatch.setattr(measure, "_kept", {})
    second = measure.keep("speed", {"figure": 2})
    assert first != second, "another run's stays"
    assert first.read_bytes() == before
    assert second.name.startswith(first.name[:10])
    assert second.name.endswith("-speed.json")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "new"], "--dry-run goes through everything without one"),
        (["--output", "file", "--dry-run"], "is no folder; name another"),
        pytest.param(
            ["--output", "new", "--dry-run", "--part", "nope"],
            "no part nope; there are: ceilings; equality",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_gpu_script_says_what_it_cannot_do(tmp_path: Path, arguments: list[str], told: str) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    (tmp_path / "file").touch()
    command = [sys.executable, str(BENCH / "gpu.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
