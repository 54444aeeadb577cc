"""git in folders of our own: whatever the person's git is told to do."""

from __future__ import annotations

import pytest

from kodkod_app.demonstration import example_copy
from kodkod_app.own_git import OwnGitFault, begin_repository, own_git


def test_an_example_is_copied_whatever_the_persons_hooks_say(tmp_path, monkeypatch):
    hooks, example = tmp_path / "hooks", tmp_path / "example"
    for folder in (hooks, example):
        folder.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\necho not by my rules >&2\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n")
    (example / "calc.py").write_text("")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "another"))
    with example_copy(example, ()) as broken:
        assert own_git(broken.tree, "ls-files").split() == ["calc.py"]
        assert own_git(broken.tree, "log", "--format=%an %s").strip() == "kodkod as it is"
    assert not (tmp_path / "another").exists()


def test_what_git_refuses_is_one_line(tmp_path):
    begin_repository(tmp_path)
    with pytest.raises(OwnGitFault, match=r"^git switch in [^\n]*: [^\n]+$"):
        own_git(tmp_path, "switch", "none")


def test_no_git_is_told_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OwnGitFault, match=r"install git$"):
        begin_repository(tmp_path)
