"""Which folders can be the work tree of a session."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kodkod_agent import fitness
from kodkod_agent.errors import WorkTreeUnfit
from kodkod_agent.fitness import require_fit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    for name in ("a.py", "inner/b.py", "inner/deep/c.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    (folder / "round").symlink_to(folder)
    (folder / "nowhere").symlink_to("not there")
    return folder


@pytest.mark.parametrize(("limit", "value", "fits"), [
    ("MAX_FILES", 4, True), ("MAX_FILES", 3, False), ("MAX_BYTES", 4000, True), ("MAX_BYTES", 2999, False),
])  # fmt: skip
def test_a_folder_without_git_may_hold_only_so_much(
    tree: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, fits: bool
) -> None:
    """Links are counted and not followed."""
    monkeypatch.setattr(fitness, limit, value)
    if fits:
        require_fit(tree)
        return
    with pytest.raises(WorkTreeUnfit, match=r"is no git repository and holds more than .*; go to the project's folder"):
        require_fit(tree)


def test_a_folder_below_a_line_break_is_named_on_one_line(tree: Path) -> None:
    folder = tree / "a\nb" / "c"
    folder.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    with pytest.raises(WorkTreeUnfit, match=r"a\\nb/c' has a line break in it; rename the folder"):
        require_fit(folder)


def test_a_repository_may_hold_anything(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its history is copied by nobody, and what is no part of it is ignored."""
    monkeypatch.setattr(fitness, "MAX_FILES", 0)
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    require_fit(tree)
    require_fit(tree / "inner")


def test_a_repository_that_cannot_be_written_to_is_told_before_anything_is_begun(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that is read-only, or another's repository."""
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    objects = tree / ".git" / "objects"
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != objects)
    with pytest.raises(WorkTreeUnfit, match=r"\.git/objects, .* cannot be written to; allow it, or work in a clone"):
        require_fit(tree / "inner")
