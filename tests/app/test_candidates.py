"""`--candidates` through the command's own path: copies of the work tree, boxes on them, reports, and what is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from kodkod_agent.session_folder import list_sessions
from kodkod_app import candidate_places, paths
from kodkod_app.bootstrap import Model
from kodkod_app.headless import run_headless
from kodkod_app.report_text import TextRenderer
from kodkod_app.session_opening import RunOptions
from kodkod_app.settings import load_settings
from kodkod_app.stream_json import StreamJsonRenderer
from kodkod_engine.backends.scripted import replay
from kodkod_sandbox import landlock
from kodkod_sandbox.owner import Owner
from reachable import let_others_in

from .conftest import MENDED, git
from .session_helpers import CONTEXT_TOKENS, FINISH, LOOK, TOKENIZER, call, open_scripted, says, turn_ids


def edit(new):
    return says("", call("edit", path="calc.py", old="a - b", new=new))


WRONG, RIGHT = edit("a * b"), edit("a + b")
BOXES = [
    "none",
    pytest.param("landlock", marks=pytest.mark.skipif(landlock.missing() is not None, reason=str(landlock.missing()))),
]


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Where copies are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    let_others_in(tmp_path)  # a box's user may be another than root
    return folder / f"kodkod-copies-{os.geteuid()}"


@pytest.fixture
def fix(project):
    """Runs a prompt on the project with a model that says these turns, one after another."""

    def run(renderer, *turns, sandbox="none", **candidates):
        def open_model(_name, _config):
            script = replay(turn_ids(turn) for turn in turns)
            return Model("scripted", open_scripted(script, TOKENIZER, CONTEXT_TOKENS), TOKENIZER)

        flags = {"sandbox": sandbox, "candidates": candidates, "agent": {"attended": False, "max_verifications": 1}}
        settings = load_settings(project, trusted=True, environment={}, flags=flags)
        return run_headless(RunOptions(project, settings, "add subtracts"), renderer, open_model)

    return run


@pytest.mark.parametrize("sandbox", BOXES)
def test_a_later_candidate_mends_it(fix, project, copies, capsys, sandbox):
    index = (project / ".git" / "index").read_bytes()
    code = fix(
        TextRenderer(), LOOK, WRONG, FINISH, edit("b"), FINISH, RIGHT, FINISH, sandbox=sandbox, count=4, at_once=1
    )
    out, err = capsys.readouterr()
    assert code == 0, out + err
    assert (project / "calc.py").read_text() == MENDED
    assert "candidate 1: calc.py: a - b → a * b  " in err
    assert "candidate 3: calc.py: a - b → a + b  passes" in err
    assert "candidates    candidate 3 of 3 passes, 5 test runs" in out
    assert list(copies.iterdir()) == []
    assert (project / ".git" / "index").read_bytes() == index
    assert git(project, "status", "--porcelain") == " M calc.py\n"
    kept = list_sessions(paths.sessions_folder())
    assert sorted(info.forked_from is None for info in kept) == [False, False, True]


def test_a_shallow_repository_has_candidates_too(fix, project, tmp_path, copies, capsys):
    git(project, "clone", "-q", "--depth=1", f"file://{project}", str(tmp_path / "shallow"))
    shutil.rmtree(project / ".git")
    (tmp_path / "shallow" / ".git").rename(project / ".git")
    assert fix(TextRenderer(), WRONG, FINISH, RIGHT, FINISH, count=2) == 0, capsys.readouterr()
    assert (project / "calc.py").read_text() == MENDED


def test_the_result_tells_of_every_candidate(fix, capsys):
    assert fix(StreamJsonRenderer(), LOOK, WRONG, FINISH, RIGHT, FINISH, count=3, at_once=1) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    result = entries[-1]
    assert (result["winner"], result["test_runs"], [one["status"] for one in result["candidates"]]) == (
        2,
        4,
        ["unverified", "done"],
    )
    assert [one["candidate"]["number"] for one in entries if one.get("subtype") == "candidate"] == [1, 2]


def test_none_passes_is_3(fix, project, capsys):
    assert fix(TextRenderer(), LOOK, WRONG, FINISH, edit("b"), FINISH, count=2) == 3
    assert "candidates    none of 2 passes" in capsys.readouterr().out


def test_what_is_installed_as_it_lies_is_shadowed_by_the_copy(fix, project, copies):
    """A test that looks where its module is from."""
    check = "import calc, os; calc.__file__.startswith(os.getcwd()) or exit(9); exit(calc.add(1, 2) != 3)"
    environment = f"import sys; sys.path.append({str(project)!r}); {check}"
    config = f"[tools]\ntest_command = {json.dumps([sys.executable, '-c', environment])}\n"
    (project / ".kodkod" / "config.toml").write_text(config)
    assert fix(TextRenderer(), WRONG, FINISH, RIGHT, FINISH, count=2) == 0


def test_copies_of_a_killed_kodkod_are_removed(copies):
    with candidate_places.copy_folder() as living:
        done = subprocess.run(
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=False, capture_output=True
        )
        assert done.returncode == -9
        current = Owner.current()
        dead = Owner(2**22 - 1, 1, current.namespace, current.boot)
        left = copies / f"{dead}.0badcafe"
        (left / "tree").mkdir(parents=True)
        (left / "tree").chmod(0)
        other = copies / "notes"
        other.mkdir()
        with candidate_places.copy_folder() as next_one:
            assert not left.exists()
            assert all(path.is_dir() for path in (living, next_one, other))
    assert [path.name for path in copies.iterdir()] == ["notes"]


def test_a_folder_that_others_may_write_to_is_not_used(copies):
    copies.mkdir()
    copies.chmod(0o777)
    with pytest.raises(candidate_places.NoRoomForCopies, match="is not a folder of this user alone"):
        candidate_places.copy_folder().__enter__()


def test_how_many_is_a_setting(kodkod, project, record):
    found = kodkod("fix", "-C", project, "-m", record(), "--issue", "x", "--candidates", 0)
    assert (found.code, "the command line: candidates.count" in found.err) == (2, True)
