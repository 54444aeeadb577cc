"""The snapshots' own index: what it takes for changed, and what stays out of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.conftest import close_folder
from kodkod_agent.private_git import find_repository, open_private
from kodkod_agent.private_index import Changes, PrivateIndex

Opener = Callable[[], PrivateIndex]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "project"
    tree.mkdir()
    git(tree, "init", "--quiet")
    (tree / ".gitignore").write_text("*.log\n")
    (tree / "a.py").write_text("print(1)\n")
    return tree


@pytest.fixture
def opened(tree: Path, tmp_path: Path) -> Opener:
    """Each time anew, over the same folder."""

    def open_index() -> PrivateIndex:
        folder = tmp_path / "session" / "snapshots.git"
        repository = find_repository(tree, 60.0)
        private = open_private(folder, tree, repository, 60.0)
        return PrivateIndex(folder, tree, private, repository, max_file_bytes=100)

    return open_index


def git(tree: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True)


def names(changes: Changes) -> dict[bytes, bool]:
    """What is taken, and whether it is there."""
    return {name: status is not None for name, status in changes.taken.items()}


def test_only_what_differs_is_a_change(tree: Path, opened: Opener) -> None:
    index = opened()
    assert names(index.changes()) == {b".gitignore": True, b"a.py": True}
    index.record(index.changes())
    assert names(index.changes()) == {}
    (tree / "a.py").write_text("print(22)\n")
    (tree / "b.py").write_text("new\n")
    (tree / "x.log").write_text("ignored\n")
    (tree / ".gitignore").unlink()
    assert names(index.changes()) == {b".gitignore": False, b"a.py": True, b"b.py": True, b"x.log": True}, (
        "nothing ignores any more"
    )


def test_its_mark_changes_with_its_content_alone(tree: Path, opened: Opener) -> None:
    index = opened()
    assert index.mark() == b""
    index.record(index.changes())
    first = index.mark()
    assert first
    index.changes()
    assert index.mark() == opened().mark() == first
    (tree / "a.py").write_text("print(22)\n")
    assert index.mark() == first
    index.record(index.changes())
    assert index.mark() != first


def test_what_is_too_large_or_another_repository_is_left_out(tree: Path, opened: Opener) -> None:
    index = opened()
    index.record(index.changes())
    (tree / "a.py").write_text("#" * 101)
    (tree / "just.py").write_text("#" * 100)
    git(tree, "init", "--quiet", "inner")
    (tree / "inner" / "b.py").write_text("")
    changes = index.changes()
    assert names(changes) == {b"just.py": True}
    assert list(changes.left_out) == [b"a.py", b"inner/"]
    assert changes.lost == [b"a.py"], "it was taken once, and has to be taken out"
    index.record(changes)
    (tree / "a.py").write_text("")
    assert names(index.changes()) == {b"a.py": True}


def test_what_nobody_can_look_at_is_left_out(tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder whose names alone may be read, git tells what is in it."""
    (tree / "data").mkdir()
    (tree / "data" / "x").write_text("x")
    index = opened()
    close_folder(tree / "data", monkeypatch)
    changes = index.changes()
    assert set(changes.taken) == {b".gitignore", b"a.py"}
    assert changes.left_out == [b"data/x"]


def test_what_is_forgotten_is_new_again_and_stays_where_it_is(tree: Path, opened: Opener) -> None:
    index = opened()
    index.record(index.changes())
    index.forget([b"a.py"])
    assert names(index.changes()) == {b"a.py": True}
    assert (tree / "a.py").exists()
    index.forget([])


def test_what_the_user_tracks_counts_ignored_or_not(tree: Path, opened: Opener) -> None:
    (tree / "kept.log").write_text("1\n")
    index = opened()
    index.record(index.changes())
    git(tree, "add", "--force", "kept.log")
    (tree / "kept.log").write_text("22\n")
    assert names(index.changes()) == {b"kept.log": True}


def test_what_lies_behind_a_link_is_not_the_projects(tree: Path, opened: Opener, tmp_path: Path) -> None:
    (tree / "sub").mkdir()
    (tree / "sub" / "b.py").write_text("")
    index = opened()
    index.record(index.changes())
    (tree / "sub").rename(tmp_path / "elsewhere")
    (tree / "sub").symlink_to(tmp_path / "elsewhere")
    assert names(index.changes())[b"sub"], "the link itself"
    assert not names(index.changes()).get(b"sub/b.py"), "what lies behind it is elsewhere"
    index.record(index.changes())
    assert names(index.changes()) == {}


def test_many_or_long_changes_are_not_few(tree: Path) -> None:
    status = (tree / "a.py").stat()
    assert Changes({b"%d" % number: status for number in range(64)}, ()).are_few
    assert not Changes({b"%d" % number: status for number in range(65)}, ()).are_few
    (tree / "long").write_bytes(bytes(1024**2 + 1))
    assert not Changes({b"long": (tree / "long").stat()}, ()).are_few
    assert Changes({b"gone": None}, ()).are_few
