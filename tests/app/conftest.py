"""A home of its own for every test, a project with a fault, recordings, and the command run in this process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kodkod_app.cli import main

FAULTY = "def add(a, b):\n    return a - b\n"
MENDED = "def add(a, b):\n    return a + b\n"
TESTS = "from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
QUICK_TESTS = '[tools]\ntest_command = ["{python}", "-c", "import test_calc; test_calc.test_add()"]\n'
"""The project's test without a runner: an exit code, in a fraction of the time."""

LITE_CONFIG = Path(__file__).parents[1] / "engine" / "data" / "longcat_flash_lite_config.json"

Turn = dict[str, Any]


def turn(text: str = "", *calls: tuple[str, dict[str, Any]]) -> Turn:
    """One line of a recording."""
    return {"text": text, "calls": [{"name": name, "arguments": arguments} for name, arguments in calls]}


LOOK = turn("I look.", ("view", {"path": "calc.py"}))
MEND = turn("Mend it.", ("edit", {"path": "calc.py", "old": "return a - b", "new": "return a + b"}))
FINISH = turn("", ("finish", {"summary": "add adds"}))


def shell(command: str) -> Turn:
    """A turn that runs a command."""
    return turn("", ("shell", {"command": command}))


def git(folder: Path, *arguments: str) -> str:
    """Run git; its output."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def lite_folder(tmp_path: Path) -> Path:
    """The published config, and no weights yet."""
    folder = tmp_path / "lite"
    folder.mkdir()
    shutil.copyfile(LITE_CONFIG, folder / "config.json")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kodkod keeps what is its own, instead of the person's folders."""
    for name in [name for name in os.environ if name.startswith("KODKOD_") or name == "VIRTUAL_ENV"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KODKOD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def settings_file(home: Path) -> Path:
    """The person's settings; its folder is there."""
    path = home / "config" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one fault and a test that shows it."""
    folder = (tmp_path / "project").resolve()
    folder.mkdir()
    (folder / "calc.py").write_text(FAULTY)
    (folder / "test_calc.py").write_text(TESTS)
    (folder / ".gitignore").write_text("__pycache__/\n.kodkod/\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    (folder / ".kodkod").mkdir()
    (folder / ".kodkod" / "config.toml").write_text(QUICK_TESTS.format(python=sys.executable))
    return folder


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., str]:
    """Writes a recording; returns its name as a model."""

    def write(*turns: Turn) -> str:
        path = tmp_path / "recording.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in turns))
        return f"script:{path}"

    return write


@pytest.fixture
def kodkod(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command in this process."""

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        code = left.value.code
        assert isinstance(code, int)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run
