"""How a coding task's work tree is laid out."""

from __future__ import annotations

import subprocess

import pytest

from kodkod_app.evaluation.coding import lay_out
from kodkod_app.evaluation.suite import World
from kodkod_app.own_git import OwnGitFault


def log_of(tree):
    return subprocess.run(
        ["git", "log", "--format=%s"], cwd=tree, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_a_world_is_the_same_whatever_the_persons_own_git_does(tmp_path, monkeypatch):
    hooks, elsewhere = tmp_path / "hooks", tmp_path / "elsewhere"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(elsewhere))  # as in a hook of another repository
    world = World.model_validate({"commits": [{"message": "", "files": {"a.txt": "a"}}], "files": {"b.txt": "b"}})
    lay_out(world, tmp_path / "tree")
    assert not elsewhere.exists()
    monkeypatch.delenv("GIT_DIR")
    assert log_of(tmp_path / "tree") == [""]


def test_a_world_that_git_refuses_is_told_in_one_line(tmp_path):
    world = World.model_validate({"files": {".git/index": "no index"}})
    with pytest.raises(OwnGitFault, match=r"^git add in [^\n]*tree: [^\n]+$"):
        lay_out(world, tmp_path / "tree")
