"""Removing what commands made, whatever they made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kodkod_sandbox.removal import remove_tree


def test_folders_deeper_than_python_calls_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(2_500):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    try:
        remove_tree(top)
        assert not top.exists()
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)  # what pytest removes folders with cannot


def test_closed_folders_are_removed_and_links_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("")
    (tmp_path / "mine").chmod(0o555)
    top = tmp_path / "top"
    (top / "a" / "b" / "c").mkdir(parents=True)
    for place in ("link", "a/link", "a/b/link"):
        (top / place).symlink_to(tmp_path / "mine")
    (top / "a" / "b" / "c").chmod(0)
    (top / "a" / "b").chmod(0o555)
    (top / "a").chmod(0)
    remove_tree(top)
    assert not top.exists()
    assert (tmp_path / "mine" / "kept").exists()
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o555


def test_what_is_not_there_or_no_folder_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("none", "file", "link"):
        remove_tree(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
