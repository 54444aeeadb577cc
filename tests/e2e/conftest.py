"""A real package from the package index with one fault in it, as a person's repository in the middle of other work."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from reachable import let_others_in

PACKAGE, VERSION = "more-itertools", "10.5.0"
SOUND = "    return chain([value], iterator)\n"
FAULTY = "    return chain(iterator, [value])\n"
FILE = "more_itertools/recipes.py"
TARGET = "tests/test_recipes.py::PrependTests"


def fetch(name: str, version: str) -> Path:
    """The source archive of a release, fetched once for this machine."""
    folder = platformdirs.user_cache_path("kodkod-tests", ensure_exists=True)
    path = folder / f"{name.replace('-', '_')}-{version}.tar.gz"
    for known in (path, folder / f"{name}-{version}.tar.gz"):
        if known.is_file():
            return known
    command = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), f"{name}=={version}"]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *command], check=True, timeout=240)
    return next(known for known in (path, folder / f"{name}-{version}.tar.gz") if known.is_file())


def git(folder: Path, *arguments: str) -> str:
    """Run git; its output."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kodkod keeps what is its own."""
    for name in [name for name in os.environ if name.startswith("KODKOD_") or name == "VIRTUAL_ENV"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KODKOD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The package with a fault, on a branch, with something staged, changed, stashed, untracked and ignored."""
    with tarfile.open(fetch(PACKAGE, VERSION)) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = (tmp_path / f"{PACKAGE}-{VERSION}").resolve()
    let_others_in(folder)  # a box's user is another than root, and must be able to come here
    source = (folder / FILE).read_text()
    assert source.count(SOUND) == 1
    (folder / FILE).write_text(source.replace(SOUND, FAULTY))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "as published, with a fault")
    git(folder, "checkout", "-q", "-b", "work")
    (folder / "README.rst").write_text("stashed\n")
    git(folder, "stash", "-q")
    (folder / "LICENSE").write_text("changed, not staged\n")
    (folder / "Makefile").write_text("staged\n")
    git(folder, "add", "Makefile")
    (folder / "notes of mine.txt").write_bytes(b"untracked\r\n\xff")
    (folder / ".git" / "info" / "exclude").write_text("/ignored/\n")
    (folder / "ignored").mkdir()
    (folder / "ignored" / "data").write_text("ignored\n")
    return folder


def files_of(folder: Path) -> dict[str, str]:
    """Path -> digest of every file outside of git's own folder; what Python and pytest keep for themselves left out."""
    own = {".git", "__pycache__", ".pytest_cache"}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and own.isdisjoint(path.relative_to(folder).parts)
    }


def users_git(folder: Path) -> dict[str, bytes | str]:
    """What of git is the person's: HEAD, index, configuration, logs, and every reference that is not kodkod's."""
    kept: dict[str, bytes | str] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in [*(folder / ".git").glob("*"), *(folder / ".git" / "logs").rglob("*")]
        if path.is_file()
    }
    references = git(folder, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    kept["references"] = "\n".join(line for line in references if not line.startswith("refs/kodkod/"))
    kept["stash"] = git(folder, "stash", "list", "-p")
    return kept


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a recorded turn."""

    name: str
    arguments: Mapping[str, Any]


def turn(text: str, *calls: Call) -> dict[str, Any]:
    """One line of a recording."""
    return {"text": text, "calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]}


EDIT = Call("edit", {"path": FILE, "old": FAULTY.strip(), "new": SOUND.strip()})
FINISH = Call("finish", {"summary": "prepend puts the value first again."})


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., str]:
    """Writes a recording; returns its name as a model."""

    def write(*turns: dict[str, Any]) -> str:
        path = tmp_path / "recording.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in turns))
        return f"script:{path}"

    return write


def command(*arguments: object) -> list[str]:
    """`kodkod`, as a process of its own."""
    return [sys.executable, "-m", "kodkod_app", *map(str, arguments)]
