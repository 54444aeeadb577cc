"""What a project puts in the place of the files that we heed: nothing of it is waited for, or read without end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kodkod_app.python_environment import find_environment
from kodkod_app.settings import SettingsFault, load_settings
from kodkod_app.trust import read_asked
from kodkod_tools.mcp.config import read_project_file
from kodkod_tools.small_files import read_small
from kodkod_tools.walk import walk


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def silent(path: Path) -> None:
    os.mkfifo(path)


@pytest.fixture(params=[endless, silent])
def put(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Puts something in a file's place."""
    return request.param


def test_files_are_read_and_nothing_else(tmp_path: Path, put: Callable[[Path], None]) -> None:
    put(tmp_path / "odd")
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_small(tmp_path / "link", 5) == b"12345"
    for path, options in (("odd", {}), ("file", {"max_bytes": 4}), ("link", {"follows_links": False}), ("none", {})):
        with pytest.raises(OSError):
            read_small(tmp_path / path, **{"max_bytes": 5, **options})


@pytest.mark.timeout(20)
def test_a_project_of_such_files_is_opened(tmp_path: Path, put: Callable[[Path], None]) -> None:
    (tmp_path / ".kodkod").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    for name in (".gitignore", ".mcp.json", ".venv/pyvenv.cfg"):
        put(tmp_path / name)
    (tmp_path / "a.py").touch()
    assert "a.py" in list(walk(tmp_path))
    assert "cannot be read" in read_project_file(tmp_path).faults[0]
    assert read_asked(tmp_path).fingerprint
    find_environment(tmp_path, None, {})
    put(tmp_path / ".kodkod" / "config.toml")
    with pytest.raises(SettingsFault, match="it is no plain file"):
        load_settings(tmp_path, trusted=False, environment={})
